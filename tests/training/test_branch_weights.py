"""Weights of the blend and alignment, on branches whose answers are known."""

from __future__ import annotations

import dataclasses
import json
import logging
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from gfmpot.config import from_mapping
from gfmpot.data import FrameSet
from gfmpot.data.frame import Frame
from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig, load, save
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.branch_weights import SILENT
from gfmpot.models.potential import rebuilt
from gfmpot.models.references import UnsupportedElementsError
from gfmpot.ranks.launch import Launch
from gfmpot.training import alignment
from gfmpot.training.alignment import fit_alignment
from gfmpot.training.branch_cache import BranchCache
from gfmpot.training.branch_weights import WeightConfig, train_branch_weights
from gfmpot.training.config import TrainConfig
from gfmpot.training.corpus import BranchCorpus
from gfmpot.training.finish import blended, own_share, with_alignment, write_card
from gfmpot.training.metrics import blend_errors

E0 = {"H": -1.0, "C": -3.0, "O": -2.0, "Cu": 0.5}
FIRST, SECOND, METAL = "first", "second", "metal"
METAL_INDEX = 2


@pytest.fixture
def model() -> Potential:
    """Two branches for H, C, O and one for Cu alone."""
    config = PotentialConfig(
        backbone=PaiNNConfig(hidden=8, layers=1, radial_basis=4, cutoff=4.0),
        head=HeadConfig(shared_layers=0, branch_layers=1, branch_width=8),
    )
    organic = {symbol: E0[symbol] for symbol in ("H", "C", "O")}
    branches = [
        BranchInfo(FIRST, e0=organic, alignment={"C": 0.3}, scale=2.0),
        BranchInfo(SECOND, e0={s: e - 1.0 for s, e in organic.items()}, alignment={"H": -0.2}, scale=2.0),
        BranchInfo(METAL, e0={"Cu": 0.5}),
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Potential(config, branches, E0).double()


def frame(seed: int, numbers: tuple[int, ...] = (6, 1, 1, 8)) -> Frame:
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(numbers)
    grid = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)], dtype=float)[: len(numbers)]
    return Frame(
        numbers=chosen,
        positions=1.5 * grid + rng.normal(scale=0.1, size=grid.shape),
        energy=rng.normal(),
        forces=rng.normal(size=grid.shape),
        group=str(seed),
    )


def frames(n: int, first: int = 0, numbers: tuple[int, ...] = (6, 1, 1, 8)) -> FrameSet:
    return FrameSet.from_frames([frame(first + i, numbers) for i in range(n)])


def graphs(model: Potential, n: int, branch: int = 0, first: int = 0) -> list[AtomGraph]:
    data = frames(n, first)
    return [data.graph(i, model.cutoff, branch) for i in range(n)]


def answered_by(model: Potential, head: int, structures: list[AtomGraph]) -> list[AtomGraph]:
    """Labels on the own branch's scale that are, on the common scale, what another head says."""
    found = []
    for graph in structures:
        aligned, forces = model.every_branch(graph)
        own = int(graph.branch[0])  # type: ignore[index]
        to_own = (model.references.totals(graph) - model.references.shifts(graph))[:, own]
        found.append(graph.replace(energy=aligned[:, head] + to_own, forces=forces[:, :, head]))  # type: ignore[index]
    return found


@pytest.mark.parametrize("kind", ["mae", "mse"])
def test_the_teacher_decides_who_answers(model: Potential, kind: str) -> None:
    """Structures of the first branch whose labels are what the second says."""
    known = answered_by(model, 1, graphs(model, 12))
    unseen = answered_by(model, 1, graphs(model, 6, first=100))
    for teacher, winner in (("label", 1), ("branch", 0)):
        settings = from_mapping(WeightConfig, {"kind": kind, "teacher": teacher, "epochs": 150, "learning_rate": 0.01})
        copy = rebuilt(model)
        fit = train_branch_weights(copy, known, unseen, settings)
        weights = copy.branch_weights(AtomGraph.batch(unseen))
        assert weights[:, winner].min() > 0.9
        assert weights[:, 2].max() == 0.0
        assert fit.after < 0.2 * fit.before
        own = fit.branches[FIRST]
        assert set(fit.branches) == {FIRST}
        assert own.own_weight == pytest.approx(weights[:, 0].mean().item())
        assert (own.best_head, own.structures) == (SECOND, 6)
        assert own.best_energy_mae == pytest.approx(0.0, abs=1e-9)


