r"""Sums over pairs of edges :math:`k \to j \to i` that follow each other, without a tensor of such pairs.

With features x of edges, radial functions R, filters D and the harmonics A of :mod:`._dimenet_basis`, what DimeNet++
sums for the edge from j to i is

    :math:`y_{ji} = \sum_{k \to j,\ k \ne i} x_{kj} \sum_{ln} D_{ln} R_{ln}(d_{kj})\, Y_l^0(\theta_{kji})`
    :math:`\quad = \sum_{lm} A_{lm}(u_{ji}) \Big[\sum_{k \to j} A_{lm}(u_{kj})\, x_{kj} \sum_n D_{ln} R_{ln}(d_{kj})
    \Big] - \text{the same of } k = i`

with unit vectors u along the edges. The bracket belongs to the atom j: it is made once instead of for every i. With n
neighbours and L orders, that is :math:`2 L^2` products per edge and feature in place of :math:`n L`.

Which edge is left out is a matter of topology: that from i to j across the opposite cell shift. Other images of i are
neighbours of j like any others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gfmpot.graph import AtomGraph, gather_senders, in_plain_operations, reverse_edges, sum_over_neighbours
from gfmpot.models.backbones._dimenet_basis import Harmonics

WIDTHS = (12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Numbers of neighbours up to which atoms are padded to the largest among them."""


@dataclass(frozen=True)
class Bucket:
    """Atoms with about the same number of neighbours, for products of blocks of w edges per atom."""

    arriving: Tensor  # (n w,) edges that end on the n atoms, filled up with any others
    leaving: Tensor  # (n w,) edges that start there
    arrives: Tensor  # (n w, 1) bool, False where filled up
    leaves: Tensor  # (n w, 1) bool
    width: int  # w


@dataclass(frozen=True)
class Block:
    """What the edges of a :class:`Bucket` know of their geometry; it is zero where edges are filled up."""

    arriving: Tensor  # (n w,)
    radial: Tensor  # (L, n w, K)
    inward: Tensor  # (n, w, L²) harmonics of arriving edges
    outward: Tensor  # (n, w, L²) of leaving edges


class EdgePairs:
    """The geometry of pairs of edges, which all interactions share.

    Args:
        radial: (E, L, K) functions of lengths.
        units: (E, 3) directions.
        harmonics: of the same L.
        graph: topology.
    """

    def __init__(self, radial: Tensor, units: Tensor, harmonics: Harmonics, graph: AtomGraph) -> None:
        self.radial, self.orders, self.graph = radial, harmonics.orders, graph
        self.angular: Tensor = harmonics(units)
        self.returning = radial * harmonics.opposite.to(radial.dtype)
        self.blocks = None if in_plain_operations() else [self._block(bucket) for bucket in buckets(graph)]

    def sums(self, x: Tensor, filters: Tensor) -> Tensor:
        """(E, I): for each edge j → i the sum of y over k.

        Args:
            x: (E, I) features of edges.
            filters: (L, K, I) D.
        """
        with torch.autocast(x.device.type, enabled=False):
            x, filters = x.to(self.radial.dtype), filters.to(self.radial.dtype)
            reverse, there = reverse_edges(self.graph)
            back = (self.returning.flatten(1) @ filters.flatten(0, 1)) * x
            every = self._over_edges(x, filters) if self.blocks is None else self._over_blocks(x, filters)
            difference: Tensor = every - back.index_select(0, reverse) * there
            return difference

    def _over_edges(self, x: Tensor, filters: Tensor) -> Tensor:
        """All k, by operations on whole tensors of edges, whose shapes depend on the number of edges only."""
        total, graph = torch.zeros_like(x), self.graph
        for radial, angular, filter_ in zip(self.radial.unbind(1), _by_order(self.angular), filters, strict=True):
            terms = angular.unsqueeze(2) * ((radial @ filter_) * x).unsqueeze(1)  # (E, 2 l + 1, I)
            here = gather_senders(sum_over_neighbours(terms, graph), graph)
            total = total + (angular.unsqueeze(2) * here).sum(dim=1)
        return total

    def _over_blocks(self, x: Tensor, filters: Tensor) -> Tensor:
        """All k, by products of matrices for each atom."""
        assert self.blocks is not None
        sums = [x[:0], *(_block_sums(block, x, filters) for block in self.blocks)]
        return torch.cat(sums).index_select(0, places(self.graph))

    def _block(self, bucket: Bucket) -> Block:
        shape = (-1, bucket.width, self.orders**2)
        return Block(
            arriving=bucket.arriving,
            radial=self.radial.index_select(0, bucket.arriving).transpose(0, 1),
            inward=(self.angular.index_select(0, bucket.arriving) * bucket.arrives).view(shape),
            outward=(self.angular.index_select(0, bucket.leaving) * bucket.leaves).view(shape),
        )


