r"""What DimeNet's edges know of their lengths and directions: spherical Bessel functions and spherical harmonics.

The basis of a pair of edges in DimeNet (Gasteiger, Groß, Günnemann, *Directional Message Passing for Molecular Graphs*,
2020, eq. 6) is :math:`u(x)\, N_{ln}\, j_l(z_{ln} x)\, Y_l^0(\theta)`, with :math:`x = d / c`, the n-th root
:math:`z_{ln}` of :math:`j_l`, the norm :math:`N_{ln} = \sqrt{2} / |j_{l+1}(z_{ln})|` and the envelope u of eq. 8. Here
are its two factors, of which the second is taken apart further: by the addition theorem

    :math:`Y_l^0(\theta) = \sqrt{(2l+1)/4\pi}\, P_l(a \cdot b) = \sum_m A_{lm}(a)\, A_{lm}(b)`

for unit vectors a and b at the angle :math:`\theta`, with real spherical harmonics
:math:`A_{lm} = (4\pi/(2l+1))^{1/4}\, Y_{lm}`. These are polynomials in the components of a vector: no angle is
computed, and nothing is singular where three atoms are in line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor

from gfmpot.models.constants import Constants
from gfmpot.models.radial import polynomial_envelope

SPARE_DEGREES = 24
"""Of polynomials, beyond half of the largest root: Chebyshev coefficients of a wave vanish faster than any power from
there on, and this many more make the series exact to rounding in float64."""


class RadialFunctions(Constants):
    r"""Normalised spherical Bessel functions times the envelope, for L orders l and K roots n each.

    They are evaluated as Chebyshev series on :math:`0 \le x \le 1`, in float64 always: closed forms and recursions in l
    cancel where :math:`z_{ln} x < l`, i.e. at bonds, and would need a sine and a cosine for each of the L K roots.
    """

    coefficients: Tensor  # (degree + 1, L K)

    def __init__(self, orders: int, size: int, cutoff: float, envelope_exponent: int) -> None:
        super().__init__()
        self.orders, self.size, self.cutoff, self.power = orders, size, cutoff, envelope_exponent + 1
        coefficients = _chebyshev_coefficients(bessel_roots(orders, size))
        self.register_buffer("coefficients", torch.from_numpy(coefficients), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """(E,) Å to (E, L, K)."""
        x = (distances.double() / self.cutoff).clamp(max=1.0)  # a polynomial grows fast outside of where it was fitted
        with torch.autocast(distances.device.type, enabled=False):
            series = _chebyshev_polynomials(2 * x - 1, len(self.coefficients)) @ self.coefficients
        functions = series * polynomial_envelope(x, self.power).unsqueeze(1)
        return functions.to(distances.dtype).view(-1, self.orders, self.size)


def bessel_roots(orders: int, size: int) -> NDArray[np.float64]:
    """(L, K) first positive roots of the spherical Bessel functions of orders 0 to L − 1.

    Between two roots of one order lies one of the next, and those of order 0 are multiples of π.
    """
    roots = np.pi * np.arange(1.0, size + orders)
    rows = [roots[:size]]
    for order in range(1, orders):
        roots = np.array([_root(order, lower, upper) for lower, upper in pairwise(roots)])
        rows.append(roots[:size])
    return np.stack(rows)


def _root(order: int, lower: float, upper: float) -> float:
    return float(brentq(lambda z: spherical_jn(order, z), lower, upper, xtol=1e-14))


def _chebyshev_coefficients(roots: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""(degree + 1, L K) of :math:`N_{ln} j_l(z_{ln} (s + 1) / 2)` for s from −1 to 1."""
    orders = np.arange(len(roots)).reshape(-1, 1)
    norms = math.sqrt(2) / np.abs(spherical_jn(orders + 1, roots))
    degree = int(roots.max() / 2) + SPARE_DEGREES
    s = chebyshev.chebpts1(degree + 1)
    values = norms * spherical_jn(orders, roots * (s.reshape(-1, 1, 1) + 1) / 2)
    # At these points the polynomials are orthogonal: their coefficients are projections.
    coefficients = chebyshev.chebvander(s, degree).T @ values.reshape(degree + 1, -1) * (2 / (degree + 1))
    coefficients[0] /= 2
    return np.asarray(coefficients)


