"""Radial functions of message passing: what an edge knows of its length."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def polynomial_envelope(x: Tensor, p: int = 6) -> Tensor:
    """A step from 1 at x = 0 to 0 at x = 1, with two continuous derivatives there, and 0 beyond.

    Gasteiger et al., Directional Message Passing (2020), eq. 8.
    """
    a, b, c = -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2
    envelope = 1 + x**p * (a + x * (b + x * c))
    return torch.where(x < 1, envelope, torch.zeros_like(x))


class BesselBasis(nn.Module):
    """Spherical Bessel functions of order zero, times an envelope, and the envelope itself.

    ``basis_n(d) = sqrt(2 / r_c) sin(n π d / r_c) / d · u(d / r_c)`` for n = 1 … ``size`` (Gasteiger et al. 2020, eq.
    7), and ``basis_0 = u``: a linear map of the result is a filter whose bias vanishes smoothly at the cutoff too.
    """

    def __init__(self, size: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.out_features = size + 1

    def forward(self, distances: Tensor) -> Tensor:
        """(E,) Å to (E, size + 1)."""
        d = distances.unsqueeze(1)
        envelope = polynomial_envelope(d / self.cutoff)
        n = torch.arange(1, self.out_features, dtype=d.dtype, device=d.device)
        bessel = math.sqrt(2 / self.cutoff) * torch.sin(n * (math.pi / self.cutoff) * d) / d
        return torch.cat([envelope, bessel * envelope], dim=1)
