"""The repulsion of nuclei: its size, its end, its slope."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms, plain_operations
from gfmpot.models import BranchInfo, Potential, PotentialConfig
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.repulsion import REACH, ScreenedRepulsion
from gfmpot.units import COULOMB


def pair(symbols: str, distance: float) -> AtomGraph:
    return graph_from_atoms(Atoms(symbols, positions=[[0, 0, 0], [0, 0, distance]]), cutoff=5.0)


def energy(symbols: str, distance: float) -> float:
    graph = pair(symbols, distance)
    return float(ScreenedRepulsion(5.0)(edge_vectors(graph), graph)[0].sum())


def test_nuclei_at_short_range() -> None:
    """Screening has no effect where they touch: φ(x) = 1 − 1.18 x + …, the slope being Σ c d."""
    a = 0.46850 / (6**0.23 + 8**0.23)
    for distance in (0.11, 0.15):
        bare = COULOMB * 6 * 8 / distance
        assert 0.5 < energy("CO", distance) / (bare * np.exp(-1.18 * distance / a)) < 1.5


@pytest.mark.parametrize("symbols", ["H2", "CO", "SiAu", "Cs2"])
def test_ends_smoothly(symbols: str) -> None:
    numbers = Atoms(symbols).numbers
    reach = REACH * covalent_radii[numbers].sum()
    assert energy(symbols, reach) == 0.0
    assert 0 < energy(symbols, 0.999 * reach) < 1e-6 * energy(symbols, 0.5 * reach)
    falling = [energy(symbols, x * reach) for x in np.linspace(0.3, 1.0, 50)]
    assert all(a > b for a, b in pairwise(falling))


def test_slope_is_the_derivative() -> None:
    for symbols, distance in (("H2", 0.4), ("CO", 0.9), ("NaCl", 1.7)):
        graph = pair(symbols, distance)
        _, gradient = ScreenedRepulsion(5.0)(edge_vectors(graph), graph)
        step = 1e-5
        slope = (energy(symbols, distance + step) - energy(symbols, distance - step)) / (2 * step)
        assert float(gradient[:, 2].abs().sum()) == pytest.approx(-slope, rel=1e-7)


def test_compilers_see_the_same() -> None:
    graph = pair("CO", 0.9)
    repulsion = ScreenedRepulsion(5.0)
    found = repulsion(edge_vectors(graph), graph)
    with plain_operations():
        traced = repulsion(edge_vectors(graph), graph)
    torch.testing.assert_close(traced, found, rtol=1e-14, atol=0)


def test_every_branch_and_the_blend_have_it_once() -> None:
    elements = {"C": -1.0, "O": -2.0}
    branches = [BranchInfo("a-pbe", e0=elements), BranchInfo("b-gfn2", e0=elements)]
    shape = PaiNNConfig(hidden=16, layers=2, radial_basis=4)
    graph = pair("CO", 0.9)
    answers = []
    for repulsion in ("zbl", "none"):
        torch.manual_seed(0)
        model = Potential(PotentialConfig(shape, repulsion=repulsion), branches, elements).double()  # type: ignore[arg-type]
        answers.append((model(graph, spread="forces"), model.every_branch(graph)))
    (with_it, learnt), (without, bare) = answers
    added = energy("CO", 0.9)
    assert float(with_it.energy - without.energy) == pytest.approx(added, rel=1e-10)
    assert (with_it.branch_energies - without.branch_energies)[0].tolist() == pytest.approx([added] * 2, rel=1e-10)
    assert (learnt[0] - bare[0])[0].tolist() == pytest.approx([added] * 2, rel=1e-10)
    assert float(with_it.energies.sum()) == pytest.approx(float(with_it.energy), rel=1e-12)
    torch.testing.assert_close(with_it.forces_std, without.forces_std, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(with_it.forces - without.forces, (learnt[1] - bare[1])[:, :, 0], rtol=1e-9, atol=1e-9)
