"""Neighbour lists with a skin of many structures at once, on any device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gfmpot.graph.build import check_extent
from gfmpot.graph.neighbours import completed_cell
from gfmpot.graph.verlet import VerletList


class BatchError(ValueError):
    """Structures of a batch that cannot be answered for, with the reason of each by its position in the batch."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        self.reasons = dict(sorted(reasons.items()))
        super().__init__("; ".join(f"structure {i}: {reason}" for i, reason in self.reasons.items()))


class BatchEdges(NamedTuple):
    """The edges of a batch, as in :class:`gfmpot.graph.AtomGraph`."""

    edge_index: Tensor  # (2, E)
    cell_shifts: Tensor  # (E, 3)
    lengths: Tensor  # (E,) Å
    structure_of_edge: Tensor  # (E,)


class _Candidates(NamedTuple):
    """The last search of one structure, where the batch is computed."""

    search: int
    edge_index: Tensor  # (2, C), from 0
    cell_shifts: Tensor  # (C, 3)
    positions: Tensor  # (n, 3) Å
    inverse_box: Tensor  # (3, 3) 1/Å


class VerletBatch:
    """The lists of :class:`VerletList` for many structures, with the same criterion and the same result.

    A search runs on the CPU, for the structures that need one. Whether one is due, and which candidates are within the
    cutoff, is found for all structures together on ``device``, where a loop over structures would cost more than the
    network. A list belongs to no structure in particular: a structure may take over any list of as many atoms, which
    then searches unless it happens to cover the geometry.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.lists: tuple[VerletList, ...] = ()
        self._parts: dict[VerletList, _Candidates] = {}

    def arrange(self, lists: Iterable[VerletList]) -> None:
        """The structures from now on, in order: a list for each, of one cutoff and skin, that has searched already."""
        self.lists = tuple(lists)
        self._parts = {verlet: self._part(verlet) for verlet in self.lists}
        references = [verlet.reference for verlet in self.lists]
        sizes = [len(reference.positions) for reference in references]
        self.first_atom = [0, *accumulate(sizes)]
        of_atom = np.repeat(np.arange(len(sizes)), sizes)
        self.structure_of_atom = torch.from_numpy(of_atom).to(self.device)
        self._pbc = np.array([reference.pbc for reference in references]).reshape(-1, 3)
        self._none = torch.from_numpy(~self._pbc.any(axis=1)).to(self.device)
        self._boxed: tuple[Tensor, Tensor] | None = None
        self._join()

    def __call__(self, positions: Tensor, cell: Tensor) -> BatchEdges:
        """The edges within the cutoff, ordered as in a fresh list of each structure.

        Args:
            positions: (N, 3) Å, float64, finite.
            cell: (G, 3, 3) Å, float64, finite, rows are lattice vectors.

        Raises:
            BatchError: structures whose neighbours cannot be searched.
        """
        due = self._due(positions, self.boxes(cell))
        if due:
            self._search(due, positions, cell)
        return self._current(positions, cell)

    def unwrapped(self, positions: Tensor, cell: Tensor) -> Tensor:
        """(N, 3) Å: every atom's periodic image nearest to where the last search saw it, moved along with the cell.

        Engines that wrap positions into the cell would use up the skin whenever an atom crosses a boundary.
        """
        boxes = self.boxes(cell)
        away = positions - self._carried(boxes)
        # A flat cell gives nonsense here and an error in the search, which names the structure.
        fractions, _ = torch.linalg.solve_ex(boxes[self.structure_of_atom], away.unsqueeze(1), left=False)
        periodic = torch.from_numpy(self._pbc).to(self.device)[self.structure_of_atom]
        turns = torch.where(periodic, fractions.squeeze(1).round(), 0.0)
        return positions - (turns.unsqueeze(1) @ boxes[self.structure_of_atom]).squeeze(1)

    def boxes(self, cell: Tensor) -> Tensor:
        """(G, 3, 3) Å: completed cells, see :func:`gfmpot.graph.neighbours.completed_cell`.

        Raises:
            BatchError: periodic cell vectors that are zero or linearly dependent.
        """
        if self._boxed is not None and torch.equal(self._boxed[0], cell):
            return self._boxed[1]
        boxes = torch.where(self._none[:, None, None], torch.eye(3, dtype=cell.dtype, device=self.device), cell)
        reasons = {}
        for i in np.flatnonzero(self._pbc.any(axis=1) & ~self._pbc.all(axis=1)).tolist():
            try:
                boxes[i] = torch.from_numpy(completed_cell(cell[i].cpu().numpy(), self._pbc[i]))
            except ValueError as error:
                reasons[i] = str(error)
        if reasons:
            raise BatchError(reasons)
        self._boxed = (cell.clone(), boxes)
        return boxes

    def _carried(self, boxes: Tensor) -> Tensor:
        """(N, 3) Å: the reference positions, moved along with the cells."""
        deformation = self._inverse_box @ boxes
        return (self._reference.unsqueeze(1) @ deformation[self.structure_of_atom]).squeeze(1)

    def _due(self, positions: Tensor, boxes: Tensor) -> list[int]:
        """The structures whose candidates may lack a pair within the cutoff; see :class:`VerletList`."""
        away = torch.linalg.vector_norm(positions - self._carried(boxes), dim=1)
        largest = away.new_zeros(len(self.lists)).scatter_reduce(0, self.structure_of_atom, away, "amax")
        stretch = torch.linalg.svdvals(self._inverse_box @ boxes)[:, -1].clamp(min=1e-6)
        cutoff, skin = self.lists[0].cutoff, self.lists[0].skin
        covered = (cutoff + 2.0 * largest) / stretch <= cutoff + skin
        return torch.nonzero(~covered).flatten().tolist()

    def _search(self, due: Sequence[int], positions: Tensor, cell: Tensor) -> None:
        xyz, boxes = positions.cpu().numpy(), cell.cpu().numpy()
        reasons = {}
        for i in due:
            of_structure = np.ascontiguousarray(xyz[self.first_atom[i] : self.first_atom[i + 1]])
            try:
                check_extent(of_structure, boxes[i], self._pbc[i])
                self.lists[i].search(of_structure, np.ascontiguousarray(boxes[i]), self._pbc[i])
            except ValueError as error:
                reasons[i] = str(error)
                continue
            self._parts[self.lists[i]] = self._part(self.lists[i])
        self._join()
        if reasons:
            raise BatchError(reasons)

    def _part(self, verlet: VerletList) -> _Candidates:
        known = self._parts.get(verlet)
        if known is not None and known.search == verlet.n_searches:
            return known
        positions, inverse_box, _, candidates = verlet.reference
        arrays = candidates.edge_index, candidates.cell_shifts, positions, inverse_box
        return _Candidates(verlet.n_searches, *(torch.from_numpy(array).to(self.device) for array in arrays))

    def _join(self) -> None:
        """The candidates and references of all structures, one behind the other."""
        parts = [self._parts[verlet] for verlet in self.lists]
        if not parts:
            return
        starts = self.first_atom[:-1]
        self._edge_index = torch.cat(
            [part.edge_index + start for part, start in zip(parts, starts, strict=True)], dim=1
        )
        self._shifts = torch.cat([part.cell_shifts for part in parts])
        self._turns = self._shifts.to(torch.float64)
        self._of_edge = self.structure_of_atom[self._edge_index[1]]
        self._reference = torch.cat([part.positions for part in parts])
        self._inverse_box = torch.stack([part.inverse_box for part in parts])

    def _current(self, positions: Tensor, cell: Tensor) -> BatchEdges:
        """Lengths term by term as in :func:`gfmpot.graph.neighbours.edge_lengths`, so that the cutoff falls alike."""
        senders, receivers = self._edge_index
        vectors = positions[receivers] - positions[senders]
        for axis in range(3):
            vectors = vectors + self._turns[:, axis : axis + 1] * cell[self._of_edge, axis]
        x, y, z = vectors.unbind(1)
        lengths = torch.sqrt(x * x + y * y + z * z)
        keep = lengths < self.lists[0].cutoff
        return BatchEdges(self._edge_index[:, keep], self._shifts[keep], lengths[keep], self._of_edge[keep])
