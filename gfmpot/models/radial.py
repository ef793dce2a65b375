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


def bessel(x: Tensor, size: int, cutoff: float) -> Tensor:
    """(E, 1) Å to (E, size): spherical Bessel functions of order zero."""
    n = torch.arange(1, size + 1, dtype=x.dtype, device=x.device)
    return math.sqrt(2 / cutoff) * torch.sin(n * (math.pi / cutoff) * x) / x


def gaussian(x: Tensor, size: int, cutoff: float) -> Tensor:
    """(E, 1) Å to (E, size): Gaussians centred evenly from 0 to the cutoff, as wide as they are apart."""
    spacing = cutoff / max(size - 1, 1)
    centres = spacing * torch.arange(size, dtype=x.dtype, device=x.device)
    return torch.exp(-0.5 * ((x - centres) / spacing) ** 2)


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
        return torch.cat([envelope, bessel(d, self.out_features - 1, self.cutoff) * envelope], dim=1)
