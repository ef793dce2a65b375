r"""Real spherical harmonics and their couplings, in e3nn's basis and normalisation.

The polar axis is y. With :math:`c_m + i s_m = (z + i x)^m` and unit vectors (x, y, z), the harmonics of order l are,
from :math:`m = -l` to l, polynomials of y times :math:`s_{|m|}` for negative m and times :math:`c_m` for others, of
which the squares add up to :math:`2 l + 1` (e3nn's "component" normalisation). Of order l, all have parity
:math:`(-1)^l`, and each is even or odd in x, y and z by itself.
"""

from __future__ import annotations

import importlib
import math
import warnings

import torch
from torch import Tensor

MOST_ELL = 3
"""Highest order for which harmonics are written out."""


def harmonics(units: Tensor, max_ell: int) -> Tensor:
    """(E, 3) unit vectors to (E, (max_ell + 1)²)."""
    x, y, z = units.unbind(dim=1)
    values = [torch.ones_like(x)]
    if max_ell >= 1:
        values += [math.sqrt(3) * x, math.sqrt(3) * y, math.sqrt(3) * z]
    if max_ell >= 2:
        values += _of_order_two(x, y, z)
    if max_ell >= 3:
        values += _of_order_three(x, y, z)
    return torch.stack(values, dim=1)


def _of_order_two(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    scale = math.sqrt(15)
    polar = math.sqrt(5) / 2 * (3 * y * y - 1)
    return [scale * x * z, scale * x * y, polar, scale * y * z, scale / 2 * (z * z - x * x)]


def _of_order_three(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    one, two, three = math.sqrt(21 / 8), math.sqrt(105), math.sqrt(35 / 8)
    xx, yy, zz = x * x, y * y, z * z
    ring = one * (5 * yy - 1)
    return [
        three * x * (3 * zz - xx),
        two * x * y * z,
        ring * x,
        math.sqrt(7) / 2 * y * (5 * yy - 3),
        ring * z,
        two / 2 * y * (zz - xx),
        three * z * (zz - 3 * xx),
    ]


def degrees(max_ell: int) -> list[int]:
    """Numbers 2 l + 1 of harmonics of each order."""
    return [2 * ell + 1 for ell in range(max_ell + 1)]


def mirror_class(ell: int, m: int) -> int:
    """Three bits: whether the harmonic is odd in x, in y, in z. That of a product is the ``xor`` of its factors'."""
    in_x, in_y, in_z = m < 0, (ell + m) % 2 == 1, (m + (m < 0)) % 2 == 1
    return in_x + 2 * in_y + 4 * in_z


def wigner_3j(l1: int, l2: int, l3: int) -> Tensor:
    """(2 l1 + 1, 2 l2 + 1, 2 l3 + 1) float64, invariant under rotations, of norm one.

    Raises:
        ImportError: e3nn is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parts of e3nn that are not used here
            o3 = importlib.import_module("e3nn.o3")
    except ImportError as error:
        raise ImportError('the backbone "mace" needs e3nn: pip install "gfmpot[mace]"') from error
    coefficients: Tensor = o3.wigner_3j(l1, l2, l3, dtype=torch.float64, device=torch.device("cpu"))
    return coefficients
