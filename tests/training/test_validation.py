"""Errors on held-out structures: what is not labelled is left out, and what is not finite is no success."""

from __future__ import annotations

import math

import pytest
import torch
from ase.build import bulk, molecule

from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.models import Potential
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.testing import random_potential
from gfmpot.training.loss import LossConfig
from gfmpot.training.metrics import evaluate
from gfmpot.training.validation import mean_loss


def labelled(name: str, *, forces: float = 0.0) -> AtomGraph:
    """Labels of branch 0, all of them zero but for the forces."""
    atoms = bulk("MgO", "rocksalt", 4.2) if name == "MgO" else molecule(name)
    graph = graph_from_atoms(atoms, cutoff=4.0)
    return graph.replace(
        branch=torch.zeros(1, dtype=torch.int64),
        energy=torch.zeros(1, dtype=torch.float64),
        forces=torch.full_like(graph.positions, forces),
        stress=torch.zeros(1, 6, dtype=torch.float64),
    )


@pytest.fixture
def potential() -> Potential:
    return random_potential(PaiNNConfig(cutoff=4.0, hidden=8, layers=1, radial_basis=3))


def test_labels_that_are_missing_are_left_out(potential: Potential) -> None:
    found = evaluate(potential, [labelled("H2O", forces=math.nan), labelled("CH4", forces=math.nan)])
    (errors,) = found.values()
    assert set(errors) == {"energy_mae", "structures"}  # molecules have no stress, labelled or not
    config = LossConfig(energy=2.0)
    assert mean_loss(found, config) == pytest.approx(2.0 * errors["energy_mae"])
    (crystal,) = evaluate(potential, [labelled("MgO")]).values()
    assert {"energy_mae", "forces_mae", "stress_mae"} <= set(crystal)
    assert "forces_relative" not in crystal  # to forces of zero
    assert all(map(math.isfinite, crystal.values()))


def test_predictions_that_are_not_finite_have_an_infinite_loss(potential: Potential) -> None:
    graphs = [labelled("MgO"), labelled("H2O", forces=math.nan)]
    before = mean_loss(evaluate(potential, graphs), LossConfig())
    with torch.no_grad():
        potential.heads.layers[-1].bias.fill_(torch.nan)
    found = evaluate(potential, graphs)
    assert mean_loss(found, LossConfig()) == math.inf > before > 0
    (errors,) = found.values()
    assert errors["energy_mae"] == math.inf
