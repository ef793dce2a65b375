"""Training of parts of a network: frozen, slower, by a low rank; of energies alone; and the best weights of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from ase.build import bulk, molecule
from packed import rattled

from gfmpot.data import FrameSet
from gfmpot.graph import AtomGraph
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.training.config import TrainConfig
from gfmpot.training.corpus import BranchCorpus, BranchData
from gfmpot.training.loss import LossConfig
from gfmpot.training.objective import Objective
from gfmpot.training.optim import OptimConfig, Optimizer
from gfmpot.training.parallelize import OfLowRank, Parallel, Replicated
from gfmpot.training.parameters import is_matrix, is_shared
from gfmpot.training.trainer import Trainer

LOSS = LossConfig(energy=1.0, forces=1.0, stress=0.0)
ENERGIES = LossConfig(energy=1.0, forces=0.0, stress=0.0)
NAME = "metals-emt"


@pytest.fixture
def potential() -> Potential:
    config = PotentialConfig(
        backbone=PaiNNConfig(hidden=32, layers=2, radial_basis=4, cutoff=4.0),
        head=HeadConfig(shared_layers=0, branch_layers=1, branch_width=8),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Potential(config, [BranchInfo(NAME, "EMT", e0={"Cu": -1.0, "Al": -2.0, "H": 0.0, "C": 0.0})]).double()


def frames(count: int = 8) -> FrameSet:
    solids = [rattled(bulk(("Cu", "Al")[i % 2], cubic=True), i) for i in range(count - 1)]
    return FrameSet.from_atoms([*solids, rattled(molecule("CH4"), 9)])


def batch(potential: Potential) -> AtomGraph:
    labelled = frames()
    return AtomGraph.batch([labelled.graph(i, potential.cutoff) for i in range(len(labelled))])


def step(
    parallel: Parallel, graph: AtomGraph, loss: LossConfig, optimizer: Optimizer, steps: int = 3, done: float = 0.0
) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        sums = parallel.sums(graph)
        (sums.values * torch.tensor(loss.weights, dtype=torch.float64) / sums.counts.clamp(min=1)).sum().backward()
        optimizer.advance(done)


def after(parallel: Parallel, potential: Potential, loss: LossConfig, config: OptimConfig) -> dict[str, torch.Tensor]:
    """Changes by three steps, of all parameters."""
    step(parallel, batch(potential), loss, Optimizer(parallel, config))
    whole = parallel.full([p.detach() for p in parallel.parameters])
    return {name: whole[name] - p.detach() for name, p in potential.named_parameters() if name in whole}


def test_frozen_parts_stay_to_the_last_bit(potential: Potential) -> None:
    changes = after(
        Replicated(potential, LOSS, bf16=False, chosen=lambda name, p: not is_shared(name)),
        potential,
        LOSS,
        OptimConfig(),
    )
    assert changes
    assert all(name.startswith("heads.") and change.abs().max() > 0 for name, change in changes.items())


def test_the_backbone_has_a_rate_of_its_own(potential: Potential) -> None:
    """Adam's first steps have the size of the rate."""
    config = OptimConfig(learning_rate=1e-3, backbone_learning_rate=1e-5, warmup_steps=1, weight_decay=0.0)
    changes = after(Replicated(potential, LOSS, bf16=False), potential, LOSS, config)
    largest = {shared: max(c.abs().max() for n, c in changes.items() if is_shared(n) == shared) for shared in (0, 1)}
    assert largest[True] == pytest.approx(3e-5, rel=0.2)
    assert largest[False] == pytest.approx(3e-3, rel=0.2)


