"""One labelled structure on its way from a dataset's file to a store, and why one may be refused."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.split import SplitName
from gfmpot.graph import InvalidStructureError, build_graph

Floats = NDArray[np.float64]

CONTACT = 2.0
"""Å: how far to look for coincident atoms; a shorter distance would make a finer grid, which takes longer."""


def _no_stress() -> Floats:
    return np.full(6, np.nan)


@dataclass(frozen=True, slots=True)
class Frame:
    """A structure of n atoms with its labels, in eV and Å; a missing label is NaN."""

    numbers: NDArray[np.int64]  # (n,)
    positions: Floats  # (n, 3) Å
    energy: float  # eV, total, on the scale of the source
    forces: Floats  # (n, 3) eV/Å
    group: str
    """Molecule, trajectory or formula: what must stay on one side of a split."""

    cell: Floats = field(default_factory=lambda: np.zeros((3, 3)))  # Å, rows are lattice vectors
    pbc: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(3, dtype=bool))
    stress: Floats = field(default_factory=_no_stress)  # (6,) eV/Å³, ASE's Voigt order and sign
    charge: int = 0
    spin: int = 0
    """Multiplicity 2S+1; 0 = not stated."""

    split: SplitName | None = None
    """The side on which the publishers put it, if they did."""

    def problem(self) -> str | None:
        """Why the frame cannot be trained on, or None.

        NaN means "not labelled", so a label must be NaN as a whole or not at all.
        """
        try:
            build_graph(
                self.numbers,
                self.positions,
                self.cell,
                self.pbc,
                cutoff=CONTACT,
                charge=self.charge,
                spin=self.spin or None,
            )
        except InvalidStructureError as error:
            return str(error)
        return self._problem_of_labels()

    def _problem_of_labels(self) -> str | None:
        if self.forces.shape != self.positions.shape:
            return f"expected forces {self.positions.shape}, got {self.forces.shape}"
        if self.stress.shape != (6,):
            return f"expected stress (6,), got {self.stress.shape}"
        if np.isinf(self.energy):
            return f"the energy is {self.energy}"
        for name in ("forces", "stress"):
            values = getattr(self, name)
            if not (np.isfinite(values).all() or np.isnan(values).all()):
                bad = np.argwhere(~np.isfinite(values))[0]
                return f"{name} are not finite, first in row {bad[0]}"
        if np.isnan(self.energy) and np.isnan(self.forces).all():
            return "neither energy nor forces"
        return None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A frame that was left out: where it is in the source, and why."""

    where: str
    """File and record, e.g. ``8000.hdf5:Geom-m1-i1-c1-opt``."""

    reason: str