def _block_sums(block: Block, x: Tensor, filters: Tensor) -> Tensor:
    """(n w, I) of leaving edges, from x (E, I) of all."""
    n, width, _ = block.inward.shape
    terms = torch.bmm(block.radial, filters) * x.index_select(0, block.arriving)  # (L, n w, I)
    parts = zip(_by_order(block.inward), terms.unbind(), strict=True)
    on_atoms = [torch.bmm(a.transpose(1, 2), t.view(n, width, -1)) for a, t in parts]  # (n, 2 l + 1, I)
    return torch.bmm(block.outward, torch.cat(on_atoms, dim=1)).flatten(0, 1)


def _by_order(angular: Tensor) -> tuple[Tensor, ...]:
    """(..., L²) to (..., 2 l + 1) of each l."""
    sizes = range(1, 2 * math.isqrt(angular.shape[-1]), 2)
    return torch.split(angular, list(sizes), dim=-1)


def buckets(graph: AtomGraph) -> list[Bucket]:
    """All atoms that have neighbours; built once per graph."""
    return graph.once(_build_buckets)


def places(graph: AtomGraph) -> Tensor:
    """(E,) where each edge is among the leaving ones of all buckets together; built once per graph."""
    return graph.once(_find_places)


def _build_buckets(graph: AtomGraph) -> list[Bucket]:
    by_receiver = torch.arange(graph.n_edges, device=graph.receivers.device)
    by_sender = torch.argsort(graph.senders, stable=True)
    inward, outward = (torch.bincount(ends, minlength=graph.n_atoms) for ends in (graph.receivers, graph.senders))
    degree = torch.maximum(inward, outward)
    kind = torch.bucketize(degree, degree.new_tensor(WIDTHS)).masked_fill(degree == 0, -1)
    found: list[Bucket] = []
    for k in torch.unique(kind).tolist()[int((degree == 0).any()) :]:
        atoms = torch.nonzero(kind == k).flatten()
        width = int(degree[atoms].max())
        arriving = _padded(by_receiver, inward, atoms, width)
        leaving = _padded(by_sender, outward, atoms, width)
        found.append(Bucket(arriving[0], leaving[0], arriving[1], leaving[1], width))
    return found


def _padded(edges: Tensor, counts: Tensor, atoms: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(n w,) the edges of each atom, and (n w, 1) which they are; ``edges`` (E,) are ordered by atom."""
    slots = torch.arange(width, device=edges.device)
    first = (counts.cumsum(0) - counts)[atoms]
    taken = (first.unsqueeze(1) + slots).clamp(max=len(edges) - 1).flatten()
    return edges[taken], (slots < counts[atoms].unsqueeze(1)).view(-1, 1)


def _find_places(graph: AtomGraph) -> Tensor:
    filled = [bucket.leaves.flatten() for bucket in buckets(graph)]
    if not filled:
        return graph.senders
    edges = torch.cat([bucket.leaving for bucket in buckets(graph)])
    there = torch.nonzero(torch.cat(filled)).flatten()
    return torch.empty_like(graph.senders).scatter(0, edges[there], there)
