r"""What keeps atoms apart: the screened repulsion of nuclei, which no training data reach.

Ziegler, Biersack and Littmark, *The Stopping and Range of Ions in Matter* (1985). For a pair at distance r, with
:math:`a = 0.46850 / (Z_i^{0.23} + Z_j^{0.23})` Å:

    :math:`V = k Z_i Z_j / r \cdot \sum_n c_n e^{-d_n r / a} \cdot u(r / r_c)`

The envelope u ends it at :math:`r_c`, 0.9 times the sum of the covalent radii, with two continuous derivatives: at most
bonds it is zero. Of the shortest ones, multiple bonds, some is left (1.2 eV of N2), which networks learn to cancel:
they learn what labels have beyond it.
"""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from torch import Tensor

from gfmpot.graph import AtomGraph, in_plain_operations
from gfmpot.graph.ops import sum_over_neighbours
from gfmpot.models.constants import Constants
from gfmpot.models.radial import polynomial_envelope
from gfmpot.units import COULOMB

SHARES = (0.18175, 0.50986, 0.28022, 0.02817)
RATES = (3.19980, 0.94229, 0.40290, 0.20162)
SCREENING = 0.46850
"""Å."""

REACH = 0.9
"""Of the sum of the covalent radii."""

UNKNOWN_RADIUS = 1.6
"""Å, for elements heavier than Cm, whose covalent radii nobody has measured."""


def known_radii() -> Tensor:
    """(119,) covalent radii by atomic number, Å."""
    return torch.tensor([r if r > 0.2 else UNKNOWN_RADIUS for r in covalent_radii], dtype=torch.float64)


class ScreenedRepulsion(Constants):
    """Energy and forces of pairs of nuclei; no weights."""

    radii: Tensor

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("radii", known_radii(), persistent=False)

    def forward(self, vectors: Tensor, graph: AtomGraph) -> tuple[Tensor, Tensor]:
        """Edge vectors (E, 3) Å, float64, to energies of atoms (N,) eV and their gradient by the vectors (E, 3) eV/Å.

        An atom has half of each pair's energy; there is no graph to differentiate further.
        """
        vectors = vectors.detach()
        distances = torch.linalg.vector_norm(vectors, dim=1)
        z = graph.atomic_numbers
        reach = (REACH * (self.radii[z][graph.senders] + self.radii[z][graph.receivers])).clamp(max=self.cutoff)
        if in_plain_operations():
            half, slope = _half_pairs(distances, reach, z[graph.senders], z[graph.receivers])
            return sum_over_neighbours(half, graph), (slope / distances).unsqueeze(1) * vectors
        gradient = torch.zeros_like(vectors)
        near = torch.nonzero(distances < reach).squeeze(1)
        receivers, d = graph.receivers[near], distances[near]
        half, slope = _half_pairs(d, reach[near], z[graph.senders[near]], z[receivers])
        gradient[near] = (slope / d).unsqueeze(1) * vectors[near]
        return half.new_zeros(graph.n_atoms).index_add(0, receivers, half), gradient


def _half_pairs(r: Tensor, reach: Tensor, senders: Tensor, receivers: Tensor) -> tuple[Tensor, Tensor]:
    """(E,) half of the energy of pairs, eV, and its slope, eV/Å; 0 from ``reach`` on."""
    za, zb = senders.to(r.dtype), receivers.to(r.dtype)
    a = SCREENING / (za**0.23 + zb**0.23)
    waves = [share * torch.exp(-rate * r / a) for share, rate in zip(SHARES, RATES, strict=True)]
    screened = sum(waves[1:], waves[0])
    falling = sum((-rate * w for rate, w in zip(RATES[1:], waves[1:], strict=True)), -RATES[0] * waves[0]) / a
    x = (r / reach).clamp(max=1.0)
    envelope = polynomial_envelope(x)
    closing = x**5 * (-168 + x * (336 - 168 * x)) / reach
    bare = 0.5 * COULOMB * za * zb / r
    return bare * screened * envelope, bare * ((falling - screened / r) * envelope + screened * closing)
