"""SchNet against PyTorch Geometric's, on the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from ase.build import molecule
from torch import Tensor

from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms
from gfmpot.models.backbones import schnet
from gfmpot.models.backbones.schnet import SchNet, SchNetConfig

CONFIG = SchNetConfig(cutoff=4.0, mean_neighbours=1.0, hidden=24, layers=3, filters=16, gaussians=20)


@pytest.fixture
def graph() -> AtomGraph:
    return graph_from_atoms(molecule("CH3COOH"), cutoff=CONFIG.cutoff)


def cosine(x: Tensor) -> Tensor:
    """The envelope of PyTorch Geometric and SchNetPack."""
    return 0.5 * (torch.cos(math.pi * x) + 1.0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch_geometric
def test_same_as_pyg(graph: AtomGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the envelope, where ours has one more continuous derivative."""
    from torch_geometric.nn.models.schnet import GaussianSmearing, InteractionBlock

    monkeypatch.setattr(schnet, "polynomial_envelope", cosine)
    torch.manual_seed(0)
    ours = SchNet(CONFIG).double()
    sizes = (CONFIG.hidden, CONFIG.gaussians, CONFIG.filters, CONFIG.cutoff)
    theirs = [InteractionBlock(*sizes).double() for _ in range(CONFIG.layers)]
    for block, own in zip(theirs, ours.interactions, strict=True):
        pairs = [
            (block.mlp[0], own.filters[0]),
            (block.mlp[2], own.filters[1]),
            (block.conv.lin1, own.inner),
            (block.conv.lin2, own.outer[0]),
            (block.lin, own.outer[1]),
        ]
        for copy, original in pairs:
            copy.load_state_dict(original.state_dict())
    vectors, x = edge_vectors(graph), torch.randn(graph.n_atoms, CONFIG.hidden, dtype=torch.float64)
    lengths = vectors.norm(dim=1)
    smeared = GaussianSmearing(0.0, CONFIG.cutoff, CONFIG.gaussians).double()(lengths)
    expected = x
    for block in theirs:
        expected = expected + block(expected, graph.edge_index, lengths, smeared)
    assert torch.allclose(ours(x, vectors, graph), expected, rtol=1e-6, atol=1e-7)  # its π and Gaussians are float32


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="gaussians 2, got"):
        SchNetConfig(gaussians=1)
