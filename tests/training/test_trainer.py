"""Training end to end on data made here: two metals by EMT and hydrocarbons by a pair potential."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from packed import write_packed

from gfmpot import GFMCalculator
from gfmpot.config import from_mapping
from gfmpot.data import FrameSet
from gfmpot.graph import AtomGraph
from gfmpot.models import Prediction, fingerprint, load, save
from gfmpot.models.potential import rebuilt
from gfmpot.ranks.launch import Launch
from gfmpot.ranks.signals import EndOfJob
from gfmpot.training.alignment import fit_alignment
from gfmpot.training.branch_weights import WeightConfig
from gfmpot.training.config import TrainConfig
from gfmpot.training.corpus import BranchData, SplitConfig, read_branch
from gfmpot.training.finish import blended, finish, with_alignment, write_card
from gfmpot.training.loader import Loader
from gfmpot.training.loss import LossConfig, label_counts, loss_sums
from gfmpot.training.trainer import Trainer

METALS, ORGANICS = "metals-emt", "organics-emt"


def metals(n: int) -> FrameSet:
    frames = []
    for seed in range(n):
        atoms = bulk(("Cu", "Al")[seed % 2], cubic=True)
        atoms.set_cell(atoms.cell * (0.95 + 0.1 * (seed % 7) / 6), scale_atoms=True)
        atoms.rattle(0.15, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
        frames.append(atoms)
    return FrameSet.from_atoms(frames)


def organics(n: int) -> FrameSet:
    frames = []
    for seed in range(n):
        atoms = molecule(("CH4", "C2H6", "C2H4", "H2O", "CH3OH")[seed % 5])
        atoms.rattle(0.08, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        atoms.info["spin"] = 1
        frames.append(atoms)
    return FrameSet.from_atoms(frames)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_packed(folder / "metals.npz", metals(120))
    write_packed(folder / "organics.npz", organics(120))
    return folder


def config(**changes: object) -> TrainConfig:
    branches = [
        {"name": METALS, "theory": "EMT", "files": ["metals.npz"], "share": 0.5, "min_structures_per_element": 5},
        {"name": ORGANICS, "theory": "EMT", "files": ["organics.npz"], "share": 0.5, "min_structures_per_element": 5},
    ]
    settings = {
        "model": {
            "backbone": {"name": "painn", "hidden": 16, "layers": 2, "radial_basis": 6, "cutoff": 4.0},
            "head": {"shared_layers": 0, "branch_layers": 1, "branch_width": 16},
        },
        "branches": branches,
        "steps": 150,
        "batch": {"structures": 8},
        "sampling": {"balance": "shares"},
        "optim": {"learning_rate": 3e-3, "warmup_steps": 10, "ema": 0.95},
        "split": {"valid": 0.15, "test": 0.15},
        "validate_every": 75,
        **changes,
    }
    return from_mapping(TrainConfig, settings)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    trainer = Trainer(config(), data, tmp_path_factory.mktemp("run"))
    trainer.start = trainer.validate()  # type: ignore[attr-defined]
    trainer.fit()
    return trainer


def test_training_lowers_errors(trained: Trainer) -> None:
    before, after = trained.start, trained.validate()  # type: ignore[attr-defined]
    for name in (METALS, ORGANICS):
        assert after[name]["forces_mae"] < 0.7 * before[name]["forces_mae"]


def test_beginning_with_a_model(trained: Trainer, data: Path, tmp_path: Path) -> None:
    """Of the model, its branch goes on where it was; a new branch begins anew, with units of its own."""
    path = str(save(trained.potential, tmp_path / "model.safetensors"))
    branches = config().branches
    renamed = (branches[0], dataclasses.replace(branches[1], name="others-emt"))
    run = dataclasses.replace(config(begin_with=path), branches=renamed)
    begun = Trainer(run, data, tmp_path / "run")
    assert begun.origin == {"name": "", "sha256": fingerprint(path), "hours": 0.0}
    before, after = trained.validate(), begun.validate()
    assert after[METALS] == pytest.approx(before[METALS])
    last, trained_last = begun.potential.heads.layers[-1].weight, trained.potential.heads.layers[-1].weight
    assert torch.equal(last[0], trained_last[0])  # type: ignore[index]
    assert not torch.equal(last[1], trained_last[1])  # type: ignore[index]
    assert begun.potential.branches[0].e0 == trained.potential.branches[0].e0
    with pytest.raises(ValueError, match="the model's head is"):
        Trainer(config(begin_with=path, model={**config().model, "head": {"branch_width": 8}}), data, tmp_path / "a")
    strangers = (dataclasses.replace(branches[0], name="x-emt"), dataclasses.replace(branches[1], name="y-emt"))
    with pytest.raises(ValueError, match="none of the branches x-emt, y-emt; it has metals-emt, organics-emt"):
        Trainer(dataclasses.replace(config(begin_with=path), branches=strangers), data, tmp_path / "b")


def test_the_start_keeps_its_share(trained: Trainer, data: Path, tmp_path: Path) -> None:
    path = str(save(trained.potential, tmp_path / "model.safetensors"))
    runs = {}
    for share in (0.0, 0.25, 0.25):  # and once more, of a run that is complete
        run = Trainer(config(begin_with=path, start_share=share, steps=4), data, tmp_path / str(share))
        assert run.fit()
        runs[share] = run.potential.state_dict()
    start = trained.potential.state_dict()
    moved = 0.0
    for name, tensor in runs[0.0].items():
        if name.startswith(("backbone.", "heads.")) and tensor.is_floating_point():
            expected = 0.25 * start[name] + 0.75 * tensor
            moved = max(moved, float((start[name] - tensor).abs().max()))
            torch.testing.assert_close(runs[0.25][name], expected, rtol=1e-6, atol=1e-7)
    assert moved > 1e-4
    with pytest.raises(ValueError, match="is a run with other settings"):
        Trainer(config(begin_with=path, start_share=0.5, steps=4), data, tmp_path / "0.25")
    assert "start_share" not in config().identity()
    branches = (config().branches[0], dataclasses.replace(config().branches[1], name="others-emt"))
    run = dataclasses.replace(config(begin_with=path, start_share=0.5), branches=branches)
    with pytest.raises(ValueError, match="has no weights of others-emt to keep a share of"):
        Trainer(run, data, tmp_path / "c")


def test_a_share_of_the_start_needs_one() -> None:
    with pytest.raises(ValueError, match="is a share of the weights of begin_with"):
        config(start_share=0.5)
    with pytest.raises(ValueError, match="at least 0 and less than 1, got 1"):
        config(begin_with="default", start_share=1.0)


def test_resuming_what_was_begun_with_another_model_is_refused(trained: Trainer, data: Path, tmp_path: Path) -> None:
    """Units and reference energies, by which the weights go, come from it."""
    path = tmp_path / "model.safetensors"
    save(trained.potential, path)
    Trainer(config(begin_with=str(path), steps=1), data, tmp_path / "run").fit()
    Trainer(config(begin_with=str(path), steps=1), data, tmp_path / "run")
    other = copy.deepcopy(trained.potential)
    other.heads.layers[-1].bias.data += 1.0  # type: ignore[index, union-attr]
    save(other, path)
    with pytest.raises(ValueError, match="was begun with another model than"):
        Trainer(config(begin_with=str(path), steps=1), data, tmp_path / "run")


def test_beginning_wider(trained: Trainer, data: Path, tmp_path: Path) -> None:
    """A network with more features begins with the same function, and all of it learns."""
    path = str(save(trained.potential, tmp_path / "model.safetensors"))
    model = config().model
    wider = {**model, "backbone": {**model["backbone"], "hidden": 2 * model["backbone"]["hidden"]}}
    begun = Trainer(config(begin_with=path, model=wider), data, tmp_path / "run")
    before, after = trained.validate(), begun.validate()
    for branch in (METALS, ORGANICS):
        assert after[branch]["forces_mae"] == pytest.approx(before[branch]["forces_mae"], rel=1e-4)
    start = {name: p.clone() for name, p in begun.potential.backbone.named_parameters()}
    begun.fit()
    assert all(not torch.equal(start[name], p) for name, p in begun.potential.backbone.named_parameters())
    narrower = {**model, "backbone": {**model["backbone"], "hidden": 8}}
    with pytest.raises(ValueError, match=r"backbone is .*\(a run may have more hidden features, and"):
        Trainer(config(begin_with=path, model=narrower), data, tmp_path / "other")


def test_beginning_with_more_radial_functions(trained: Trainer, data: Path, tmp_path: Path) -> None:
    path = str(save(trained.potential, tmp_path / "model.safetensors"))
    model = config().model
    size = trained.potential.config.backbone.radial_basis  # type: ignore[attr-defined]
    more = {**model, "backbone": {**model["backbone"], "distance_transform": "both", "radial_basis": 2 * size}}
    begun = Trainer(config(begin_with=path, model=more), data, tmp_path / "run")
    before, after = trained.validate(), begun.validate()
    for branch in (METALS, ORGANICS):
        assert after[branch]["forces_mae"] == pytest.approx(before[branch]["forces_mae"], rel=1e-4)
    filters = begun.potential.backbone.messages[0].filters.weight  # type: ignore[index, union-attr]
    begun.fit()
    assert filters[:, 1 + size :].abs().max() > 0


def test_silent_branches_neither_teach_nor_answer(trained: Trainer, data: Path) -> None:
    corpora, settings = trained.corpora, WeightConfig(structures=20, epochs=3, silent=(ORGANICS,))
    potential, fit = blended(trained.potential, corpora, settings, Launch())
    assert list(fit.branches) == [METALS]
    logits = potential.weights(torch.rand(4, 118))
    assert [potential.branch_names[b] for b in logits.argmin(dim=1)] == [ORGANICS] * 4
    assert torch.softmax(logits, dim=1).min() == 0
    with pytest.raises(ValueError, match="no branch 'organic-emt'; did you mean 'organics-emt'"):
        blended(trained.potential, corpora, dataclasses.replace(settings, silent=("organic-emt",)), Launch())


def test_graphs_are_kept(trained: Trainer) -> None:
    """The same batches, whether graphs are found again or not; what training caches on them is not kept."""
    make = lambda kept: Loader(  # noqa: E731
        trained._stream, trained.potential.config, trained.config.batch, unspecified_spin=0.5, threads=1, kept=kept
    )
    plain, keeping, few = make(0), make(1000), make(5)
    for start in (0, 0, 40, 0):
        batches = [loader.build(start, start + 16, start + 16) for loader in (plain, keeping, few)]
        for one in batches[1:]:
            for a, b in zip(one.parts, batches[0].parts, strict=True):
                assert torch.equal(a.positions, b.positions)
                assert torch.equal(a.edge_index, b.edge_index)
                assert torch.equal(a.spin, b.spin)
        for part in batches[1].parts:
            trained.potential.labelled(part)
    assert not any("_gradients" in vars(graph) for graph in keeping._kept.values())
    assert (len(plain._kept), len(few._kept)) == (0, 5)


def test_log_and_model_are_written(trained: Trainer) -> None:
    entries = [json.loads(line) for line in (trained.folder / "log.jsonl").read_text().splitlines()]
    valid = [entry for entry in entries if entry["kind"] == "valid"]
    assert [entry["step"] for entry in valid] == [75, 150]
    assert set(valid[0]["branches"]) == {METALS, ORGANICS}
    train = [entry for entry in entries if entry["kind"] == "train"]
    assert [entry["step"] for entry in train] == [20, 40, 60, 80, 100, 120, 140, 150]
    assert train[-1]["forces"][METALS] < train[0]["forces"][METALS]
    assert {"epoch/data", "epoch/forward", "epoch/backward", "epoch/optimizer"} <= set(train[0]["regions"])
    written = load(trained.folder / "model.safetensors")
    for name, tensor in trained.potential.state_dict().items():
        assert torch.equal(written.state_dict()[name], tensor)


def test_references_come_from_the_training_split_only(trained: Trainer, data: Path) -> None:
    frames = trained.corpora[0].splits["train"]
    assert len(frames) < 120
    assert trained.corpora[0].info.e0.keys() == {"Al", "Cu"}
    assert trained.corpora[0].info.n_structures == len(frames)


def test_what_is_not_trained_on_does_not_decide_references(tmp_path: Path) -> None:
    """A broken frame moves no reference energy, and an element of broken frames alone is not supported."""
    frames = metals(60)
    broken = molecule("CH4")
    broken.calc = SinglePointCalculator(broken, energy=1e5, forces=np.full((5, 3), 1e3))
    both = FrameSet.join("both", [frames, FrameSet.from_atoms([broken] * 60)])
    write_packed(tmp_path / "metals.npz", frames)
    write_packed(tmp_path / "both.npz", both)
    clean, found = (
        read_branch(BranchData((f"{name}.npz",), name="a-emt"), [tmp_path / f"{name}.npz"], SplitConfig(0.2, 0.2))
        for name in ("metals", "both")
    )
    assert found.info.e0.keys() == {"Al", "Cu"}
    assert found.info.e0 == pytest.approx(clean.info.e0)
    assert found.left_out == {"force above 50 eV/Å": 60}


class StopAfter(EndOfJob):
    """The scheduler's signal, after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left <= 0


