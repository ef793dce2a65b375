r"""The symmetric contraction of MACE (Batatia et al. 2022, eqs. 10 and 11), as products of monomials with one matrix.

From features :math:`A_{lm}` of an atom and a channel come equivariant polynomials of degrees ν up to the correlation,

    :math:`B_{\eta L M} = \sum_{l_1 m_1 \dots l_\nu m_\nu} U^{\eta L M}_{l_1 m_1 \dots l_\nu m_\nu}
    \prod_\xi A_{l_\xi m_\xi}` (eq. 10) and :math:`m_{LM} = \sum_{\nu \eta} W_{\nu \eta L} B_{\nu \eta L M}` (eq. 11).

The paper contracts the highest degree first: U with the weights, then with one A after the other. That takes U for
dense, and makes no use of its symmetry in the factors. Here polynomials are written in monomials, of which there are
fewer by a factor of nearly ν!; and a real harmonic is even or odd in each of x, y and z, so that a polynomial has only
monomials of its own class among eight. What is left are products of pairs of rows and small matrices, and weights come
last, so that those of each atom may be its own at no cost.

U is a basis of all symmetric couplings to natural parity :math:`(-1)^L`: orthogonal, each of such a size that B has
unit variance for independent normal A, up to what traces add. MACE's own is another basis of the same space.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gfmpot.models.backbones._mace_harmonics import mirror_class, wigner_3j

Monomial = tuple[int, ...]
"""Positions, ascending, of its factors among the components of A."""

Polynomial = list[dict[Monomial, float]]
"""By M, its coefficients."""

INDEPENDENT = 1e-8
"""Relative norm of what a coupling adds to those before it, below which it is nothing but round-off."""


class Constants(nn.Module):
    """Buffers that are as exact as the precision allows, even if the module was cast to a lower one before."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.exact = tensors
        for name, tensor in tensors.items():
            dtype = torch.get_default_dtype() if tensor.is_floating_point() else tensor.dtype
            self.register_buffer(name, tensor.to(dtype), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in self.exact.items():
            setattr(self, name, tensor.to(getattr(self, name)))
        return self

    def __getitem__(self, name: str) -> Tensor:
        tensor = getattr(self, name)
        assert isinstance(tensor, Tensor)
        return tensor


class SymmetricContraction(nn.Module):
    """Features A to messages m.

    Args:
        max_ell: highest order of A, which has d = (max_ell + 1)² components.
        orders: highest L of m, which has (orders + 1)² components.
        correlation: highest degree.
    """

    def __init__(self, max_ell: int, orders: int, correlation: int) -> None:
        super().__init__()
        self.orders, self.correlation = orders, correlation
        self.paths = [len(polynomials(max_ell, order, correlation)) for order in range(orders + 1)]
        """Number n of polynomials, and of weights per channel, of each L."""

        tensors, self.classes = _tables(max_ell, orders, correlation)
        self.tables = Constants(tensors)

    def forward(self, features: Tensor, weights: list[Tensor]) -> list[Tensor]:
        """Features (d, N, K) and, by L, weights (n, N, K) to, by L and M, (N, K)."""
        values = self.polynomials(features)
        return [
            (weight * values[order, m]).sum(dim=0) for order, weight in enumerate(weights) for m in range(2 * order + 1)
        ]

    def polynomials(self, features: Tensor) -> dict[Component, Tensor]:
        """(d, N, K) to, by L and M (counted from 0), B (n, N, K)."""
        table = self.tables
        factors = torch.cat([torch.ones_like(features[:1]), features])
        if self.correlation == 3:
            pairs = factors.index_select(0, table["first"]) * factors.index_select(0, table["second"])
            factors = torch.cat([factors, pairs])
        monomials = factors.index_select(0, table["left"]) * factors.index_select(0, table["right"])
        values: dict[Component, Tensor] = {}
        rows = torch.split(monomials.flatten(1), [table[f"of_{c}"].shape[1] for c in self.classes])
        for (name, components), part in zip(self.classes.items(), rows, strict=True):
            found = (table[f"of_{name}"] @ part).view(-1, *features.shape[1:])
            of_each = torch.split(found, [self.paths[order] for order, _ in components])
            values |= zip(components, of_each, strict=True)
        return values


Component = tuple[int, int]
"""L, and M counted from 0."""


def _tables(max_ell: int, orders: int, correlation: int) -> tuple[dict[str, Tensor], dict[int, list[Component]]]:
    """What products to make and, by class, matrices from monomials to polynomials; which components a class has.

    Factors are 1, the components of A and, for degree 3, their products in pairs: every monomial is the product of two.
    """
    d = (max_ell + 1) ** 2
    pairs = list(itertools.combinations_with_replacement(range(d), 2)) if correlation == 3 else []
    factor = {monomial: i for i, monomial in enumerate([(), *((i,) for i in range(d)), *pairs])}
    tensors = {"first": torch.tensor([i + 1 for i, _ in pairs]), "second": torch.tensor([j + 1 for _, j in pairs])}
    classes = _components_by_class(orders)
    used: list[Monomial] = []
    for name, components in classes.items():
        rows = [p[m] for order, m in components for p in polynomials(max_ell, order, correlation)]
        monomials = sorted(set().union(*rows))
        tensors[f"of_{name}"] = torch.tensor(
            [[row.get(x, 0.0) for x in monomials] for row in rows], dtype=torch.float64
        )
        used += monomials
    split = correlation - 1
    tensors["left"] = torch.tensor([factor[x[:split]] for x in used])
    tensors["right"] = torch.tensor([factor[x[split:]] for x in used])
    return tensors, classes


def _components_by_class(orders: int) -> dict[int, list[Component]]:
    classes: dict[int, list[Component]] = {}
    for order in range(orders + 1):
        for m in range(2 * order + 1):
            classes.setdefault(mirror_class(order, m - order), []).append((order, m))
    return classes


def polynomials(max_ell: int, order: int, correlation: int) -> list[Polynomial]:
    """A basis of the equivariant polynomials of A of order L and parity (−1)^L, by degree up to ``correlation``."""
    found: list[Polynomial] = []
    for degree in range(1, correlation + 1):
        for ls in itertools.combinations_with_replacement(range(max_ell + 1), degree):
            if (sum(ls) + order) % 2 == 0:
                found += _independent(ls, order)
    return found


@cache
def _independent(ls: tuple[int, ...], order: int) -> list[Polynomial]:
    """Those of given orders of the factors, by the method of Gram and Schmidt.

    The scalar product is that of symmetric tensors, times the factorial of the degree, averaged over M.
    """
    places = [range(ell * ell, (ell + 1) ** 2) for ell in ls]
    monomials = [tuple(sorted(place)) for place in itertools.product(*places)]
    known = {monomial: i for i, monomial in enumerate(dict.fromkeys(monomials))}
    index = torch.tensor([known[monomial] for monomial in monomials])
    metric = torch.tensor([_orderings(monomial) for monomial in known], dtype=torch.float64) / (2 * order + 1)
    basis: list[Tensor] = []
    for tree in _trees(ls, order):
        new = torch.zeros(2 * order + 1, len(known), dtype=torch.float64).index_add(1, index, tree.flatten(0, -2).T)
        for _ in range(2):  # the second time for the round-off of the first
            for other in basis:
                new = new - (new * other * metric).sum() * other
        norm = (new * new * metric).sum().sqrt()
        if norm > INDEPENDENT:
            basis.append(new / norm)
    return [[_sparse(row, list(known)) for row in rows.tolist()] for rows in basis]


def _sparse(row: list[float], monomials: list[Monomial]) -> dict[Monomial, float]:
    return {x: value for x, value in zip(monomials, row, strict=True) if abs(value) > INDEPENDENT}


def _orderings(monomial: Monomial) -> int:
    """Of its factors, that are the same: α! of a monomial with exponents α."""
    return math.prod(math.factorial(count) for count in Counter(monomial).values())


def _trees(ls: tuple[int, ...], order: int) -> Iterator[Tensor]:
    """(2 l1 + 1, ..., 2 L + 1) each way to couple the factors one after the other."""
    if len(ls) == 1:
        yield from [torch.eye(2 * order + 1, dtype=torch.float64)] if ls[0] == order else []
        return
    *first, last = ls
    for middle in range(abs(order - last), order + last + 1):
        coupling = wigner_3j(middle, last, order) if middle <= sum(first) else None
        for tree in _trees(tuple(first), middle) if coupling is not None else ():
            yield torch.tensordot(tree, coupling, dims=1)