def _chebyshev_polynomials(s: Tensor, count: int) -> Tensor:
    """(E,) to (E, count): the first Chebyshev polynomials, twice as many at each step.

    By T_{m+k} = 2 T_m T_k − T_{m−k} for k = 1 … m.
    """
    table = torch.stack([torch.ones_like(s), s], dim=1)
    while (m := table.shape[1] - 1) < count - 1:
        k = min(m, count - 1 - m)
        more = 2 * table[:, m:] * table[:, 1 : k + 1] - table[:, m - k : m].flip(1)
        table = torch.cat([table, more], dim=1)
    return table


class Harmonics(Constants):
    r"""The harmonics :math:`A_{lm}` of L orders l.

    :math:`A_{l,\pm m} = q_l^m(z)\, (x + iy)^m`, real and imaginary part, with
    :math:`q_l^m = c_{lm}\, d^m P_l / dz^m`, where :math:`d^m P_m / dz^m = (2m - 1)!!` and (the m-th derivatives of the
    recursion of Legendre polynomials)

        :math:`(l - m)\, P_l^{(m)} = (2l - 1)\, z\, P_{l-1}^{(m)} - (l + m - 1)\, P_{l-2}^{(m)}`
    """

    recursion: Tensor  # (L, 3, L) by l and m: factors of z q_{l−1}^m and of q_{l−2}^m, and q_l^m where l = m
    opposite: Tensor  # (L, 1) Y_l^0(π), the sum over m of A_lm(a) A_lm(−a)

    def __init__(self, orders: int) -> None:
        super().__init__()
        self.orders = orders
        recursion = np.zeros((orders, 3, orders))
        for order in range(orders):
            for m in range(order):
                norms = [_norm(order, m) / _norm(low, m) if low >= m else 0.0 for low in (order - 1, order - 2)]
                recursion[order, 0, m] = norms[0] * (2 * order - 1) / (order - m)
                recursion[order, 1, m] = norms[1] * (order + m - 1) / (order - m)
            recursion[order, 2, order] = _norm(order, order) * math.prod(range(1, 2 * order, 2))
        self.register_buffer("recursion", torch.from_numpy(recursion), persistent=False)
        every = np.arange(orders).reshape(-1, 1)
        opposite = (-1.0) ** every * np.sqrt((2 * every + 1) / (4 * np.pi))
        self.register_buffer("opposite", torch.from_numpy(opposite), persistent=False)

    def forward(self, units: Tensor) -> Tensor:
        """(E, 3) unit vectors to (E, L²), by l; the order within an l is of no consequence."""
        real, imaginary = _powers(units, self.orders)
        parts: list[Tensor] = []
        for order, q in enumerate(self._along_axis(units[:, 2:])):
            parts += [q[:, : order + 1] * real[:, : order + 1], q[:, 1 : order + 1] * imaginary[:, 1 : order + 1]]
        return torch.cat(parts, dim=1)

    def _along_axis(self, z: Tensor) -> Iterator[Tensor]:
        """(E, 1) to (E, L) q_l^m by m, for each l."""
        last = before = torch.zeros_like(z).expand(-1, self.orders)
        for up, down, start in self.recursion.to(z.dtype).unbind():
            last, before = up * z * last - down * before + start, last
            yield last


def _norm(order: int, m: int) -> float:
    """c_lm: makes the sum over m of A_lm(a) A_lm(b) the harmonic Y_l^0 of the angle between a and b."""
    both = 1.0 if m == 0 else 2.0
    share = both * math.factorial(order - m) / math.factorial(order + m)
    return float(math.sqrt(share) * ((2 * order + 1) / (4 * math.pi)) ** 0.25)


def _powers(units: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(E, count) real and imaginary parts of w^m, w = x + iy, by w^{m+1} = 2 x w^m − |w|² w^{m−1}."""
    x, y, _ = units.unbind(dim=1)
    square = (x * x + y * y).unsqueeze(1)
    powers = [torch.stack([torch.ones_like(x), torch.zeros_like(x)], dim=1), units[:, :2]]
    for _ in range(count - 2):
        powers.append(2 * units[:, :1] * powers[-1] - square * powers[-2])
    real, imaginary = torch.stack(powers[:count], dim=2).unbind(dim=1)
    return real, imaginary
