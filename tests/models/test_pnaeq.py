"""PNAEq: its aggregates, by hand and in the limit where they are those of PNA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from gfmpot.graph import graph_from_atoms
from gfmpot.models.backbones import pnaeq
from gfmpot.models.backbones.pnaeq import PNAEqConfig, aggregate


def star(neighbours: int) -> Atoms:
    """An atom with so many neighbours at 2 Å, which are not neighbours of each other."""
    golden = np.pi * (3 - 5**0.5)
    z = np.linspace(0.95, -0.95, neighbours)
    around = np.stack([np.cos(golden * np.arange(neighbours)), np.sin(golden * np.arange(neighbours))], axis=1)
    places = np.column_stack([around * np.sqrt(1 - z**2)[:, None], z]) * 2.0
    return Atoms(f"Cu{neighbours + 1}", positions=[[0, 0, 0], *places])


def test_aggregates_by_hand() -> None:
    graph = graph_from_atoms(star(4), cutoff=2.05)
    assert graph.n_edges == 8
    torch.manual_seed(0)
    messages, weights = torch.randn(8, 2, dtype=torch.float64), torch.rand(8, 1, dtype=torch.float64)
    degree, found = aggregate(messages, weights, graph)
    own = (graph.receivers == 0).numpy()
    m = np.vstack([messages.numpy()[own], np.zeros((1, 2))])  # and one of its own
    u = np.append(weights.numpy()[own], 1.0)
    assert degree[0] == pytest.approx(u.sum() - 1)
    steep = pnaeq.SHARPNESS * m / np.sqrt(1 + m**2)
    for f in range(2):
        mean = np.average(m[:, f], weights=u)
        variance = np.average((m[:, f] - mean) ** 2, weights=u)
        expected = (
            mean,
            np.sqrt(variance + 0.01) - 0.1,
            np.average(m[:, f], weights=u * np.exp(steep[:, f])),
            np.average(m[:, f], weights=u * np.exp(-steep[:, f])),
        )
        assert found[0, f::2].numpy() == pytest.approx(np.array(expected))


def test_soft_extremes_are_pnas_when_sharp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pnaeq, "SHARPNESS", 400.0)
    graph = graph_from_atoms(star(4), cutoff=2.05)
    messages = torch.linspace(-1, 1, 8, dtype=torch.float64).unsqueeze(1)
    _, found = aggregate(messages, torch.ones(8, 1, dtype=torch.float64), graph)
    own = messages[graph.receivers == 0]
    assert found[0, 2].item() == pytest.approx(max(own.max().item(), 0.0), abs=1e-6)
    assert found[0, 3].item() == pytest.approx(min(own.min().item(), 0.0), abs=1e-6)


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        PNAEqConfig(radial_basis=0)
