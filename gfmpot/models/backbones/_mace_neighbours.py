r"""Sums over neighbours of products of functions of edges with features, as products of small matrices.

MACE sums :math:`\sum_{e \to i} g_{ec} x_{ek}` over the edges that end on an atom, for few geometric functions c and
many channels k. A tensor of all of e, c and k would be written and read again several times. For one atom the sum is
the product of two matrices; atoms with about as many neighbours are filled up to the same number, and done together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gfmpot.graph import AtomGraph, in_plain_operations, sum_over_neighbours

WIDTHS = (0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 26, 34, 44, 56, 72, 92, 118, 150, 192, 246, 314, 400)
"""Numbers of neighbours up to which atoms are filled up to the largest number among them."""


@dataclass(frozen=True)
class Slots:
    """Places for the edges of a graph, those of an atom side by side; some places are empty."""

    edges: Tensor | None
    """(P,) the edge of each slot, or the number of edges where it is empty; None where slots are edges as they come."""

    senders: Tensor  # (P,) atom from which the edge starts, any where the slot is empty
    blocks: list[tuple[int, int]]
    """Numbers of atoms, and of slots of each of them."""

    places: Tensor  # (N,) of each atom, in the order of the blocks
    graph: AtomGraph

    def fill(self, values: Tensor) -> Tensor:
        """(E, ...) of edges to (P, ...) of slots, zero where they are empty."""
        if self.edges is None:
            return values
        return torch.cat([values, values.new_zeros(1, *values.shape[1:])]).index_select(0, self.edges)

    def sum(self, functions: Tensor, features: Tensor) -> Tensor:
        """(P, m, C) and (P, m, K) to (N, C, K): sums over the slots of an atom, and over m, of their products."""
        functions = functions.to(features.dtype)
        if self.edges is None:
            return sum_over_neighbours(torch.bmm(functions.transpose(1, 2), features), self.graph)
        sizes = [atoms * width for atoms, width in self.blocks]
        parts = zip(self.blocks, torch.split(functions, sizes), torch.split(features, sizes), strict=True)
        sums = [_block_sum(g.reshape(n, -1, g.shape[2]), x.reshape(n, -1, x.shape[2])) for (n, _), g, x in parts]
        return torch.cat(sums).index_select(0, self.places)


def _block_sum(functions: Tensor, features: Tensor) -> Tensor:
    return torch.bmm(functions.transpose(1, 2), features)


def slots(graph: AtomGraph) -> Slots:
    """Built once per graph. What compilers see does not depend on the numbers of neighbours: slots are edges there."""
    if in_plain_operations():
        return Slots(None, graph.senders, [], graph.senders, graph)
    return graph.once(_build)


def _build(graph: AtomGraph) -> Slots:
    device = graph.senders.device
    count = torch.bincount(graph.receivers, minlength=graph.n_atoms)
    start = count.cumsum(0) - count
    width_class = torch.bucketize(count, torch.tensor(WIDTHS, device=device))
    order = torch.argsort(width_class, stable=True)
    edges, blocks = [], []
    sizes = torch.unique_consecutive(width_class[order], return_counts=True)[1].tolist()
    for atoms in torch.split(order, sizes):
        width = int(count[atoms].max())
        slot = torch.arange(width, device=device)
        found = start[atoms].unsqueeze(1) + slot
        edges.append(found.masked_fill(slot >= count[atoms].unsqueeze(1), graph.n_edges).flatten())
        blocks.append((len(atoms), width))
    in_slots = torch.cat(edges)
    senders = torch.cat([graph.senders, graph.senders.new_zeros(1)]).index_select(0, in_slots)
    places = torch.empty_like(order).scatter(0, order, torch.arange(graph.n_atoms, device=device))
    return Slots(in_slots, senders, blocks, places, graph)
