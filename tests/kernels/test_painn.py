"""Kernels against PyTorch's operations: the same features, the same gradients."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from gfmpot import kernels
from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms
from gfmpot.models.backbone import build_backbone
from gfmpot.models.backbones import _painn_fast
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.conditioning import AtomEmbedding

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no C++ compiler when gfmpot was installed")

CUTOFF = 4.0
LIBRARIES = {"_baseline": "DEFAULT", "_avx2": "AVX2", "_avx512": "AVX512"}


def rattled(atoms: Atoms) -> Atoms:
    atoms.rattle(0.1, seed=1)
    return atoms


def structures() -> list[AtomGraph]:
    """Crystal, molecule, atoms that have no neighbours, and an ion, in one batch with several kinds."""
    crystal, single = rattled(bulk("NaCl", "rocksalt", 5.6, cubic=True)), bulk("Cu")
    ion = molecule("CH3CH2O")
    ion.info["charge"] = -1
    far = Atoms("HeNe", positions=[[0, 0, 0], [9, 0, 0]])
    return [graph_from_atoms(atoms, cutoff=CUTOFF) for atoms in (crystal, molecule("CH3COOH"), far, ion, single)]


def outcome(
    config: PaiNNConfig, graph: AtomGraph, dtype: torch.dtype, *, fast: bool, dense: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Features, and the gradient of a random weighting of them."""
    torch.manual_seed(0)
    backbone, embedding = build_backbone(config).to(dtype), AtomEmbedding(config.hidden).to(dtype)
    backbone.requires_grad_(False)
    torch.nn.init.normal_(embedding.charge_and_spin.weight)
    vectors = edge_vectors(graph).requires_grad_()
    initial = embedding(graph).detach()
    if fast:
        evaluate = backbone.kernels(dense or dtype)
        assert evaluate is not None
        features = evaluate(initial, vectors, graph)
    else:
        features = backbone(initial, vectors.to(dtype), graph)
    weighting = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    (gradient,) = torch.autograd.grad((features * weighting).sum(), vectors)
    return features.detach(), gradient


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("by_kinds", [True, False])
@pytest.mark.parametrize("transform", ["none", "agnesi", "both"])
@pytest.mark.parametrize(
    ("hidden", "layers", "basis"), [(64, 3, 8), (64, 1, 3), (37, 2, 4), (3, 2, 12), (200, 2, 5), (16, 2, 20)]
)
def test_same_as_operations(
    hidden: int,
    layers: int,
    basis: int,
    transform: Literal["none", "agnesi", "both"],
    by_kinds: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Widths that are filled up or not, fewer and more features than a block, fewer and more functions."""
    monkeypatch.setattr(_painn_fast._MessageWeights, "prefers_kinds", lambda *arguments: by_kinds)
    config = PaiNNConfig(cutoff=CUTOFF, hidden=hidden, layers=layers, radial_basis=basis, distance_transform=transform)
    graph = AtomGraph.batch(structures())
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-5)):
        found = outcome(config, graph, dtype, fast=True)
        expected = outcome(config, graph, dtype, fast=False)
        assert difference(found[0], expected[0]) < tolerance
        assert difference(found[1], expected[1]) < tolerance


def test_threads_do_not_change_a_bit() -> None:
    config, graph = PaiNNConfig(cutoff=CUTOFF, hidden=48), AtomGraph.batch(structures())
    one = outcome(config, graph, torch.float64, fast=True)
    torch.set_num_threads(2)
    try:
        two = outcome(config, graph, torch.float64, fast=True)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("size", [1, 40_000])
def test_parts(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every structure by itself, or a few together: the same as all at once."""
    config, graph = PaiNNConfig(cutoff=CUTOFF, hidden=48), AtomGraph.batch(structures())
    whole = outcome(config, graph, torch.float64, fast=True)
    monkeypatch.setattr(_painn_fast, "PART_BYTES", size)
    found = outcome(config, graph, torch.float64, fast=True)
    assert difference(found[0], whole[0]) < 1e-13
    assert difference(found[1], whole[1]) < 1e-13


def test_bfloat16_is_near() -> None:
    config, graph = PaiNNConfig(cutoff=CUTOFF, hidden=64, layers=2), AtomGraph.batch(structures())
    found = outcome(config, graph, torch.float32, fast=True, dense=torch.bfloat16)
    expected = outcome(config, graph, torch.float32, fast=False)
    assert 1e-4 < difference(found[0], expected[0]) < 0.05
    assert difference(found[1], expected[1]) < 0.1


def test_whole_numbers_for_real_ones() -> None:
    config, graph = PaiNNConfig(cutoff=4, hidden=8), structures()[0]
    found, expected = (outcome(config, graph, torch.float64, fast=fast) for fast in (True, False))
    assert difference(found[1], expected[1]) < 1e-13


def test_changed_weights_do_not_mix_with_old_ones() -> None:
    backbone, graph = build_backbone(PaiNNConfig(cutoff=CUTOFF, hidden=16)).double(), structures()[0]
    evaluate = backbone.kernels(torch.float64)
    assert evaluate is not None
    initial, vectors = torch.ones(graph.n_atoms, 16, dtype=torch.float64), edge_vectors(graph)
    before = evaluate(initial, vectors, graph)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(2.0)
    assert torch.equal(evaluate(initial, vectors, graph), before)


def test_graphs_that_are_not_in_order_are_refused() -> None:
    graph = structures()[0]
    flipped = graph.replace(edge_index=graph.edge_index.flip(1), cell_shifts=graph.cell_shifts.flip(0))
    with pytest.raises(ValueError, match="sorted by receiver"):
        edge_vectors(flipped)
    with pytest.raises(ValueError, match="expected atoms from 0 to 7, got others"):
        edge_vectors(graph.replace(edge_index=graph.edge_index + 1))
    other = graph.replace(cell_shifts=graph.cell_shifts.to(torch.float64))
    assert torch.equal(edge_vectors(other), edge_vectors(graph))


def test_libraries_of_other_sources_are_not_used(choose: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    choose.setattr(kernels, "_fingerprint", lambda folder: "s0123456789abcdef")
    assert not kernels.available()
    assert "is of other sources: install gfmpot again" in caplog.text


def test_no_edges() -> None:
    graph = graph_from_atoms(Atoms("Ar"), cutoff=CUTOFF)
    config = PaiNNConfig(cutoff=CUTOFF, hidden=8)
    found, gradient = outcome(config, graph, torch.float64, fast=True)
    assert gradient.shape == (0, 3)
    assert difference(found, outcome(config, graph, torch.float64, fast=False)[0]) < 1e-13


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lets a test pretend to have another processor."""
    caches = (kernels._library, kernels._function, kernels._panel_width)
    for cache in caches:
        cache.cache_clear()
    yield monkeypatch
    for cache in caches:
        cache.cache_clear()


def pretend(name: str, choose: pytest.MonkeyPatch) -> None:
    able = list(LIBRARIES.values()).index(torch.backends.cpu.get_cpu_capability())
    if list(LIBRARIES).index(name) > able:
        pytest.skip("this processor cannot run it")
    choose.setattr(torch.backends.cpu, "get_cpu_capability", lambda: LIBRARIES[name])


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("pay", [True, False])
def test_every_instruction_set(name: str, pay: bool, choose: pytest.MonkeyPatch) -> None:
    pretend(name, choose)
    choose.setattr(kernels, "products_pay", lambda: pay)
    assert kernels.instruction_set() == name.lstrip("_")
    config, graph = PaiNNConfig(cutoff=CUTOFF, hidden=40, layers=2), AtomGraph.batch(structures())
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-5)):
        found, expected = (outcome(config, graph, dtype, fast=fast) for fast in (True, False))
        assert difference(found[1], expected[1]) < tolerance


def test_without_kernels_there_is_another_way(choose: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(path: str) -> ctypes.CDLL:
        raise OSError(f"cannot open {path}")

    choose.setattr(ctypes, "CDLL", refuse)
    assert not kernels.available()
    assert kernels.instruction_set() is None
    assert "cannot be loaded" in caplog.text
    assert build_backbone(PaiNNConfig()).kernels(torch.float64) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (64, 200, 130), (8, 128, 24), (201, 300, 25)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("name", LIBRARIES)
def test_products(name: str, shape: tuple[int, int, int], biased: bool, choose: pytest.MonkeyPatch) -> None:
    """Rows, columns and depth with and without a remainder."""
    pretend(name, choose)
    rows, k, n = shape
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, dtype=torch.float64, generator=generator) for size in ((2, rows, k), (n, k), (n,))
    )
    expected = torch.nn.functional.linear(x, weight, bias if biased else None)
    found = kernels.PackedWeights(weight, bias if biased else None)(x)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_topology() -> None:
    graph = structures()[0]
    offsets, sender_offsets, by_sender = graph.topology
    receivers, senders = graph.receivers.numpy(), graph.senders.numpy()
    assert offsets.tolist() == [0, *np.cumsum(np.bincount(receivers, minlength=graph.n_atoms))]
    assert sender_offsets.tolist() == [0, *np.cumsum(np.bincount(senders, minlength=graph.n_atoms))]
    assert by_sender.tolist() == np.argsort(senders, kind="stable").tolist()


def trained(
    config: PaiNNConfig, graph: AtomGraph, dtype: torch.dtype, *, kernels: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Features, and the gradients of a random weighting of them by all weights and by the embedding."""
    torch.manual_seed(0)
    backbone, embedding = build_backbone(config).to(dtype), AtomEmbedding(config.hidden).to(dtype)
    torch.nn.init.normal_(embedding.charge_and_spin.weight)
    vectors = edge_vectors(graph)
    if kernels:
        found = backbone.training_kernels()
        assert found is not None
        features = found.by_weights(embedding(graph), vectors, graph)
    else:
        features = backbone(embedding(graph), vectors.to(dtype), graph)
    weighting = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    (features * weighting).sum().backward()
    named = [*backbone.named_parameters(), *embedding.named_parameters()]
    return features.detach(), {name: p.grad for name, p in named if p.grad is not None}


@pytest.mark.parametrize(("hidden", "layers", "basis"), [(64, 3, 8), (16, 1, 3), (48, 2, 11), (144, 2, 20)])
@pytest.mark.parametrize(("threads", "transform"), [(1, "none"), (2, "none"), (2, "agnesi"), (1, "both")])
def test_gradients_of_weights(
    hidden: int, layers: int, basis: int, threads: int, transform: Literal["none", "agnesi", "both"]
) -> None:
    config = PaiNNConfig(cutoff=CUTOFF, hidden=hidden, layers=layers, radial_basis=basis, distance_transform=transform)
    graph = AtomGraph.batch(structures())
    torch.set_num_threads(threads)
    try:
        for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-5)):
            features, gradients = trained(config, graph, dtype, kernels=True)
            expected, exact = trained(config, graph, dtype, kernels=False)
            assert difference(features, expected) < tolerance
            assert gradients.keys() == exact.keys()
            for name, gradient in exact.items():
                assert difference(gradients[name], gradient) < tolerance, name
    finally:
        torch.set_num_threads(1)


def test_widths_without_training_kernels() -> None:
    assert build_backbone(PaiNNConfig(cutoff=CUTOFF, hidden=40)).training_kernels() is None
