"""TorchInductor compiles every backbone, or the calculator says once that it does not, and answers all the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from gfmpot import GFMCalculator
from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms
from gfmpot.inference import Predictor
from gfmpot.inference.tracing import example_graph, inputs_of, lifted, network, traced
from gfmpot.models import HeadConfig, Potential, PotentialConfig, available_backbones
from gfmpot.models.backbone import backbone_config
from gfmpot.models.backbones.schnet import SchNet
from gfmpot.testing import random_potential

CUTOFF = 4.0

TINY = {
    "painn": {"hidden": 4, "radial_basis": 2},
    "egnn": {"hidden": 4},
    "schnet": {"hidden": 4, "filters": 4, "gaussians": 2},
    "pnaeq": {"hidden": 4, "radial_basis": 2},
    "dimenet": {
        "hidden": 4,
        "basis_embedding": 2,
        "interaction_embedding": 4,
        "output_embedding": 4,
        "radial_basis": 2,
        "spherical_basis": 2,
        "layers_before_skip": 0,
        "layers_after_skip": 0,
    },
    "mace": {"hidden": 4, "radial_basis": 2, "max_ell": 1, "correlation": 2, "distance_transform": "agnesi"},
}
"""What takes the compiler least: it is busy for a minute with three layers of DimeNet++."""

VARIANTS: dict[str, dict[str, object]] = {
    **{name: {"name": name, **TINY.get(name, {})} for name in available_backbones()},
    "mace-soft": {"name": "mace", **TINY["mace"], "correlation": 3, "distance_transform": "soft"},
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning")


def tiny(name: str, **settings: object) -> Potential:
    if name.startswith("mace"):
        pytest.importorskip("e3nn.o3", exc_type=ImportError)
    config = backbone_config({**VARIANTS[name], "cutoff": CUTOFF, **settings})
    return random_potential(PotentialConfig(config, HeadConfig(shared_layers=0, branch_width=4))).requires_grad_(False)


def structures() -> list[Atoms]:
    """A crystal, a molecule, a cell smaller than the cutoff, an atom alone and a larger crystal."""
    found = [bulk("NaCl", "rocksalt", 5.6, cubic=True), molecule("CH3COOH"), bulk("Cu"), Atoms("Na")]
    found.append(bulk("MgO", "rocksalt", 4.2) * (2, 1, 1))
    for seed, atoms in enumerate(found):
        atoms.rattle(0.1, seed=seed)
    return found


def batches() -> list[AtomGraph]:
    """Single structures that have neighbours, and all of them together."""
    graphs = [graph_from_atoms(atoms, cutoff=CUTOFF) for atoms in structures()]
    return [graph for graph in graphs if graph.n_edges] + [AtomGraph.batch(graphs)]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GFMPOT_CACHE", str(folder))
        yield folder


def same(one: Predictor, other: Predictor, graph: AtomGraph, tolerance: float) -> None:
    for a, b in zip(one(graph), other(graph), strict=True):
        assert a.keys() == b.keys()
        assert a["energy"] == pytest.approx(b["energy"], rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(a["forces"], b["forces"], rtol=0, atol=tolerance)
        np.testing.assert_allclose(a.get("stress", 0), b.get("stress", 0), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in available_backbones() if name != "painn"])
def test_compiled_equals_plain(name: str) -> None:
    """As PaiNN does in ``test_paths.py``."""
    potential = tiny(name, layers=1)
    compiled = Predictor(potential, precision="fp64", compile=True)
    plain = Predictor(potential, precision="fp64", compile=False, kernels=False)
    for graph in batches():
        same(compiled, plain, graph, 1e-11)
        assert compiled.path == "compiled"


@pytest.mark.parametrize("name", ["dimenet", "mace", "mace-soft"])
def test_traces_know_elements_and_cells(name: str) -> None:
    """Made with some structures, a trace is right for other elements, cells and sizes; with two layers, uncompiled."""
    potential = tiny(name, layers=2)

    def inputs(graph: AtomGraph) -> tuple[Tensor, ...]:
        weights = torch.ones(graph.n_structures, len(potential.branches), dtype=torch.float64)
        return inputs_of(potential.embedding(graph), edge_vectors(graph), graph, weights)

    module = traced(network(potential, "fp64"), inputs(example_graph(CUTOFF)))
    tensors = {**dict(potential.named_parameters()), **dict(potential.named_buffers())}
    weights = [tensors[name] for name in lifted(module, potential)]
    assert weights
    for graph in batches():
        vectors = edge_vectors(graph).requires_grad_()
        features = potential.backbone(potential.embedding(graph), vectors, graph)
        eps = potential.contributions(features, graph)
        (gradient,) = torch.autograd.grad(eps.sum(), vectors)
        for one, other in zip(module(*weights, *inputs(graph)), (features, eps, gradient), strict=True):
            torch.testing.assert_close(one, other.detach(), rtol=0, atol=1e-11)


def uncompilable(self: SchNet, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
    """A loop whose length is in the values of a tensor, which no trace can hold."""
    for _ in range(int(graph.receivers.bincount().max())):
        initial = initial + 0.01 * initial.new_zeros(initial.shape).index_add(
            0, graph.receivers, torch.exp(-vectors.square().sum(dim=1, keepdim=True)).expand(-1, initial.shape[1])
        )
    return initial


def missing_compiler() -> str:
    raise RuntimeError("no C++ compiler")


@pytest.mark.parametrize("fault", ["network", "compiler"])
def test_what_cannot_be_compiled_is_said_once(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a calculator, whose numbers are right before and after."""
    potential = tiny("schnet", layers=1, hidden=5)  # nothing compiled before serves
    if fault == "network":
        monkeypatch.setattr(SchNet, "forward", uncompilable)
    else:
        monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing_compiler)
    atoms, *others = [atoms for atoms in structures() if len(atoms) > 1]
    atoms.calc = GFMCalculator(potential, precision="fp64", compile=True)
    with pytest.warns(RuntimeWarning, match="compiled evaluation is not used: ") as caught:
        atoms.get_forces()
    assert len(caught) == 1
    assert atoms.calc.path == "plain"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (atoms, *others):
            other.calc = atoms.calc
            plain = other.copy()
            plain.calc = GFMCalculator(potential, precision="fp64", compile=False)
            assert other.get_potential_energy() == pytest.approx(plain.get_potential_energy(), rel=1e-12)
            np.testing.assert_allclose(other.get_forces(), plain.get_forces(), rtol=0, atol=1e-12)
