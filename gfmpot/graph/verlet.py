"""A neighbour list with a skin, for molecular dynamics and relaxations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfmpot.graph.neighbours import FloatArray, NeighbourList, completed_cell, neighbour_list


class Reference(NamedTuple):
    """The geometry of a search and its result."""

    positions: FloatArray  # (n, 3) Å
    inverse_box: FloatArray  # (3, 3) 1/Å, of the completed cell
    pbc: NDArray[np.bool_]  # (3,)
    candidates: NeighbourList  # within cutoff + skin


class VerletList:
    """Neighbour lists of a slowly changing structure, searched only when the skin is used up.

    The search keeps pairs within ``cutoff + skin`` of the reference geometry. The current list is the part of them
    within ``cutoff`` now, in the order of a fresh search: results equal a fresh list bit for bit. Displacements are
    those of the positions as given (never wrapped) against the reference moved along with the cell, so the list
    survives changes of the cell as well. With the deformation gradient's smallest singular value σ and the largest
    remaining displacement δ, a pair now within the cutoff lay within ``(cutoff + 2 δ) / σ`` of the reference; the
    search is repeated when that exceeds ``cutoff + skin``, which at constant cell is the usual half-skin criterion.
    """

    def __init__(self, cutoff: float, skin: float = 0.5) -> None:
        if skin < 0:
            raise ValueError(f"skin must not be negative, got {skin} Å")
        self.cutoff, self.skin = cutoff, skin
        self.n_searches = 0
        self._positions: FloatArray | None = None

    def __call__(self, positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_]) -> NeighbourList:
        """The neighbours within the cutoff; arguments and errors as for :func:`neighbour_list`."""
        if not self._covers(positions, cell, pbc):
            self.search(positions, cell, pbc)
        return self._current(positions, cell)

    @property
    def reference(self) -> Reference:
        """What the last search found, and where.

        Raises:
            ValueError: there was none yet.
        """
        if self._positions is None:
            raise ValueError("this list has not searched yet: call it, or its search, with a geometry first")
        return Reference(self._positions, self._inverse_box, self._pbc, self._candidates)

    def _covers(self, positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_]) -> bool:
        """Whether every pair now within the cutoff is among the candidates."""
        if self._positions is None or self._positions.shape != positions.shape or (self._pbc != pbc).any():
            return False
        deformation = self._inverse_box @ completed_cell(cell, pbc)
        displacements = positions - self._positions @ deformation
        largest = np.sqrt(np.einsum("ij,ij->i", displacements, displacements).max(initial=0.0))
        smallest_stretch = np.linalg.svd(deformation, compute_uv=False)[-1]
        reach = (self.cutoff + 2.0 * largest) / max(smallest_stretch, 1e-6)
        return bool(reach <= self.cutoff + self.skin)

    def search(self, positions: FloatArray, cell: FloatArray, pbc: NDArray[np.bool_]) -> None:
        """Take this geometry for the reference, used up or not; arguments and errors as for :func:`neighbour_list`."""
        self._candidates = neighbour_list(positions, cell, pbc, self.cutoff + self.skin)
        self._positions, self._pbc = positions.copy(), pbc.copy()
        self._inverse_box = np.linalg.inv(completed_cell(cell, pbc)).astype(np.float64, copy=False)
        self.n_searches += 1

    def _current(self, positions: FloatArray, cell: FloatArray) -> NeighbourList:
        return self._candidates.within(positions, cell, self.cutoff)
