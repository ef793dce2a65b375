"""What benchmarks/peers.py and md_overhead.py run: crystals that every potential knows."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk

from gfmpot.calculators.dynamics import draw_velocities

REPEATS = {64: (2, 2, 2), 216: (3, 3, 3), 864: (3, 6, 6)}
"""Cells of 8 atoms, by number of atoms."""

CRYSTALS = {"Si": ("diamond", 5.431), "NaCl": ("rocksalt", 5.640), "MgO": ("rocksalt", 4.2117)}
"""Structure and lattice constant (Å). Silicon has 4 neighbours within CHGNet's 3 Å for angles, MgO 18: of 864 atoms
that takes it more than 20 GB."""


def cell(crystal: str, strain: float = 0.0) -> Atoms:
    """8 atoms."""
    kind, lattice = CRYSTALS[crystal]
    return bulk(crystal, kind, lattice * (1.0 + strain), cubic=True)


def start_of_run(crystal: str, atoms: int, seed: int, temperature: float = 600.0) -> Atoms:
    """Somewhere in space, with velocities of twice the temperature that it settles at."""
    rng = np.random.default_rng(seed)
    found = cell(crystal).repeat(REPEATS[atoms])
    found.positions += rng.uniform(0.0, found.cell.lengths())
    found.wrap()
    draw_velocities(found, temperature, rng)
    return found


def cells(crystal: str, count: int, seed: int) -> list[Atoms]:
    """8 atoms each, strained and displaced."""
    rng = np.random.default_rng(seed)
    found = [cell(crystal, strain) for strain in rng.uniform(-0.03, 0.03, count)]
    for atoms in found:
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    return found


def displaced(crystal: str) -> Atoms:
    """64 atoms away from where forces vanish."""
    atoms = start_of_run(crystal, 64, seed=0)
    atoms.positions += np.random.default_rng(1).normal(0.0, 0.1, atoms.positions.shape)
    return atoms
