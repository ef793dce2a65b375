"""Neighbour lists: one function, with vesin behind it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gfmpot import kernels

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TIE = 1e-6
"""Å: neighbours whose distances differ by less are one shell, which a neighbour cap keeps or drops whole."""


FEW = 1000
"""Edges that are sorted by five keys in turn faster than by one that is first made of them."""

MOST_CELLS = 1e5
"""That vesin sorts atoms into."""


class NeighbourList(NamedTuple):
    """Directed edges (each pair twice), sorted by receiver, then sender, then shift."""

    edge_index: IntArray  # (2, E): senders, receivers
    cell_shifts: IntArray  # (E, 3)
    distances: FloatArray  # (E,) Å

    def select(self, keep: NDArray[np.bool_]) -> NeighbourList:
        """The edges where ``keep`` (E,) is true, in the same order."""
        return NeighbourList(self.edge_index[:, keep], self.cell_shifts[keep], self.distances[keep])

    def within(self, positions: FloatArray, cell: FloatArray, cutoff: float) -> NeighbourList:
        """The edges that are shorter than ``cutoff`` with the atoms at ``positions`` in ``cell``, in the same order."""
        if not kernels.available():
            lengths = edge_lengths(positions, cell, self.edge_index, self.cell_shifts)
            return self._replace(distances=lengths).select(lengths < cutoff)
        size, count = len(self.distances), np.empty(1, dtype=np.int64)
        ends, shifts = np.empty(2 * size, dtype=np.int64), np.empty((size, 3), dtype=np.int64)
        lengths = np.empty(size)
        indices = (np.ascontiguousarray(a, dtype=np.int64) for a in (*self.edge_index, self.cell_shifts))
        where = (np.ascontiguousarray(a, dtype=np.float64) for a in (positions, cell))
        kernels.call("within", torch.float64, size, *indices, *where, cutoff, count, ends, shifts, lengths)
        n = int(count[0])
        return NeighbourList(ends[: 2 * n].reshape(2, n), shifts[:n], lengths[:n])

    def sorted(self) -> NeighbourList:
        """The same edges in order."""
        places = order(self.edge_index, self.cell_shifts)
        return NeighbourList(self.edge_index[:, places], self.cell_shifts[places], self.distances[places])


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
    pairs, images = candidates(positions, cell, pbc, cutoff)
    edge_index, shifts = np.ascontiguousarray(pairs.T.astype(np.int64)), images.astype(np.int64)
    edges = NeighbourList(edge_index, shifts, edge_lengths(positions, cell, edge_index, shifts))
    return edges.select(edges.distances < cutoff).sorted()


def candidates(
    positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_], cutoff: float
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int32]]:
    """(P, 2) sender and receiver, and (P, 3) shift of all pairs within ``cutoff`` and perhaps a few beyond, unsorted.

    Arguments and errors are those of :func:`neighbour_list`.
    """
    from vesin import NeighborList  # takes a while to import

    box = completed_cell(cell, pbc)
    # A hair beyond the cutoff, so that our own distances decide, and a list with a skin decides alike to the last bit.
    search = NeighborList(cutoff=_radius(positions, box, pbc, cutoff) * (1 + 1e-12), full_list=True)
    return search.compute(positions, box, pbc, quantities="PS")  # type: ignore[no-any-return]


def _radius(positions: FloatArray, box: FloatArray, pbc: NDArray[np.bool_], cutoff: float) -> float:
    """The cutoff, or more for structures that are vast and flat.

    vesin (0.6) sorts atoms into cells as wide as the cutoff, and scales them to at most 100,000. Where there is one
    layer of them, such as for three atoms in a plane a micrometre apart, that leaves none, and the program ends with a
    division by zero.
    """
    open_span = 0.0 if pbc.all() or len(positions) == 0 else float(positions.max() - positions.min())
    if max(open_span, float(np.abs(box).max())) < 40 * cutoff:  # the usual case, in a few microseconds
        return cutoff
    inverse = np.linalg.inv(box)
    extents = np.where(pbc, 1.0, np.ptp(positions @ inverse, axis=0)) / np.linalg.norm(inverse, axis=0)
    while True:
        cells = np.maximum(extents / cutoff, 1.0)
        if np.floor(cells.min()) > 1.01 * (cells.prod() / MOST_CELLS) ** (1 / 3):
            return cutoff
        cutoff *= 1.25


def edge_lengths(positions: FloatArray, cell: FloatArray, edge_index: IntArray, cell_shifts: IntArray) -> FloatArray:
    """(E,) Å. Element by element, so that an edge has the same length in any list.

    ``cell`` is (3, 3), or (3, E, 3) where each edge has its own.
    """
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
    if pbc.all() and _is_usable(cell):
        return cell.copy()
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


def _is_usable(cell: FloatArray) -> bool:
    """Whether three lattice vectors are far from zero and from dependent; plain numbers are faster here than arrays."""
    (a, b, c), (d, e, f), (g, h, i) = cell.tolist()
    volume = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    lengths = math.hypot(a, b, c), math.hypot(d, e, f), math.hypot(g, h, i)
    return min(lengths) > 1e-2 and volume > 1e-4 * math.prod(lengths)


def order(edge_index: IntArray, cell_shifts: IntArray) -> IntArray:
    """(E,) the order of edges by receiver, sender and shift; no two of them are the same edge."""
    keys = (edge_index[1], edge_index[0], *cell_shifts.T)
    if len(keys[0]) < FEW:
        return np.lexsort(keys[::-1])
    lowest = [int(key.min()) for key in keys]
    widths = [int(key.max()) - low + 1 for key, low in zip(keys, lowest, strict=True)]
    if math.prod(widths) >= 2**63:
        return np.lexsort(keys[::-1])
    number = np.zeros(len(keys[0]), dtype=np.int64)  # of each edge among all possible ones: one key instead of five
    for key, low, width in zip(keys, lowest, widths, strict=True):
        number *= width
        number += key - low
    return np.argsort(number)


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
