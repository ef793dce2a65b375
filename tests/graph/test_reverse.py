"""Edges and their reverses."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gfmpot.graph import AtomGraph, edge_pairs, edge_vectors, graph_from_atoms, plain_operations, reverse_edges

STRUCTURES = {
    "molecule": molecule("CH3COOH"),
    "one atom a cell": bulk("Cu"),
    "two": bulk("NaCl", "rocksalt", 5.6),
    "alone": Atoms("He"),
}


@pytest.fixture(params=STRUCTURES)
def graph(request: pytest.FixtureRequest) -> AtomGraph:
    return graph_from_atoms(STRUCTURES[request.param], cutoff=5.0)


def test_reverse_is_opposite(graph: AtomGraph) -> None:
    reverse, there = reverse_edges(graph)
    assert there.all()
    assert torch.equal(graph.senders[reverse], graph.receivers)
    assert torch.allclose(edge_vectors(graph)[reverse], -edge_vectors(graph))


def test_pairs_share_a_length(graph: AtomGraph) -> None:
    one_way, pair = edge_pairs(graph)
    lengths = edge_vectors(graph).norm(dim=1)
    assert len(one_way) == graph.n_edges // 2
    assert torch.equal(torch.bincount(pair, minlength=len(one_way)), torch.full((len(one_way),), 2))
    assert torch.allclose(lengths[one_way][pair], lengths)


def test_edges_without_a_reverse_stand_alone() -> None:
    graph = graph_from_atoms(STRUCTURES["molecule"], cutoff=5.0, max_neighbours=3)
    _, there = reverse_edges(graph)
    one_way, pair = edge_pairs(graph)
    assert not there.all()
    assert len(one_way) == int((~there).sum()) + int(there.sum()) // 2
    lengths = edge_vectors(graph).norm(dim=1)
    assert torch.allclose(lengths[one_way][pair], lengths)


def test_plain() -> None:
    graph = graph_from_atoms(STRUCTURES["two"], cutoff=5.0)
    with plain_operations():
        one_way, pair = edge_pairs(graph)
    assert torch.equal(one_way, torch.arange(graph.n_edges))
    assert torch.equal(pair, one_way)