def test_losses_are_errors_of_the_blend(model: Potential) -> None:
    known = graphs(model, 6) + graphs(model, 5, branch=1, first=50)
    absolute = train_branch_weights(rebuilt(model), known, known, WeightConfig(epochs=1, force_weight=0.5))
    errors = blend_errors(model, known)
    for name, n in ((FIRST, 6), (SECOND, 5)):
        expected = errors[name]["energy_mae"] + 0.5 * errors[name]["forces_mae"]
        assert absolute.branches[name].loss_before == pytest.approx(expected, rel=1e-9)
        assert absolute.branches[name].structures == n
    both = [absolute.branches[name].loss_before for name in (FIRST, SECOND)]
    assert absolute.before == pytest.approx((6 * both[0] + 5 * both[1]) / 11, rel=1e-12)

    squared = train_branch_weights(rebuilt(model), known, known, WeightConfig("mse", epochs=1, force_weight=0.5))
    graph = AtomGraph.batch(known)
    said = model(graph)
    own = graph.branch.unsqueeze(1)  # type: ignore[union-attr]
    scale = model.references.totals(graph) - model.references.shifts(graph)
    blend_scale = torch.tensor([sum(E0[s] for s in ("C", "H", "H", "O"))] * 11, dtype=torch.float64)
    energy = (said.energy - blend_scale + scale.gather(1, own).squeeze(1) - graph.energy) / 4
    force = (said.forces - graph.forces).square().sum(dim=1)
    assert squared.before == pytest.approx(float(energy.square().mean() + 0.5 * force.mean()), rel=1e-9)


def test_what_is_not_labelled_does_not_count(model: Potential) -> None:
    known, unseen = graphs(model, 8), graphs(model, 4, first=100)
    nan = [graph.replace(energy=graph.energy * torch.nan, forces=graph.forces * torch.nan) for graph in known]  # type: ignore[operator]
    settings = WeightConfig(epochs=5)
    plain, padded = rebuilt(model), rebuilt(model)
    first = train_branch_weights(plain, known, unseen, settings)
    second = train_branch_weights(padded, known + nan, unseen + nan, settings)
    assert second.after == pytest.approx(first.after, rel=1e-12)
    for name, tensor in plain.weights.state_dict().items():
        torch.testing.assert_close(padded.weights.state_dict()[name], tensor, rtol=0, atol=1e-12)
    no_forces = [graph.replace(forces=graph.forces * torch.nan) for graph in unseen]  # type: ignore[operator]
    fit = train_branch_weights(rebuilt(model), known, no_forces, settings).branches[FIRST]
    assert fit.forces_mae is None
    assert fit.best_forces_mae is None
    assert fit.energy_mae is not None
    with pytest.raises(ValueError, match=r"the held-out structures .* have no energy and no forces"):
        train_branch_weights(rebuilt(model), known, nan, settings)


def test_branches_that_lack_an_element_have_no_say(model: Potential) -> None:
    known = graphs(model, 6)
    wild = rebuilt(model)
    with torch.no_grad():
        wild.heads.layers[-1].bias[METAL_INDEX] = torch.nan
    settings = WeightConfig(epochs=5)
    sane, fit = rebuilt(model), train_branch_weights(wild, known, known, settings)
    assert train_branch_weights(sane, known, known, settings) == fit
    assert fit_alignment(wild, known) == fit_alignment(model, known)
    with pytest.raises(UnsupportedElementsError, match="elements that its own branch lacks"):
        train_branch_weights(model, graphs(model, 1, branch=METAL_INDEX), known)