MUON = {"method": "muon", "learning_rate": 3e-3, "matrix_learning_rate": 1e-2, "warmup_steps": 5, "ema": 0.95}


def wider(**changes: object) -> TrainConfig:
    """With features enough for matrices of their own."""
    model = config().model
    return config(model={**model, "backbone": {**model["backbone"], "hidden": 32}}, optim=MUON, **changes)


def test_muon(data: Path, tmp_path: Path) -> None:
    """Steps of the backbone's matrices are orthogonal, those of all else are AdamW's; errors fall."""
    trainer = Trainer(wider(steps=120), data, tmp_path)
    weight = trainer.potential.backbone.messages[1].scalars[2].weight  # type: ignore[index,union-attr,operator]
    before, start = trainer.validate(), weight.detach().clone()
    trainer.fit()
    after = trainer.validate()
    assert after[METALS]["forces_mae"] < 0.7 * before[METALS]["forces_mae"]
    assert not torch.equal(start, weight)
    one = Trainer(wider(steps=1), data, tmp_path / "one")
    one.fit()
    moved = one.potential.backbone.messages[1].scalars[2].weight.detach() - start  # type: ignore[index,union-attr]
    largest = float(torch.linalg.matrix_norm(moved.double(), ord=2))
    warm = 1 / MUON["warmup_steps"]  # type: ignore[operator]
    assert largest == pytest.approx(warm * 1e-2 * 0.2 * max(moved.shape) ** 0.5, rel=0.3)  # whatever the gradient is