@pytest.mark.parametrize("method", ["adamw", "muon"])
def test_heads_learn_first(potential: Potential, method: Literal["adamw", "muon"]) -> None:
    graph, config = batch(potential), OptimConfig(method=method, head_first=0.2, warmup_steps=1)
    parallel = Replicated(potential, LOSS, bf16=False)
    optimizer = Optimizer(parallel, config)
    begun = {name: p.detach().clone() for name, p in potential.named_parameters()}

    def changed(done: float) -> set[bool]:
        """Whether parts that branches share, or others, have been changed by a step."""
        step(parallel, graph, LOSS, optimizer, 1, done)
        now = parallel.full([p.detach() for p in parallel.parameters])
        return {is_shared(name) for name, p in now.items() if not torch.equal(p, begun[name])}

    assert changed(0.0) == changed(0.2) == {False}
    assert changed(0.21) == {False, True}
    assert [config.awake(done) for done in (0.1, 0.225, 0.25, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    with pytest.raises(ValueError, match="head_first is a share of the run"):
        OptimConfig(head_first=1.0)


def test_changes_of_low_rank_have_it(potential: Potential) -> None:
    parallel = OfLowRank(potential, LOSS, 2, bf16=False)
    changes = after(parallel, potential, LOSS, OptimConfig(warmup_steps=1))
    matrices = {name for name, p in potential.named_parameters() if is_matrix(name, p)}
    assert matrices
    assert {name for name in changes if is_shared(name)} == matrices
    for name in matrices:
        sizes = torch.linalg.svdvals(changes[name])
        assert sizes[0] > 1e-6
        assert sizes[2] < 1e-12 * sizes[0] + 1e-15


@pytest.mark.parametrize("differences", [False, True])
def test_gradients_of_low_rank_are_those_of_the_product(potential: Potential, differences: bool) -> None:
    """Against a finite difference of the loss along a random change of A and B."""
    parallel = OfLowRank(potential, LOSS, 2, bf16=False, differences=differences)
    graph, generator = batch(potential), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in parallel.parameters:
            p += 0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype)

    def loss() -> torch.Tensor:
        sums = parallel.sums(graph)
        return (sums.values * torch.tensor(LOSS.weights, dtype=torch.float64) / sums.counts.clamp(min=1)).sum()

    loss().backward()
    parallel.gradient_norm()
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parallel.parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parallel.parameters, direction, strict=True))  # type: ignore[operator]
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(parallel.parameters, direction, strict=True):
                p += sign * 1e-6 * d
        values.append(float(loss().detach()))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4 if differences else 1e-6)


def test_energies_alone_cost_no_forces_and_change_no_gradient(potential: Potential) -> None:
    graph = batch(potential)
    with_forces = potential.labelled(graph)
    expected = torch.autograd.grad(
        ((with_forces.energy - graph.energy).abs() / graph.atoms_per_structure).sum(),
        list(potential.heads.parameters()),
    )
    objective = Objective(potential, ENERGIES, bf16=False)
    values, counts, _, labelled = objective(graph)
    found = torch.autograd.grad(values[0], list(potential.heads.parameters()))
    assert counts.tolist() == [8, 0, 0]
    assert labelled.tolist() == [[8, 0, 0]]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_best_weights_answer(potential: Potential, tmp_path: Path) -> None:
    """A rate that is far too high at the end: the weights kept are those of the lowest validation loss."""
    data = frames(24)
    info = potential.branches[0]
    splits = {name: data.subset(range(i, len(data), 3)) for i, name in enumerate(("train", "valid", "test"))}
    corpus = BranchCorpus(info, 1.0, splits, {}, {"frames": "made here"})  # type: ignore[arg-type]
    shape = {k: v for k, v in potential.config.to_mapping().items() if k != "error_hidden"}

    def run(keep: str, folder: Path) -> float:
        config = TrainConfig(
            model=shape,
            branches=(BranchData((), NAME),),
            steps=30,
            loss=LOSS,
            optim=OptimConfig(learning_rate=0.03, schedule="constant", warmup_steps=1, ema=0.5),
            keep=keep,  # type: ignore[arg-type]
            precision="fp64",
            validate_every=1,
        )
        with Trainer(config, tmp_path, folder, corpora=[corpus], potential=potential) as trainer:
            trainer.fit()
            losses = [m["energy_mae"] + m["forces_mae"] for m in [_valid(trainer, corpus)]]
        return losses[0]

    best, last = run("best", tmp_path / "best"), run("last", tmp_path / "last")
    assert best < last


def _valid(trainer: Trainer, corpus: BranchCorpus) -> dict[str, float]:
    from gfmpot.training.metrics import evaluate

    graphs = corpus.graphs("valid", trainer.potential.config, 0)
    return evaluate(trainer.potential, graphs)[NAME]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low_rank": 0}, "low_rank must be at least 1"),
        ({"low_rank": 4, "parallel": "fsdp"}, "need parallel: ddp"),
        ({"optim": OptimConfig(backbone_learning_rate=0.0), "parallel": "task"}, "need parallel: ddp"),
    ],
)
def test_what_does_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(model={}, branches=(), steps=1, **changes)  # type: ignore[arg-type]


def test_a_negative_rate_of_the_backbone() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        OptimConfig(backbone_learning_rate=-0.1)
