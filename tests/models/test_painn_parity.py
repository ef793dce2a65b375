"""PaiNN against SchNetPack's, on the same weights (``make_painn_parity.py`` made the numbers)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor, nn

from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms
from gfmpot.models.backbones import painn
from gfmpot.models.backbones.painn import PaiNN, PaiNNConfig

CUTOFF, FEATURES, LAYERS, RADIAL = 4.0, 8, 3, 5


class CosineBessel(nn.Module):
    """SchNetPack's radial functions and cutoff, in the form of ours."""

    out_features = RADIAL + 1

    def forward(self, distances: Tensor, graph: AtomGraph) -> Tensor:
        d = distances.unsqueeze(1)
        envelope = 0.5 * (torch.cos(math.pi * d / CUTOFF) + 1.0)
        bessel = torch.sin(torch.arange(1, RADIAL + 1, dtype=torch.float64) * math.pi / CUTOFF * d) / d
        return torch.cat([envelope, bessel * envelope], dim=1)


def swapped(weight: Tensor, order: tuple[int, ...]) -> Tensor:
    """Blocks of ``FEATURES`` rows in another order."""
    return torch.cat([weight[b * FEATURES : (b + 1) * FEATURES] for b in order])


def state(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their weights under our names; gates of vectors that nothing reads do not exist in ours."""
    ours = {}
    biases = theirs["filter_net.bias"].view(LAYERS, -1, 1)
    filters = theirs["filter_net.weight"].view(LAYERS, -1, RADIAL)
    for n in range(LAYERS):
        message = (0, 1) if n == 0 else (0, 1, 2)
        update = (0, 2) if n == LAYERS - 1 else (0, 2, 1)
        context, mixing = f"interactions.{n}.interatomic_context_net", f"mixing.{n}.intraatomic_context_net"
        for kind in ("weight", "bias"):
            ours[f"messages.{n}.scalars.0.{kind}"] = theirs[f"{context}.0.{kind}"]
            ours[f"messages.{n}.scalars.2.{kind}"] = swapped(theirs[f"{context}.1.{kind}"], message)
            ours[f"updates.{n}.gates.0.{kind}"] = theirs[f"{mixing}.0.{kind}"]
            ours[f"updates.{n}.gates.2.{kind}"] = swapped(theirs[f"{mixing}.1.{kind}"], update)
        ours[f"messages.{n}.filters.weight"] = swapped(torch.cat([biases[n], filters[n]], dim=1), message)
        ours[f"updates.{n}.mix.weight"] = swapped(theirs[f"mixing.{n}.mu_channel_mix.weight"], (1, 0))
    return ours


@pytest.mark.parametrize("name", ["molecule", "crystal"])
def test_same_as_schnetpack(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the cutoff's envelope and the softness of the norm."""
    monkeypatch.setattr(painn, "NORM_SOFTNESS", 1e-4)
    with np.load(Path(__file__).with_name("painn_parity.npz")) as file:
        arrays = {key: torch.as_tensor(file[key]) for key in file.files}
    config = PaiNNConfig(cutoff=CUTOFF, mean_neighbours=1.0, hidden=FEATURES, layers=LAYERS, radial_basis=RADIAL)
    ours = PaiNN(config).double()
    weights = {key.removeprefix("weight."): value for key, value in arrays.items() if key.startswith("weight.")}
    ours.load_state_dict(state(weights))
    ours.basis = CosineBessel()  # type: ignore[assignment]
    numbers, positions, cell = (arrays[f"{name}.{key}"].numpy() for key in ("numbers", "positions", "cell"))
    atoms = Atoms(numbers, positions=positions, cell=cell, pbc=bool(cell.any()))
    graph = graph_from_atoms(atoms, cutoff=CUTOFF)
    features = ours(weights["embedding.weight"][graph.atomic_numbers], edge_vectors(graph), graph)
    assert torch.allclose(features, arrays[f"{name}.features"], rtol=1e-10, atol=1e-12)