def test_weights_that_are_not_improved_stay(model: Potential) -> None:
    """Held-out structures want the first branch, the training structures the second."""
    known = answered_by(model, 1, graphs(model, 6))
    unseen = answered_by(model, 0, graphs(model, 6, first=100))
    train_branch_weights(model, unseen, unseen, WeightConfig(epochs=100, learning_rate=0.03))
    before = {name: tensor.clone() for name, tensor in model.weights.state_dict().items()}
    fit = train_branch_weights(model, known, unseen, WeightConfig(epochs=5, weight_decay=0.0))
    assert fit.after == fit.before
    for name, tensor in model.weights.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_giving_all_a_say_is_taken_back_if_it_does_not_help(model: Potential) -> None:
    """A branch that was silent and better so."""
    known = answered_by(model, 0, graphs(model, 6))
    model.weights.layers[-1].bias.data[1] = SILENT
    before = {name: tensor.clone() for name, tensor in model.weights.state_dict().items()}
    fit = train_branch_weights(model, known, known, WeightConfig(epochs=1, learning_rate=1e-6))
    assert fit.after == fit.before
    for name, tensor in model.weights.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_silent_branches_stay_silent_whoever_was_before(model: Potential) -> None:
    """Also if the other branch was silent, as one that was added is."""
    known = answered_by(model, 1, graphs(model, 6))
    for others in (0.0, SILENT):
        model.weights.layers[-1].bias.data[:] = others
        train_branch_weights(model, known, known, WeightConfig(epochs=2, silent=(model.branch_names[0],)))
        weights = torch.softmax(model.weights(torch.rand(5, 118)), dim=1)
        assert torch.equal(weights[:, 0], torch.zeros(5, dtype=torch.float64))


def test_progress_is_told_and_the_precision_stays(model: Potential) -> None:
    heard: list[tuple[str, float, str]] = []
    known = graphs(model, 4)
    single = rebuilt(model).float()
    train_branch_weights(single, known, known, WeightConfig(epochs=4), lambda *said: heard.append(said))
    assert [share for _, share, _ in heard] == [0.25, 0.5, 0.75, 1.0]
    assert "held-out" in heard[0][2]
    assert {p.dtype for p in single.parameters()} == {torch.float32}


def test_a_rank_may_have_no_structures(model: Potential) -> None:
    nothing = BranchCache.of(model, [])
    some = BranchCache.of(model, graphs(model, 2))
    for field in dataclasses.fields(BranchCache):
        empty, full = getattr(nothing, field.name), getattr(some, field.name)
        assert (len(empty), empty.shape[1:], empty.dtype) == (0, full.shape[1:], full.dtype), field.name


def test_alignment_of_one_branch_is_nothing(model: Potential) -> None:
    alone = Potential(model.config, model.branches[:1]).double()
    assert fit_alignment(alone, graphs(model, 2)) == [{"H": 0.0, "C": 0.0, "O": 0.0}]


def test_alignment_by_own_structures_whatever_a_few_of_them_say(model: Potential) -> None:
    """What a branch says of other branches' structures does not count, nor do single ones that are far off."""
    own = graphs(model, 40, branch=1, first=50)
    expected = fit_alignment(model, own)
    assert fit_alignment(model, own + graphs(model, 30)) == expected
    far = [g.replace(positions=g.positions * 0.5) for g in graphs(model, 2, branch=1, first=90)]
    learnt, _ = model.every_branch(AtomGraph.batch([*own[:2], *far]), derivatives=False)
    assert (learnt[2:, 0] - learnt[2:, 1]).abs().max() > 0.1
    found = fit_alignment(model, own + far)[1]
    assert found == pytest.approx(expected[1], abs=0.02)


def test_alignment_does_not_depend_on_how_structures_are_batched(
    model: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = graphs(model, 12) + graphs(model, 12, branch=1, first=50)
    whole = fit_alignment(model, known)
    monkeypatch.setattr(alignment, "BatchBudget", lambda max_edges: BatchBudget(max_structures=5))
    for found, expected in zip(fit_alignment(model, known), whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-12)
    assert max(abs(v) for v in whole[1].values()) > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "labels"}, "did you mean 'label'"),
        ({"kind": "maes"}, "did you mean 'mae'"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"force_weight": -1.0}, "must not be negative"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(WeightConfig, settings)


def test_settings_are_part_of_a_run_but_not_of_what_is_resumed() -> None:
    base = {"model": {"backbone": {"name": "painn"}}, "branches": [], "steps": 1}
    changed = from_mapping(TrainConfig, {**base, "branch_weights": {"kind": "mse", "teacher": "branch", "epochs": 7}})
    assert changed.branch_weights == WeightConfig("mse", "branch", epochs=7)
    assert changed.identity() == from_mapping(TrainConfig, base).identity()


