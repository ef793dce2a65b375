"""Gradients of losses by differences against those by second derivatives."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from gfmpot.config import from_mapping
from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig
from gfmpot.models.backbones.painn import PaiNN, PaiNNConfig
from gfmpot.training.config import TrainConfig
from gfmpot.training.differences import sums_by_differences
from gfmpot.training.loss import LossConfig, LossSums, loss_sums

CUTOFF = 4.5
LOSS = LossConfig(energy=4.0, forces=1.0, stress=20.0)


def potential(hidden: int = 32, readout: str = "atomwise", dtype: torch.dtype = torch.float64) -> Potential:
    config = PotentialConfig(
        backbone=PaiNNConfig(cutoff=CUTOFF, hidden=hidden, layers=2, radial_basis=6),
        head=HeadConfig(shared_layers=0, branch_layers=1, branch_width=16, readout=readout),  # type: ignore[arg-type]
    )
    elements = dict.fromkeys(("H", "He", "C", "O", "Na", "Cl", "Si"), -1.0)
    branches = [BranchInfo("a-pbe", e0=elements), BranchInfo("b-gfn2", e0=elements, scale=2.0)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Potential(config, branches, {}).to(dtype)
    for parameter in model.weights.parameters():
        parameter.requires_grad_(False)
    return model


def labelled(atoms: Atoms, seed: int, *, branch: int, energy: bool = True, forces: bool = True) -> AtomGraph:
    generator = torch.Generator().manual_seed(seed)
    atoms.rattle(0.1, seed=seed)
    graph = graph_from_atoms(atoms, cutoff=CUTOFF)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((1,), (len(atoms), 3), (1, 6))]
    stress = values[2] * (0.01 if atoms.pbc.all() else torch.nan)
    given = (values[0] * (1 if energy else torch.nan), values[1] * (1 if forces else torch.nan), stress)
    return graph.replace(branch=torch.tensor([branch]), energy=given[0], forces=given[1], stress=given[2])


def batch() -> AtomGraph:
    """Crystals and molecules of two branches, partly labelled, one squeezed, and atoms without neighbours."""
    squeezed = bulk("Si", cubic=True)
    squeezed.set_cell(0.75 * squeezed.cell, scale_atoms=True)
    graphs = [
        labelled(bulk("NaCl", "rocksalt", 5.6, cubic=True), 0, branch=0),
        labelled(squeezed, 1, branch=0),
        labelled(molecule("CH3COOH"), 2, branch=1),
        labelled(molecule("C2H6"), 3, branch=1, energy=False),
        labelled(molecule("H2O"), 4, branch=1, forces=False),
        labelled(Atoms("HeHe", positions=[[0, 0, 0], [9, 0, 0]]), 5, branch=1),
    ]
    return AtomGraph.batch(graphs)


def by_second_derivatives(model: Potential, graph: AtomGraph, loss: LossConfig) -> LossSums:
    return loss_sums(model.labelled(graph), graph, loss, len(model.branches))


def gradient(model: Potential, sums: Any, loss: LossConfig = LOSS) -> tuple[LossSums, Tensor]:
    model = copy.deepcopy(model)
    found: LossSums = sums(model, batch(), loss)
    weights = torch.tensor(loss.weights, dtype=torch.float64) / found.counts
    (found.values * weights).sum().backward()
    wanted = [p for p in model.parameters() if p.requires_grad]
    return found, torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in wanted])


@pytest.mark.parametrize("kind", ["mae", "mse", "huber"])
@pytest.mark.parametrize("readout", ["atomwise", "graph"])
@pytest.mark.parametrize("kernels", [True, False])
def test_same_gradient(kind: str, readout: str, kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = LossConfig(energy=4.0, forces=1.0, stress=20.0, kind=kind)  # type: ignore[arg-type]
    if not kernels:
        monkeypatch.setattr(PaiNN, "training_kernels", lambda self: None)
    sums, exact = gradient(potential(readout=readout), by_second_derivatives, loss)
    found, approximate = gradient(potential(readout=readout), sums_by_differences, loss)
    torch.testing.assert_close(found.values, sums.values, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.errors, sums.errors, rtol=1e-10, atol=1e-10)
    assert torch.linalg.vector_norm(approximate - exact) < 1e-4 * torch.linalg.vector_norm(exact)


def test_float32_is_within_a_thousandth() -> None:
    _, exact = gradient(potential(), by_second_derivatives)
    _, approximate = gradient(potential().float(), sums_by_differences)
    assert torch.linalg.vector_norm(approximate.double() - exact) < 1e-3 * torch.linalg.vector_norm(exact)


def test_every_weight_has_a_gradient() -> None:
    """Ranks reduce the same tensors, whichever branches their structures belong to."""
    model, graph = potential(), batch().part(0, 2)
    sums_by_differences(model, graph, LOSS).values.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_modes_that_cannot_have_it() -> None:
    run = {
        "model": {"backbone": {"name": "painn"}},
        "branches": [{"files": ["a.npz"], "name": "a-pbe"}],
        "steps": 10,
        "gradients": "differences",
    }
    for change in ({"parallel": "fsdp"}, {"parallel": "task"}, {"precision": "bf16"}):
        with pytest.raises(ValueError, match="differences need parallel: ddp and fp32 or fp64"):
            from_mapping(TrainConfig, {**run, **change})
