"""Which edge runs the other way between the same two atoms: what depends on lengths alone is the same for both."""

from __future__ import annotations

import torch
from torch import Tensor

from gfmpot.graph.atom_graph import AtomGraph
from gfmpot.graph.plain import in_plain_operations


def edge_pairs(graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """(P,) one edge of each pair of edges that are each other's reverse, and (E,) the pair of each edge.

    Built once per graph. In plain operations, of which a compiler wants sizes to be known, every edge is a pair.
    """
    if in_plain_operations():
        every = torch.arange(graph.n_edges, device=graph.receivers.device)
        return every, every
    return graph.once(_find_edge_pairs)


def reverse_edges(graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """(E,) for each edge that between the same atoms the other way, and (E, 1) bool, whether there is one.

    Built once per graph. Without a cap on neighbours every edge has one.
    """
    return graph.once(_find_reverse_edges)


def _find_edge_pairs(graph: AtomGraph) -> tuple[Tensor, Tensor]:
    reverse, there = reverse_edges(graph)
    own = torch.arange(graph.n_edges, device=reverse.device)
    first = torch.where(there.squeeze(1), torch.minimum(own, reverse), own)
    is_first = first == own
    number = is_first.cumsum(0) - 1
    return torch.nonzero(is_first).flatten(), number.index_select(0, first)


def _find_reverse_edges(graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """By looking up the key of each edge's reverse among the keys of all."""
    keys, order = torch.sort(_keys(graph.receivers, graph.senders, graph.cell_shifts, graph))
    wanted = _keys(graph.senders, graph.receivers, -graph.cell_shifts, graph)
    place = torch.searchsorted(keys, wanted).clamp(max=graph.n_edges - 1)
    return order.index_select(0, place), (keys.index_select(0, place) == wanted).unsqueeze(1)


def _keys(first: Tensor, second: Tensor, shifts: Tensor, graph: AtomGraph) -> Tensor:
    """(E,) one integer for each pair of atoms and shift, the same for equal ones.

    It overflows where atoms are 10⁴ cells away in structures of 10⁴ atoms, without harm unless two happen to meet.
    """
    base = 2 * graph.cell_shifts.abs().sum(dim=1).amax() + 1 if graph.n_edges else 1
    key = first * graph.n_atoms + second
    for shift in shifts.unbind(dim=1):
        key = key * base + shift
    return key
