"""EGNN: what its places do."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule

from gfmpot.graph import edge_vectors, graph_from_atoms
from gfmpot.models.backbones.egnn import EGNN, EGNNConfig

CONFIG = EGNNConfig(cutoff=4.0, hidden=16, layers=3)


def test_places_move_with_the_atoms() -> None:
    """Differences of places turn as the atoms do, and those of an edge and its reverse stay opposite."""
    torch.manual_seed(0)
    backbone = EGNN(CONFIG).double()
    graph = graph_from_atoms(molecule("CH3COOH"), cutoff=CONFIG.cutoff)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    vectors, h = edge_vectors(graph), torch.randn(graph.n_atoms, 16, dtype=torch.float64)

    def moved(vectors: torch.Tensor) -> torch.Tensor:
        lengths = vectors.norm(dim=1)
        envelope = torch.ones(len(lengths), 1, dtype=torch.float64)
        _, apart = backbone.layers[0](h, vectors / CONFIG.cutoff, backbone.basis(lengths), envelope, graph)
        return apart  # type: ignore[no-any-return]

    plain = moved(vectors)
    assert (plain - vectors / CONFIG.cutoff).abs().max() > 1e-3
    assert torch.allclose(moved(vectors @ turn.T), plain @ turn.T)
    senders, receivers = graph.edge_index
    for i, j, apart in zip(senders.tolist(), receivers.tolist(), plain, strict=True):
        (back,) = torch.nonzero((senders == j) & (receivers == i)).flatten()
        assert torch.allclose(plain[back], -apart)


def test_perfect_crystals_stay() -> None:
    torch.manual_seed(0)
    backbone = EGNN(CONFIG).double()
    graph = graph_from_atoms(bulk("Cu"), cutoff=CONFIG.cutoff)
    features = backbone(torch.randn(1, 16, dtype=torch.float64), edge_vectors(graph), graph)
    assert features.isfinite().all()


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        EGNNConfig(layers=0)
