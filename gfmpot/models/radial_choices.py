r"""Radial functions to choose from, of the distance itself or of a transformed one.

With the envelope u of :func:`gfmpot.models.radial.polynomial_envelope`, a coordinate :math:`x(d)` and K functions
:math:`b_n`, an edge of length d knows

    :math:`R_0 = u(d / r_c)` and :math:`R_n = b_n(x)\, u(d / r_c)`,

so that all of them end at the cutoff with two continuous derivatives, whatever the coordinate does there. The
functions, for n = 1 … K and :math:`0 < x \le r_c`:

    bessel: :math:`b_n = \sqrt{2 / r_c}\, \sin(n \pi x / r_c) / x` (Gasteiger et al. 2020, eq. 7)
    gaussian: :math:`b_n = \exp(-\tfrac12 ((x - \mu_n) / \Delta)^2)`, K centres evenly from 0 to :math:`r_c`, Δ apart
    chebyshev: :math:`b_n = T_n(1 - 2 x / r_c)`

The coordinates, with the mean :math:`\bar r` of the two covalent radii of a pair:

    none: :math:`x = d`
    agnesi: :math:`x = r_c \big/ \big(1 + a s^q / (1 + s^{q - p})\big)` with :math:`s = d / \bar r`, a = 1.0805,
        q = 0.9183, p = 4.5791 (Witt et al., ACEpotentials.jl, J. Chem. Phys. 159, 164101 (2023), with MACE's constants;
        MACE leaves it between 0 and 1, where functions made for 0 to :math:`r_c` hardly differ from each other)
    soft: :math:`x = p_0 + (d - p_0) \cdot \tfrac12 [1 + \tanh(4 (d - m) / (p_1 - p_0))]` with :math:`p_0 = \tfrac34
        \cdot 2 \bar r`, :math:`p_1 = \tfrac43 \cdot 2 \bar r`, :math:`m = \tfrac12 (p_0 + p_1)` (as in MACE): constant
        where atoms overlap, the distance beyond a bond
    both: the first half of the functions are of the distance, the others of agnesi
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from gfmpot.graph import AtomGraph
from gfmpot.models.radial import bessel, gaussian, polynomial_envelope
from gfmpot.models.repulsion import known_radii

RadialType = Literal["bessel", "gaussian", "chebyshev"]
DistanceTransform = Literal["none", "agnesi", "soft", "both"]

AGNESI_A, AGNESI_Q, AGNESI_P = 1.0805, 0.9183, 4.5791
SOFT_STEEPNESS = 4.0


def chebyshev(x: Tensor, size: int, cutoff: float) -> Tensor:
    """(E, 1) Å to (E, size), by recurrence: the arc cosine has no derivative at the ends."""
    y = 1 - 2 * x / cutoff
    before, polynomials = torch.ones_like(y), [y]
    for _ in range(size - 1):
        polynomials.append(2 * y * polynomials[-1] - before)
        before = polynomials[-2]
    return torch.cat(polynomials, dim=1)


def agnesi(distances: Tensor, mean_radii: Tensor) -> Tensor:
    """Å, Å to a number between 1 for overlapping atoms and 0 for distant ones."""
    s = distances / mean_radii
    # The power of the formula, with both sides multiplied so that no exponent is negative.
    return 1 / (1 + AGNESI_A * s**AGNESI_P / (1 + s ** (AGNESI_P - AGNESI_Q)))


def soft(distances: Tensor, mean_radii: Tensor) -> Tensor:
    """Å, Å to Å."""
    start, end = 1.5 * mean_radii, 8 / 3 * mean_radii
    step = 0.5 * (1 + torch.tanh(SOFT_STEEPNESS * (distances - 0.5 * (start + end)) / (end - start)))
    return start + (distances - start) * step


FUNCTIONS: Mapping[RadialType, Callable[[Tensor, int, float], Tensor]] = {
    "bessel": bessel,
    "gaussian": gaussian,
    "chebyshev": chebyshev,
}


class RadialChoice(nn.Module):
    """The functions of the module's description; the first of them is the envelope.

    Args:
        kind: of functions.
        transform: from distances to their coordinate.
        size: K, the number of functions besides the envelope.
        cutoff: Å.
    """

    def __init__(self, kind: RadialType, transform: DistanceTransform, size: int, cutoff: float) -> None:
        super().__init__()
        self.kind, self.transform, self.size, self.cutoff = kind, transform, size, cutoff
        self.out_features = size + 1
        self.of_length = {"none": size, "both": (size + 1) // 2}.get(transform, 0)
        """How many of the functions are of the distance itself."""
        if transform != "none":
            picometres = (100 * known_radii()).round().int()  # exact in whatever precision follows
            self.register_buffer("radii", picometres, persistent=False)

    def forward(self, distances: Tensor, graph: AtomGraph) -> Tensor:
        """(E,) Å to (E, size + 1)."""
        envelope = polynomial_envelope(distances / self.cutoff).unsqueeze(1)
        functions, sizes = FUNCTIONS[self.kind], (self.of_length, self.size - self.of_length)
        parts = [functions(distances.unsqueeze(1), sizes[0], self.cutoff)] if sizes[0] else []
        if sizes[1]:
            parts.append(functions(self.coordinates(distances, graph).unsqueeze(1), sizes[1], self.cutoff))
        return torch.cat([envelope, torch.cat(parts, dim=1) * envelope], dim=1)

    def coordinates(self, distances: Tensor, graph: AtomGraph) -> Tensor:
        """(E,) Å to (E,) Å, transformed."""
        radii = self._mean_radii(graph, distances.dtype)
        return soft(distances, radii) if self.transform == "soft" else self.cutoff * agnesi(distances, radii)

    def radii_of_atoms(self, graph: AtomGraph, dtype: torch.dtype) -> Tensor:
        """(N,) Å, where lengths are transformed."""
        assert isinstance(self.radii, Tensor)
        return self.radii.index_select(0, graph.atomic_numbers).to(dtype) / 100

    def _mean_radii(self, graph: AtomGraph, dtype: torch.dtype) -> Tensor:
        """(E,) Å."""
        of_atoms = self.radii_of_atoms(graph, dtype)
        return 0.5 * (of_atoms.index_select(0, graph.senders) + of_atoms.index_select(0, graph.receivers))
