"""What networks see of atoms that are too close."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms, plain_operations
from gfmpot.models import BranchInfo, Potential, PotentialConfig
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.saturation import FLAT, SaturatedLengths

SHARE = 0.65


def pair(symbols: str, distance: float) -> AtomGraph:
    return graph_from_atoms(Atoms(symbols, positions=[[0, 0, 0], [0, 0, distance]]), cutoff=5.0)


def shown(symbols: str, distance: float) -> float:
    graph = pair(symbols, distance)
    return float(SaturatedLengths(SHARE)(edge_vectors(graph), graph).norm(dim=1)[0])


@pytest.mark.parametrize("symbols", ["H2", "CO", "CsAu"])
def test_lengths(symbols: str) -> None:
    begin = SHARE * covalent_radii[Atoms(symbols).numbers].sum()
    for distance in (begin, 1.3 * begin):
        assert shown(symbols, distance) == pytest.approx(distance, rel=1e-15)
    floor = (1 + FLAT) / 2 * begin
    for distance in (0.12, 0.5 * FLAT * begin, FLAT * begin):
        assert shown(symbols, distance) == pytest.approx(floor, rel=1e-14)
    seen = np.array([shown(symbols, x * begin) for x in np.linspace(FLAT, 1.0, 201)])
    slopes = np.diff(seen) / (begin * (1 - FLAT) / 200)
    assert (np.diff(slopes) > -1e-9).all()
    assert slopes[0] < 1e-4
    assert slopes[-1] == pytest.approx(1.0, abs=1e-4)


def test_where_nothing_is_close_nothing_is_done() -> None:
    graph = graph_from_atoms(Atoms("OHH", positions=[[0, 0, 0], [0, 0.76, 0.59], [0, -0.76, 0.59]]), cutoff=5.0)
    vectors = edge_vectors(graph)
    assert SaturatedLengths(SHARE)(vectors, graph) is vectors


def test_compilers_see_the_same() -> None:
    close = Atoms("NaClO", positions=[[0, 0, 0], [0.3, 0, 1.2], [0, 1.9, 0]])
    graph = graph_from_atoms(close, cutoff=5.0)
    saturation = SaturatedLengths(SHARE)
    vectors = edge_vectors(graph).requires_grad_()
    answers = []
    for traced in (False, True):
        if traced:
            with plain_operations():
                out = saturation(vectors, graph)
        else:
            out = saturation(vectors, graph)
        assert not torch.equal(out, vectors)
        answers.append((out, *torch.autograd.grad((out**3).sum(), vectors)))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-14, atol=1e-14)


@pytest.fixture
def steep() -> Potential:
    """Large weights, as badly trained networks have them."""
    elements = {"C": -1.0, "O": -2.0}
    torch.manual_seed(0)
    shape = PaiNNConfig(hidden=16, layers=2, radial_basis=8, saturation=SHARE)
    model = Potential(PotentialConfig(shape, repulsion="none"), [BranchInfo("a-pbe", e0=elements)], elements).double()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and name.startswith("backbone"):
                weight *= 3.0
    return model


@pytest.mark.parametrize("kernels", [False, True])
def test_forces_are_the_gradient(steep: Potential, kernels: bool) -> None:
    evaluate = steep.backbone.kernels(torch.float64) if kernels else None
    if kernels and evaluate is None:
        pytest.skip("no kernels here")

    def energy(distance: float) -> float:
        return float(steep(pair("CO", distance), evaluate=evaluate).energy.detach())

    step = 1e-5
    for distance in (0.2, 0.62, 0.75, 0.9, 1.1):
        slope = (energy(distance + step) - energy(distance - step)) / (2 * step)
        force = float(steep(pair("CO", distance), evaluate=evaluate).forces[1, 2])
        assert force == pytest.approx(-slope, rel=1e-6, abs=1e-7 * abs(energy(distance)))


def test_networks_leave_close_atoms_alone(steep: Potential) -> None:
    begin = SHARE * (covalent_radii[6] + covalent_radii[8])
    assert float(steep(pair("CO", 0.5 * FLAT * begin)).forces.abs().max()) < 1e-10
    assert float(steep(pair("CO", 1.05 * begin)).forces.abs().max()) > 0.1


def test_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="saturation is a share"):
        PaiNNConfig(saturation=1.2)
    assert Potential(PotentialConfig(PaiNNConfig(hidden=16, saturation=0.0)), [BranchInfo("a")]).saturation is None
