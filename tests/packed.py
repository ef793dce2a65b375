"""Packed files (docs/data.md) of structures that tests make themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from gfmpot.data import FrameSet

FIELDS = ("numbers", "positions", "energy", "forces", "stress", "cell", "pbc", "charge", "spin")


def write_packed(path: Path, frames: FrameSet) -> Path:
    """All that a set of structures has."""
    names, group = np.unique(frames.group, return_inverse=True)
    arrays = {name: getattr(frames, name) for name in FIELDS}
    np.savez(path, natoms=frames.atoms_per_structure, group=group, group_labels=names, **arrays)
    return path


def by_emt(atoms: Atoms) -> dict[str, Any]:
    """Energy, forces and stress."""
    atoms.calc = EMT()
    return {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}


def rattled(atoms: Atoms, seed: int) -> Atoms:
    """Displaced, with energy and forces of EMT."""
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    atoms.get_forces()
    return atoms


def solids_and_molecules(folder: Path, count: int) -> list[Path]:
    """Two packed files."""
    solids = [rattled(bulk(("Cu", "Al")[i % 2], cubic=True), i) for i in range(count)]
    molecules = [rattled(molecule(("CH4", "H2O")[i % 2]), i) for i in range(count)]
    named = {"solids-emt": solids, "molecules-emt": molecules}
    return [write_packed(folder / f"{name}.npz", FrameSet.from_atoms(atoms)) for name, atoms in named.items()]