def test_muon_needs_whole_matrices() -> None:
    with pytest.raises(ValueError, match="muon needs whole matrices; use parallel: ddp or task"):
        wider(parallel="fsdp")


@pytest.mark.parametrize("variant", ["fp64", "fp32", "muon"])
def test_resumed_run_equals_uninterrupted(data: Path, tmp_path: Path, variant: str) -> None:
    lengths = {"steps": 20, "validate_every": 8}
    settings = wider(**lengths) if variant == "muon" else config(**lengths, precision=variant)
    whole = Trainer(settings, data, tmp_path / "whole")
    assert whole.fit()
    first = Trainer(settings, data, tmp_path / "parts")
    assert not first.fit(end=StopAfter(11))
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    second = Trainer(settings, data, tmp_path / "parts")
    assert second.step == 11
    assert second.fit()
    for name, tensor in whole.potential.state_dict().items():
        assert torch.equal(second.potential.state_dict()[name], tensor), name


def test_a_complete_run_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    Trainer(config(steps=3), data, tmp_path).fit()
    written = (tmp_path / "model.safetensors").read_bytes()
    again = Trainer(config(steps=3), data, tmp_path)
    assert again.fit()
    assert again.step == 3
    assert (tmp_path / "model.safetensors").read_bytes() == written