def corpus(info: BranchInfo, first: int, numbers: tuple[int, ...] = (6, 1, 1, 8)) -> BranchCorpus:
    sides = {"train": frames(8, first, numbers), "valid": frames(5, first + 100, numbers)}
    return BranchCorpus(info, 1.0, {**sides, "test": frames(4, first + 200, numbers)}, {}, {"file": "0" * 64})


def corpora(model: Potential) -> list[BranchCorpus]:
    numbers = [(6, 1, 1, 8), (6, 1, 1, 8), (29, 29)]
    return [corpus(info, 10 * b, numbers[b]) for b, info in enumerate(model.branches)]


def test_blended_says_what_it_did(model: Potential, tmp_path: Path) -> None:
    described = rebuilt(model, metadata={"name": "toy", "metrics": {"branches": {FIRST: {"energy_mae": 0.1}}}})
    settings = WeightConfig(epochs=4, structures=6)
    told: list[str] = []
    result, fit = blended(described, corpora(model), settings, Launch(), watch=lambda what, *_: told.append(what))
    assert list(dict.fromkeys(told)) == [
        "alignment",
        "training structures",
        "held-out structures",
        "weights",
        "test structures",
    ]
    meta = load(save(result, tmp_path / "toy.safetensors")).metadata
    assert meta["name"] == "toy"
    assert meta["metrics"]["branches"] == {FIRST: {"energy_mae": 0.1}}
    assert meta["metrics"]["split"] == "test"
    assert set(meta["metrics"]["blend"]) == {FIRST, SECOND, METAL}
    assert meta["metrics"]["blend"][METAL]["own_weight"] == 1.0
    assert meta["branch_weights"]["settings"]["structures"] == 6
    assert meta["branch_weights"]["held_out_loss"] == fit.after
    assert meta["branch_weights"]["data"][SECOND] == {"file": "0" * 64}
    for name, tensor in model.state_dict().items():
        assert torch.equal(result.state_dict()[name], tensor) == (not name.startswith("weights.")), name
    assert result.branches[1].alignment != model.branches[1].alignment
    kept, _ = blended(described, corpora(model), settings, Launch(), align=False)
    assert [b.alignment for b in kept.branches] == [b.alignment for b in model.branches]


def test_ranks_share_structures_between_them(model: Potential) -> None:
    def energies(launch: Launch) -> list[float]:
        return [g.energy.item() for g in own_share(model, corpora(model), "train", 7, launch)]  # type: ignore[union-attr]

    parts = [energies(Launch(rank, 3, rank, 3)) for rank in range(3)]
    assert [len(part) for part in parts] == [9, 6, 6]
    assert sorted(chain.from_iterable(parts)) == sorted(energies(Launch()))


def test_structures_beyond_a_branch_are_left_out_and_counted(
    model: Potential, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = corpora(model)
    mixed[2] = corpus(model.branches[2], 0, (29, 8))
    with caplog.at_level(logging.WARNING):
        found = list(own_share(model, mixed, "valid", 100, Launch()))
    assert len(found) == 10
    assert "metal: left out 5 of 5 valid structures with elements that the branch lacks" in caplog.text


def test_card_without_all_labels(model: Potential, tmp_path: Path) -> None:
    metrics = {
        "split": "test",
        "branches": {FIRST: {"energy_mae": 0.012, "structures": 3.0}},
        "blend": {FIRST: {"energy_mae": 0.5, "own_weight": 0.25}},
    }
    meta = {"name": "toy", "description": "A test.", "training": {"steps": 3}, "metrics": metrics}
    meta["branch_weights"] = {"settings": {"structures": 20}}
    write_card(rebuilt(model, metadata=meta), tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text()
    assert f"| {FIRST} |  | 3 | 0 | 12 | – | – | – |" in text
    assert "at most 20 structures of each test split" in text
    assert f"| {METAL} |  | 1 | 0 | – | – | – | – |" in text
    assert "energy 500 meV/atom; mean weight of its own branch 0.25" in text


def test_metadata_is_plain_json(model: Potential) -> None:
    result, _ = blended(with_alignment(model, [{}, {}, {}]), corpora(model), WeightConfig(epochs=1), Launch())
    assert json.loads(json.dumps(result.metadata, allow_nan=False)) == result.metadata
