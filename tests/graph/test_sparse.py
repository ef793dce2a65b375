"""Filtered sums over neighbours against the plain way, with their first and second derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gfmpot.graph import AtomGraph, build_graph, filtered_neighbour_sums, sparse


@pytest.fixture
def graph() -> AtomGraph:
    """A molecule, an atom alone, and a cell so small that pairs occur several times."""
    rng = np.random.default_rng(0)
    molecule = build_graph([6, 1, 1, 8], 3 * rng.random((4, 3)), cutoff=2.5)
    alone = build_graph([6], [[0, 0, 0]], cutoff=2.5)
    crystal = build_graph([12, 8], [[0, 0, 0], [1.1, 1.0, 0.9]], 2 * np.eye(3), True, cutoff=2.5)
    return AtomGraph.batch([molecule, alone, crystal])


def arguments(graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((graph.n_edges, 3), (3, 4), (graph.n_atoms, 4))
    return tuple(  # type: ignore[return-value]
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    )


@pytest.mark.parametrize("chunk", [2**20, 300])
def test_sums_and_their_derivatives(graph: AtomGraph, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "CHUNK_BYTES", chunk)
    functions, filters, features = arguments(graph)
    messages = (functions @ filters) * features[graph.senders]
    plain = torch.zeros_like(features).index_add(0, graph.receivers, messages)
    torch.testing.assert_close(filtered_neighbour_sums(functions, filters, features, graph), plain)

    def sums(*values: Tensor) -> Tensor:
        return filtered_neighbour_sums(*values, graph)

    assert torch.autograd.gradcheck(sums, (functions, filters, features))
    assert torch.autograd.gradgradcheck(sums, (functions, filters, features))


def test_no_edges_still_differentiable() -> None:
    graph = build_graph([6, 8], [[0, 0, 0], [9, 0, 0]], cutoff=2.5)
    functions, filters, features = arguments(graph)
    sums = filtered_neighbour_sums(functions, filters, features, graph)
    assert torch.equal(sums, torch.zeros_like(sums))
    gradients = torch.autograd.grad(sums.sum(), (functions, filters, features))
    assert [g.abs().sum().item() for g in gradients] == [0.0, 0.0, 0.0]


def test_what_backward_passes_leave_out(graph: AtomGraph) -> None:
    functions, filters, features = arguments(graph)
    everything = torch.autograd.grad(
        filtered_neighbour_sums(functions, filters, features, graph).square().sum(), (functions, filters, features)
    )
    for what, left_out in (("geometry", 1), ("weights", 0)):
        sums = filtered_neighbour_sums(functions, filters, features, graph).square().sum()
        with sparse.gradients_of(graph, what):  # type: ignore[arg-type]
            found = torch.autograd.grad(sums, (functions, filters, features), allow_unused=True)
        assert found[left_out] is None
        for i in {0, 1, 2} - {left_out}:
            torch.testing.assert_close(found[i], everything[i])
    sums = filtered_neighbour_sums(functions, filters, features, graph).square().sum()
    again = torch.autograd.grad(sums, (functions, filters, features))
    assert all(torch.equal(a, b) for a, b in zip(again, everything, strict=True))
