"""Crystals that no training has seen: test groups of packed sets (docs/data.md).

Which group is on which side follows from its name alone (``gfmpot.data.split_of_group``), so this holds for every model
that was trained with the default split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import GPa
from numpy.typing import NDArray

from gfmpot.data import split_of_group

COUNT, LARGEST = 100, 60
"""Structures, and atoms of the largest."""

SOURCES = ("PBE", "CHGNet")
PBE_SETS, CHGNET_SET = ("alexandria", "mptrj_random"), "chgnet_pbe_u"
RELAXED = {"force": 0.05, "stress": 0.5 * GPa}


@dataclass(frozen=True)
class Start:
    """Where a relaxation begins; its volume is the reference."""

    name: str
    atoms: Atoms
    source: str
    """Whose minimum this is, or is close to: one of ``SOURCES``."""


class Packed:
    """Frames of the test groups of a packed set (docs/data.md), with what they lack to be relaxed."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ValueError(f"no {path.name} in {path.parent}: expected a folder with packed .npz sets")
        self.arrays = dict(np.load(path))
        self.natoms = self.arrays["natoms"].astype(int)
        self.ends = np.cumsum(self.natoms)
        norms = np.linalg.norm(self.arrays["forces"], axis=1)
        self.force = np.maximum.reduceat(norms, self.ends - self.natoms)
        self.stress = np.abs(self.arrays["stress"]).max(axis=1)
        sides = np.array([split_of_group(str(label)) for label in self.arrays["group_labels"]])
        self.test = (sides[self.arrays["group"]] == "test") & (self.natoms <= LARGEST) & np.isfinite(self.stress)

    def start(self, row: int, source: str) -> Start:
        """Of one frame."""
        some, own = self.arrays, slice(self.ends[row] - self.natoms[row], self.ends[row])
        atoms = Atoms(some["numbers"][own], some["positions"][own], cell=some["cell"][row], pbc=True)
        return Start(str(some["group_labels"][some["group"][row]]), atoms, source)


def relaxed(path: Path) -> list[Start]:
    """Structures of test groups in which the labelling theory finds no forces and no stress."""
    sets = Packed(path)
    rows = sets.test & (sets.force < RELAXED["force"]) & (sets.stress < RELAXED["stress"])
    return [sets.start(int(row), "PBE") for row in np.flatnonzero(rows)]


def least_perturbed(path: Path) -> list[Start]:
    """The calmest frame of each test group, the calmest groups first: by force (eV/Å) and stress times volume per atom
    (eV), whichever is larger, since symmetry often leaves a strained crystal without forces."""
    sets = Packed(path)
    volume = np.abs(np.linalg.det(sets.arrays["cell"].astype(float))) / sets.natoms
    unrest: NDArray[np.float64] = np.where(sets.test, np.maximum(sets.force, sets.stress * volume), np.inf)
    order = np.argsort(unrest, kind="stable")
    _, first = np.unique(sets.arrays["group"][order], return_index=True)
    rows = order[np.sort(first)]
    return [sets.start(int(row), "CHGNet") for row in rows[: 2 * COUNT] if np.isfinite(unrest[row])]


def starts(folder: Path, count: int) -> list[Start]:
    """PBE's first, of which at least 4 in 10 are left to CHGNet's."""
    pbe = [start for name in PBE_SETS for start in relaxed(folder / f"{name}.npz")][: (6 * count) // 10]
    return pbe + least_perturbed(folder / f"{CHGNET_SET}.npz")[: count - len(pbe)]
