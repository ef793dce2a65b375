"""What benchmarks/accuracy_md.py simulates: ten systems of 40 to 108 atoms, built here and always the same."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.data import covalent_radii
from ase.spacegroup import crystal
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

AVOGADRO = 0.602214
"""Molecules per Å³ in 1 mol per cm³."""


def systems() -> dict[str, Atoms]:
    """By name; lattice constants are experimental ones."""
    return {
        "Cu": bulk("Cu", "fcc", 3.615, cubic=True) * 3,
        "Fe": bulk("Fe", "bcc", 2.867, cubic=True) * 3,
        "Si": bulk("Si", "diamond", 5.431, cubic=True) * 2,
        "MgO": bulk("MgO", "rocksalt", 4.212, cubic=True) * 2,
        "NaCl": bulk("NaCl", "rocksalt", 5.640, cubic=True) * 2,
        "SrTiO3": perovskite() * 2,
        "SiO2 (quartz)": quartz() * 2,
        "LiFePO4": olivine() * (1, 1, 2),
        "water": box(molecule("H2O"), face_centred(2), density=0.997, mass=18.015),
        "ethanol": box(molecule("CH3CH2OH"), simple(2), density=0.789, mass=46.069),
    }


MOLECULAR = ("water", "ethanol")
"""Here bonds may break at 1,000 K, but no new ones may form between heavy atoms of different molecules."""


def perovskite() -> Atoms:
    """Cubic SrTiO3, 5 atoms."""
    sites = [(0.5, 0.5, 0.5), (0, 0, 0), (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)]
    return Atoms("SrTiO3", scaled_positions=sites, cell=[3.905] * 3, pbc=True)


def quartz() -> Atoms:
    """Alpha quartz, 9 atoms (Levien, Prewitt, Weidner, Am. Mineral. 65, 920 (1980))."""
    sites = [(0.4697, 0.0, 2 / 3), (0.4135, 0.2669, 0.1191 + 2 / 3)]
    cell = [4.916, 4.916, 5.4054, 90, 90, 120]
    return plain(crystal(["Si", "O"], sites, spacegroup=154, cellpar=cell, onduplicates="error"))


def olivine() -> Atoms:
    """LiFePO4, 28 atoms, Pnma (Streltsov et al., Acta Cryst. B 49, 147 (1993), rounded)."""
    sites = {
        "Li": (0.0, 0.0, 0.0),
        "Fe": (0.282, 0.25, 0.975),
        "P": (0.095, 0.25, 0.418),
        "O": [(0.097, 0.25, 0.743), (0.457, 0.25, 0.206), (0.166, 0.046, 0.285)],
    }
    cell = [10.33, 6.01, 4.69, 90, 90, 90]
    symbols = ["Li", "Fe", "P", "O", "O", "O"]
    return plain(crystal(symbols, [sites["Li"], sites["Fe"], sites["P"], *sites["O"]], spacegroup=62, cellpar=cell))


def plain(atoms: Atoms) -> Atoms:
    """Without what ASE writes about space groups."""
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def simple(n: int) -> NDArray[np.float64]:
    """Fractional sites, n³ of them."""
    return np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) / n


def face_centred(n: int) -> NDArray[np.float64]:
    """Fractional sites, 4n³ of them."""
    within = np.array([(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]) / (2 * n)
    return np.concatenate([site + within for site in simple(n)])


def box(one: Atoms, sites: NDArray[np.float64], *, density: float, mass: float) -> Atoms:
    """Molecules on sites of a cube, turned one after another so that they come least close to those before.

    Args:
        one: molecule.
        sites: fractional.
        density: g/cm³.
        mass: g/mol.
    """
    rng, length = np.random.default_rng(0), (len(sites) * mass / density / AVOGADRO) ** (1 / 3)
    found = Atoms(cell=[length] * 3, pbc=True)
    for site in sites:
        turned = [moved(one, rotation, site * length) for rotation in Rotation.random(300, rng=rng)]
        found += max(turned, key=lambda each: closeness(found, each))
    return found


def moved(one: Atoms, rotation: Rotation, to: NDArray[np.float64]) -> Atoms:
    """Turned about its centre, which is put somewhere."""
    each = one.copy()
    each.positions = rotation.apply(each.positions - each.positions.mean(axis=0)) + to
    return each


def closeness(box: Atoms, one: Atoms) -> float:
    """Least distance between a molecule and a box (and between its images), in sums of covalent radii."""
    if not len(box):
        return 0.0
    apart = one.positions[:, None] - box.positions[None]
    apart -= box.cell[0, 0] * np.round(apart / box.cell[0, 0])
    sums = covalent_radii[one.numbers][:, None] + covalent_radii[box.numbers][None]
    return float((np.linalg.norm(apart, axis=-1) / sums).min())
