"""Structures of every kind, for the tests of batches."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixAtoms, FixCartesian

from gfmpot.graph import BatchBudget

TWO_AT_A_TIME = BatchBudget(max_structures=2)


def shaken(atoms: Atoms, seed: int = 0, strain: float = 0.02) -> Atoms:
    rng, copy = np.random.default_rng(seed), atoms.copy()
    if copy.cell.rank == 3 and strain:
        copy.set_cell(copy.cell.array @ (np.eye(3) + rng.normal(scale=strain, size=(3, 3))), scale_atoms=True)
    copy.positions += rng.normal(scale=0.05, size=copy.positions.shape)
    return copy


def slab() -> Atoms:
    atoms = shaken(fcc111("Al", (2, 1, 3), vacuum=6.0))
    atoms.pbc = (True, True, False)
    atoms.set_constraint([FixAtoms(indices=[0, 1]), FixCartesian([2], mask=(True, False, True))])
    return atoms


def left_handed() -> Atoms:
    atoms = shaken(bulk("NaCl", "rocksalt", 5.7))
    atoms.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
    return atoms


def ion() -> Atoms:
    atoms = shaken(molecule("NH3"))
    atoms.info.update(charge=1, spin=2)
    return atoms


def mixture() -> list[tuple[Atoms, bool]]:
    """Structures of every kind, and whether their cells are relaxed."""
    oxide = shaken(bulk("MgO", "rocksalt", 4.3, cubic=True))
    silicon = shaken(bulk("Si", "diamond", 5.5))
    return [
        *[(oxide, True), (silicon, True), (shaken(oxide, 1), False), (slab(), True), (left_handed(), True)],
        *[(shaken(molecule("CH3OH")), False), (molecule("H2O"), False), (ion(), False), (Atoms("Mg"), False)],
    ]


def crystals_and_molecules() -> list[Atoms]:
    return [bulk("MgO", "rocksalt", 4.3, cubic=True), slab(), molecule("CH3OH"), molecule("H2O"), ion()]
