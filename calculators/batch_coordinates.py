r"""What a batched relaxation moves: the atoms and cells of many structures, in the coordinates of ASE's filters.

As in ``ase.filters.FrechetCellFilter``, a structure with n atoms has n + 3 rows of three coordinates. With the
reference cell :math:`H_0` (rows are lattice vectors) and the deformation gradient :math:`F`,

======================  ===========================================================
rows 1 to n             :math:`x`, with positions :math:`r = x F^T`
rows n + 1 to n + 3     :math:`n \log F`, with the cell :math:`H = H_0 F^T`
forces on rows 1 to n   :math:`f F`, with :math:`f` the forces on the atoms
forces on the others    :math:`L(\log F^T, W F^{-T}) / n`, with :math:`W = -V\sigma`
======================  ===========================================================

where :math:`L(A, E)` is the derivative of the matrix exponential at A in the direction E. ASE sums
:math:`L(\log F, e_{ij}) : W F^{-T}` over the nine directions :math:`e_{ij}`; since the adjoint of L at A is L at
:math:`A^T`, one exponential gives the same. A cell that is not relaxed has rows on which no force acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from numpy.typing import NDArray
from torch import Tensor

from gfmpot.calculators.batch_evaluation import full_stress


class Layout:
    """Which rows belong to which structure."""

    def __init__(self, sizes: Tensor) -> None:
        self.sizes = sizes  # (G,) numbers of atoms
        structures, last = torch.arange(len(sizes), device=sizes.device), torch.cumsum(sizes + 3, 0)
        self.structure_of_row = torch.repeat_interleave(structures, sizes + 3)
        self.cell_rows = last.unsqueeze(1) - torch.tensor([3, 2, 1], device=sizes.device)  # (G, 3)
        of_atoms = torch.ones_like(self.structure_of_row, dtype=torch.bool)
        of_atoms[self.cell_rows] = False
        self.atom_rows = torch.nonzero(of_atoms).flatten()  # (N,)
        self.structure_of_atom = self.structure_of_row[self.atom_rows]

    @property
    def n_structures(self) -> int:
        """G."""
        return len(self.sizes)

    def rows_of(self, kept: Sequence[int]) -> Tensor:
        """The rows of some structures, in ascending order."""
        chosen = torch.zeros(self.n_structures, dtype=torch.bool, device=self.sizes.device)
        chosen[list(kept)] = True
        return torch.nonzero(chosen[self.structure_of_row]).flatten()

    def sums(self, values: Tensor) -> Tensor:
        """(R,) to (G,): the sum over the rows of each structure."""
        return values.new_zeros(self.n_structures).index_add(0, self.structure_of_row, values)

    def largest(self, values: Tensor) -> Tensor:
        """(R,) to (G,): the largest of each structure; values must not be negative."""
        return values.new_zeros(self.n_structures).scatter_reduce(0, self.structure_of_row, values, "amax")


@dataclass(frozen=True)
class Start:
    """Where a structure begins and what of it may move."""

    positions: NDArray[np.float64]  # (n, 3) Å
    cell: NDArray[np.float64]  # (3, 3) Å
    free: NDArray[np.bool_]  # (n, 3) coordinates of atoms that are not fixed
    strains: NDArray[np.bool_]  # (3, 3) strains that are relaxed; none for a cell that stays


def free_coordinates(atoms: Atoms) -> NDArray[np.bool_]:
    """(n, 3) coordinates that no constraint fixes.

    Raises:
        ValueError: a constraint of another kind than ``FixAtoms`` and ``FixCartesian``.
    """
    free = np.ones((len(atoms), 3), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            free[constraint.index] = False
        elif isinstance(constraint, FixCartesian):
            free[constraint.index] &= ~np.asarray(constraint.mask, dtype=bool)
        else:
            raise ValueError(
                f"the constraint {type(constraint).__name__} is not known to batches, which honour FixAtoms and "
                "FixCartesian; run this structure alone, through ASE"
            )
    return free


class Coordinates:
    """The rows of all structures in flight, and the positions and cells that they stand for."""

    def __init__(self, device: torch.device) -> None:
        empty = {"device": device, "dtype": torch.float64}
        self.rows = torch.zeros(0, 3, **empty)  # type: ignore[call-overload]
        self.layout = Layout(torch.zeros(0, dtype=torch.int64, device=device))
        self._reference = torch.zeros(0, 3, 3, **empty)  # type: ignore[call-overload]
        self._strains = torch.zeros(0, 3, 3, dtype=torch.bool, device=device)
        self._free = torch.zeros(0, 3, dtype=torch.bool, device=device)
        self._settle()

    def join(self, starts: Sequence[Start]) -> None:
        """Add structures; their cells are the reference of their deformation."""
        device = self.rows.device
        rows = [np.concatenate([start.positions, np.zeros((3, 3))]) for start in starts]
        sizes = torch.tensor([len(start.positions) for start in starts], device=device)
        self.rows = torch.cat([self.rows, torch.from_numpy(np.concatenate(rows)).to(device)])
        self._reference = torch.cat([self._reference, _stack(start.cell for start in starts).to(device)])
        self._strains = torch.cat([self._strains, _stack(start.strains for start in starts).to(device)])
        free = torch.from_numpy(np.concatenate([start.free for start in starts])).to(device)
        self._free = torch.cat([self._free, free])
        self.layout = Layout(torch.cat([self.layout.sizes, sizes]))
        self._settle()

    def keep(self, kept: Sequence[int]) -> None:
        """Forget all other structures."""
        rows, chosen = self.layout.rows_of(kept), torch.tensor(kept, dtype=torch.int64, device=self.rows.device)
        atoms = torch.isin(self.layout.structure_of_atom, chosen)
        self.rows, self._free = self.rows[rows], self._free[atoms]
        self._reference, self._strains = self._reference[chosen], self._strains[chosen]
        self.layout = Layout(self.layout.sizes[chosen])
        self._settle()

    def move(self, rows: Tensor) -> None:
        """Take new rows (R, 3); fixed coordinates of atoms stay, or follow the cell."""
        before, self.rows = self.rows[self.layout.atom_rows], rows.clone()
        self._settle()
        if self._held.any():
            self._hold(before)

    def place(self) -> tuple[Tensor, Tensor]:
        """Positions (N, 3) and cells (G, 3, 3), in Å."""
        atoms = self.rows[self.layout.atom_rows]
        return _times(atoms, self._deformation.mT, self.layout), self._reference @ self._deformation.mT

    def forces(self, forces: Tensor, stress: Tensor) -> Tensor:
        """(R, 3) generalised forces.

        Args:
            forces: (N, 3) eV/Å.
            stress: (G, 6) eV/Å³ in Voigt order; used where the cell is relaxed.
        """
        generalised = torch.zeros_like(self.rows)
        generalised[self.layout.atom_rows] = _times(forces * self._free, self._deformation, self.layout)
        if self._strains.any():
            volume = torch.linalg.det(self._reference @ self._deformation.mT).abs()[:, None, None]
            virial = (-volume * full_stress(stress)).where(self._strains, 0.0)
            pulled = virial @ torch.linalg.inv(self._deformation.mT)
            on_log = exponential_derivative(self._log.mT, pulled) / self.layout.sizes[:, None, None]
            generalised[self.layout.cell_rows] = on_log
        return generalised

    def _hold(self, before: Tensor) -> None:
        """Undo the moves of atoms along coordinates that are fixed in space, as ASE does after the cell has moved."""
        held = torch.nonzero(self._held).flatten()
        rows, follow = self.layout.atom_rows[held], self._deformation.mT[self.layout.structure_of_atom[held]]
        moved, stayed = self.rows[rows].unsqueeze(1) @ follow, before[held].unsqueeze(1) @ follow
        positions = torch.where(self._free[held].unsqueeze(1), moved, stayed)
        self.rows[rows] = torch.linalg.solve(follow, positions, left=False).squeeze(1)

    def _settle(self) -> None:
        """The deformation that the rows stand for. Strains that are held make it differ from what was asked for."""
        sizes, self._held = self.layout.sizes[:, None, None], ~self._free.all(dim=1)
        unit = torch.eye(3, dtype=self.rows.dtype, device=self.rows.device)
        self._log = self.rows[self.layout.cell_rows] / sizes
        self._deformation = unit + (torch.linalg.matrix_exp(self._log) - unit) * self._strains
        some = self._strains.flatten(1).any(dim=1) & ~self._strains.flatten(1).all(dim=1)
        for i in torch.nonzero(some).flatten().tolist():
            self._log[i] = _logarithm(self._deformation[i])
            self.rows[self.layout.cell_rows[i]] = self._log[i] * self.layout.sizes[i]


def exponential_derivative(at: Tensor, direction: Tensor) -> Tensor:
    """(G, 3, 3): the derivative of the matrix exponential, from the exponential of [[A, E], [0, A]] (Higham, 2008)."""
    upper, lower = torch.cat([at, direction], dim=2), torch.cat([torch.zeros_like(at), at], dim=2)
    whole: Tensor = torch.linalg.matrix_exp(torch.cat([upper, lower], dim=1))
    return whole[:, :3, 3:]


def _logarithm(matrix: Tensor) -> Tensor:
    from scipy.linalg import logm

    return torch.from_numpy(np.real(logm(matrix.cpu().numpy()))).to(matrix)


def _times(rows: Tensor, matrices: Tensor, layout: Layout) -> Tensor:
    """Each atom's row times the matrix of its structure."""
    return (rows.unsqueeze(1) @ matrices[layout.structure_of_atom]).squeeze(1)


def _stack(arrays: Iterable[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(list(arrays)))
