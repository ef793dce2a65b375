"""Neighbour lists: one function, with vesin behind it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TIE = 1e-6
"""Å: neighbours whose distances differ by less are one shell, which a neighbour cap keeps or drops whole."""


class NeighbourList(NamedTuple):
    """Directed edges (each pair twice), sorted by receiver, then sender, then shift."""

    edge_index: IntArray  # (2, E): senders, receivers
    cell_shifts: IntArray  # (E, 3)
    distances: FloatArray  # (E,) Å

    def select(self, keep: NDArray[np.bool_]) -> NeighbourList:
        """The edges where ``keep`` (E,) is true, in the same order."""
        return NeighbourList(self.edge_index[:, keep], self.cell_shifts[keep], self.distances[keep])


def neighbour_list(positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_], cutoff: float) -> NeighbourList:
    """All neighbours within ``cutoff``, across periodic boundaries, including an atom's own images.

    Args:
        positions: (n, 3) Å, anywhere in space.
        cell: (3, 3) Å, rows are lattice vectors of either handedness; rows that are not periodic are not used.
        pbc: (3,) which rows are periodic.
        cutoff: Å.

    Raises:
        ValueError: a periodic direction without a usable lattice vector.
    """
    from vesin import NeighborList  # imports torch, which `import gfmpot` must not

    box = completed_cell(cell, pbc)
    # A hair beyond the cutoff, so that our own distances decide, and a list with a skin decides alike to the last bit.
    search = NeighborList(cutoff=cutoff * (1 + 1e-12), full_list=True)
    pairs, shifts = search.compute(positions, box, pbc, quantities="PS")
    edge_index, shifts = np.ascontiguousarray(pairs.T.astype(np.int64)), shifts.astype(np.int64)
    edges = NeighbourList(edge_index, shifts, edge_lengths(positions, cell, edge_index, shifts))
    return _sorted(edges.select(edges.distances < cutoff))


def edge_lengths(positions: FloatArray, cell: FloatArray, edge_index: IntArray, cell_shifts: IntArray) -> FloatArray:
    """(E,) Å. Element by element, so that an edge has the same length in any list."""
    senders, receivers = edge_index
    vectors = positions[receivers] - positions[senders]
    for axis in range(3):
        vectors += cell_shifts[:, axis : axis + 1] * cell[axis]
    x, y, z = vectors.T
    lengths: FloatArray = np.sqrt(x * x + y * y + z * z)
    return lengths


def completed_cell(cell: FloatArray, pbc: NDArray[np.bool_]) -> FloatArray:
    """The cell with its vectors that are not periodic replaced by unit vectors normal to the others.

    Raises:
        ValueError: periodic lattice vectors that are zero or linearly dependent.
    """
    if not pbc.any():
        return np.eye(3)
    periodic = cell[pbc]
    lengths = np.linalg.norm(periodic, axis=1)
    if (lengths < 1e-3).any():
        axes = ", ".join("abc"[i] for i in np.flatnonzero(pbc)[lengths < 1e-3])
        raise ValueError(f"periodic along {axes}, but that cell vector is zero: set the cell or switch off pbc there")
    _, singular, vt = np.linalg.svd(periodic / lengths[:, None])
    if singular[-1] < 1e-6:
        raise ValueError(f"the periodic cell vectors are linearly dependent: {periodic.tolist()}")
    box = np.empty((3, 3))
    box[pbc] = periodic
    box[~pbc] = vt[len(periodic) :]
    return box


def _sorted(edges: NeighbourList) -> NeighbourList:
    (senders, receivers), shifts = edges.edge_index, edges.cell_shifts
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], senders, receivers))
    return NeighbourList(edges.edge_index[:, order], shifts[order], edges.distances[order])


def nearest_only(edges: NeighbourList, max_neighbours: int) -> NeighbourList:
    """Keep each receiver's nearest ``max_neighbours`` edges; the last shell is kept whole, so that symmetry survives.

    The energy jumps when an atom enters or leaves the list: this exists to repeat the paper, not for dynamics.

    Raises:
        ValueError: a cap below 1.
    """
    receivers = edges.edge_index[1]
    if max_neighbours < 1:
        raise ValueError(f"max_neighbours must be at least 1, got {max_neighbours}; None keeps all")
    order = np.lexsort((edges.distances, receivers))
    first = np.searchsorted(receivers, receivers)  # receivers are sorted: start of each edge's own block
    rank = np.empty(len(receivers), dtype=np.int64)
    rank[order] = np.arange(len(receivers)) - first[order]
    limit = np.full(int(receivers.max(initial=-1)) + 1, np.inf)
    last = rank == max_neighbours - 1
    limit[receivers[last]] = edges.distances[last] + TIE
    return edges.select(edges.distances <= limit[receivers])
