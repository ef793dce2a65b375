"""Graphs of many structures at once: what is done per edge is done for all of them together.

For structures of a few atoms, which most candidates of a screening are, the calls to NumPy cost more than what they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gfmpot.graph.atom_graph import UNSPECIFIED_SPIN, AtomGraph
from gfmpot.graph.build import COINCIDENT, InvalidStructureError, check_contacts, checked
from gfmpot.graph.neighbours import FloatArray, IntArray, NeighbourList, candidates, edge_lengths, nearest_only


@dataclass(frozen=True, slots=True)
class Searched:
    """A checked structure of n atoms with P candidates for its edges."""

    numbers: NDArray[np.int64]  # (n,)
    positions: FloatArray  # (n, 3) Å
    cell: FloatArray  # (3, 3) Å
    pbc: NDArray[np.bool_]  # (3,)
    charge: int
    spin: int
    """Multiplicity; 0 = unspecified."""

    pairs: NDArray[np.unsignedinteger]  # (P, 2) sender, receiver
    shifts: NDArray[np.int32]  # (P, 3)

    @property
    def n_atoms(self) -> int:
        """n."""
        return len(self.numbers)

    @property
    def n_edges(self) -> int:
        """P, which the number of edges hardly ever differs from."""
        return len(self.pairs)


def search(
    numbers: ArrayLike,
    positions: ArrayLike,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    *,
    cutoff: float,
    charge: int = 0,
    spin: int | None = None,
) -> Searched:
    """Check a structure and find what may be its edges; arguments and errors as for :func:`build_graph`.

    Atoms on top of each other are noticed by :func:`join`.
    """
    z, xyz, box, periodic = checked(numbers, positions, cell, pbc, charge, spin)
    try:
        pairs, shifts = candidates(xyz, box, periodic, cutoff)
    except ValueError as error:
        raise InvalidStructureError(str(error)) from error
    return Searched(z, xyz, box, periodic, charge, UNSPECIFIED_SPIN if spin is None else spin, pairs, shifts)


def join(
    structures: Sequence[Searched], cutoff: float, max_neighbours: int | None = None
) -> tuple[AtomGraph | None, Mapping[int, str]]:
    """The batch of the structures, equal to that of their single graphs to the last bit.

    Args:
        structures: of the same cutoff.
        cutoff: Å.
        max_neighbours: as for :func:`build_graph`.

    Returns:
        The batch of those without coincident atoms, None if there are none, and what is wrong with the others.
    """
    if not structures:
        return None, {}
    structure = np.repeat(np.arange(len(structures)), [one.n_edges for one in structures])
    edges = _candidates(structures, structure)
    close = set(structure[edges.distances < COINCIDENT].tolist())
    if close:
        rest, _ = join([one for i, one in enumerate(structures) if i not in close], cutoff, max_neighbours)
        return rest, {i: _contact(structures[i]) for i in sorted(close)}
    edges = edges.select(edges.distances < cutoff).sorted()
    if max_neighbours is not None:
        edges = nearest_only(edges, max_neighbours)
    return _graph(structures, edges), {}


def _candidates(structures: Sequence[Searched], structure: IntArray) -> NeighbourList:
    """All candidates, atoms numbered through all structures; ``structure`` (E,) says which one each belongs to."""
    first = np.cumsum([0, *(one.n_atoms for one in structures[:-1])])
    pairs = np.concatenate([one.pairs for one in structures]).astype(np.int64) + first[structure, None]
    shifts = np.concatenate([one.shifts for one in structures]).astype(np.int64)
    positions = np.concatenate([one.positions for one in structures])
    cells = np.stack([one.cell for one in structures])[structure]
    return NeighbourList(pairs.T, shifts, edge_lengths(positions, np.moveaxis(cells, 1, 0), pairs.T, shifts))


def _contact(one: Searched) -> str:
    """What is wrong with a structure with coincident atoms."""
    pairs, shifts = one.pairs.T.astype(np.int64), one.shifts.astype(np.int64)
    edges = NeighbourList(pairs, shifts, edge_lengths(one.positions, one.cell, pairs, shifts))
    try:
        check_contacts(one.numbers, edges)
    except InvalidStructureError as error:
        return str(error)
    raise AssertionError("no atoms coincide")


def _graph(structures: Sequence[Searched], edges: NeighbourList) -> AtomGraph:
    n_atoms = [one.n_atoms for one in structures]
    return AtomGraph(
        positions=torch.from_numpy(np.concatenate([one.positions for one in structures])),
        atomic_numbers=torch.from_numpy(np.concatenate([one.numbers for one in structures])),
        cell=torch.from_numpy(np.stack([one.cell for one in structures])),
        pbc=torch.from_numpy(np.stack([one.pbc for one in structures])),
        edge_index=torch.from_numpy(edges.edge_index),
        cell_shifts=torch.from_numpy(edges.cell_shifts),
        structure_of_atom=torch.from_numpy(np.repeat(np.arange(len(structures)), n_atoms)),
        charge=torch.tensor([one.charge for one in structures]),
        spin=torch.tensor([one.spin for one in structures]),
    )