def test_resuming_with_other_settings_is_refused(data: Path, tmp_path: Path) -> None:
    Trainer(config(steps=1), data, tmp_path).fit()
    with pytest.raises(ValueError, match=r"other settings \(optim\.clip: 10\.0 → 1\.0; steps: 1 → 2\)"):
        Trainer(
            config(steps=2, optim={"learning_rate": 3e-3, "warmup_steps": 10, "ema": 0.95, "clip": 1.0}), data, tmp_path
        )


def test_bf16_trains_with_weights_in_float32(data: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(steps=60, precision="bf16"), data, tmp_path)
    before = trainer.validate()[ORGANICS]["forces_mae"]
    trainer.fit()
    assert trainer.potential.dtype == torch.float32
    assert trainer.validate()[ORGANICS]["forces_mae"] < 0.98 * before


def test_staged_files_make_the_same_model_and_are_removed(data: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    stage = {"stage": {"scratch": str(tmp_path / "scratch")}}
    (data / "more").mkdir(exist_ok=True)
    (data / "more" / "metals.npz").write_bytes((data / "metals.npz").read_bytes())
    branches = config().branches
    two = [dataclasses.asdict(b) for b in branches]
    two[0]["files"] = ["metals.npz", "more/metals.npz"]
    with Trainer(config(steps=4, reading=stage, branches=two), data, tmp_path / "staged") as staged:
        assert list((tmp_path / "scratch").rglob("metals.npz"))
        staged.fit()
        assert finish(staged, "emt", "A test.", structures=20)
    assert not list((tmp_path / "scratch").rglob("metals.npz"))
    plain = Trainer(config(steps=4, branches=two), data, tmp_path / "plain")
    plain.fit()
    for name, tensor in plain.potential.state_dict().items():
        assert torch.equal(staged.potential.state_dict()[name], tensor), name


def test_resuming_on_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    for name in ("metals.npz", "organics.npz"):
        (tmp_path / name).write_bytes((data / name).read_bytes())
    Trainer(config(steps=1), tmp_path, tmp_path / "run").fit()
    write_packed(tmp_path / "metals.npz", metals(100))
    with pytest.raises(ValueError, match="a run on other data"):
        Trainer(config(steps=1), tmp_path, tmp_path / "run")


def test_a_warm_up_longer_than_the_run_is_mentioned(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Trainer(config(steps=15), data, tmp_path)
    assert "warm-up of 10 steps takes most of 15 steps" in caplog.text


def test_finished_model_answers(trained: Trainer, tmp_path: Path) -> None:
    model = finish(trained, "emt", "A test.", structures=60)
    path = save(model, tmp_path / "emt.safetensors")
    atoms = bulk("Cu", cubic=True)
    atoms.calc = GFMCalculator(path)
    assert atoms.get_potential_energy() / 4 == pytest.approx(0.0, abs=0.5)
    assert atoms.calc.results["branch_weights"] == {METALS: 1.0, ORGANICS: 0.0}
    metrics = model.metadata["metrics"]
    assert metrics["blend"][ORGANICS]["own_weight"] == pytest.approx(1.0)
    write_card(model, tmp_path / "card.md")
    assert f"| {METALS} | EMT | 2 |" in (tmp_path / "card.md").read_text()


def test_alignment_removes_a_shift_of_gauge(trained: Trainer, data: Path) -> None:
    """Two branches that say the same up to a sum over elements agree after alignment."""
    model = trained.potential
    with torch.no_grad():
        for layer in model.heads.layers:
            layer.weight[1], layer.bias[1] = layer.weight[0], layer.bias[0]
    info = dict.fromkeys(("C", "H", "O"), 0.0)
    same = [dataclasses.replace(b, e0=info, alignment={}, scale=1.0) for b in model.branches]
    shifted = [same[0], dataclasses.replace(same[1], alignment={"C": 2.0, "H": -0.5})]
    frames = FrameSet.from_npz(data / "organics.npz")
    graphs = [frames.graph(i, model.cutoff, branch) for branch in (0, 1) for i in range(20)]
    twin = rebuilt(model, branches=shifted)
    found = fit_alignment(twin, graphs, ridge=1e-9)
    aligned, _ = with_alignment(twin, found).every_branch(AtomGraph.batch(graphs), derivatives=False)
    torch.testing.assert_close(aligned[:, 0], aligned[:, 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "expected"), [("mae", 3**0.5), ("mse", 3.0), ("huber", 0.01 * (3**0.5 - 0.005))])
def test_loss_ignores_what_is_not_labelled(kind: str, expected: float) -> None:
    frames = metals(3)
    graphs = [frames.graph(i, 4.0) for i in range(3)]
    graphs[1] = graphs[1].replace(energy=graphs[1].energy * torch.nan, forces=graphs[1].forces * torch.nan)
    batch = AtomGraph.batch(graphs)
    prediction = Prediction(
        energy=batch.energy.nan_to_num() + 4.0, forces=batch.forces.nan_to_num() + 1.0, stress=batch.stress
    )
    sums = loss_sums(prediction, batch, LossConfig(kind=kind), branches=2)
    assert sums.counts.tolist() == [2.0, 8.0, 3.0] == label_counts(batch).tolist()
    assert (sums.values / sums.counts)[1].item() == pytest.approx(expected)
    assert (sums.errors[0] / sums.labelled[0]).tolist() == pytest.approx([1.0, 3**0.5, 0.0], abs=1e-7)
    assert sums.labelled[1].tolist() == [0.0, 0.0, 0.0]


def test_stress_without_a_volume_does_not_count() -> None:
    """Some files have zeros for the stress of molecules."""
    crystals, molecules = metals(1), organics(2)
    graphs = [crystals.graph(0, 4.0), *(molecules.graph(i, 4.0) for i in range(2))]
    batch = AtomGraph.batch([graphs[0], *(g.replace(stress=torch.zeros_like(graphs[0].stress)) for g in graphs[1:])])
    predicted = Prediction(
        energy=batch.energy,
        forces=batch.forces,
        stress=batch.stress.masked_fill(batch.volume.isnan()[:, None], torch.nan),
    )
    counts = loss_sums(predicted, batch, LossConfig(), branches=1).counts
    assert counts.tolist() == label_counts(batch).tolist()
    assert counts[2] == 1.0


def test_missing_file_says_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metals\.npz.*docs/data\.md"):
        Trainer(config(), tmp_path, tmp_path / "run")


def test_typo_in_settings() -> None:
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        config(optim={"learnin_rate": 1.0})


def test_the_models_neighbour_cap_holds_in_training(data: Path, tmp_path: Path) -> None:
    def edges(trainer: Trainer) -> int:
        loader = Loader(trainer._stream, trainer.potential.config, trainer.config.batch)
        return sum(part.n_edges for part in next(loader.batches(0)).parts)

    capped = {**config().model, "max_neighbours": 4}
    free = Trainer(config(), data, tmp_path / "free")
    assert edges(Trainer(config(model=capped), data, tmp_path / "capped")) < edges(free)
