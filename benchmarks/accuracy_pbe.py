"""Crystals of benchmarks/accuracy_crystals.py and accuracy_phonons.py at PBE's lattice constants.

Elements: volumes, bulk moduli and their derivatives by WIEN2k, in the structures of that set (Li and Na are 9R), from
``ase.collections.dcdft`` (Lejaeghere et al., Crit. Rev. Solid State Mater. Sci. 39, 1 (2014)). Diamond and compounds:
lattice constants of Haas, Tran, Blaha, Phys. Rev. B 79, 085104 (2009), and Paier et al., J. Chem. Phys. 124, 154709
(2006), which agree within 0.01 Å, rounded to that. Bulk moduli are given for the elements only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ase import Atoms
from ase.build import bulk
from ase.collections import dcdft

ELEMENTS = ("Li", "Na", "Mg", "Al", "Si", "Ti", "Fe", "Ni", "Cu", "Ge", "Nb", "Mo", "Ag", "W", "Au")
OTHERS = {
    "C": ("diamond", 3.57),
    "LiF": ("rocksalt", 4.07),
    "MgO": ("rocksalt", 4.26),
    "NaCl": ("rocksalt", 5.70),
    "TiN": ("rocksalt", 4.25),
    "GaAs": ("zincblende", 5.75),
}
"""Structure and lattice constant (Å)."""


@dataclass(frozen=True)
class Crystal:
    """At PBE's volume."""

    name: str
    atoms: Atoms
    modulus: float | None = None
    """GPa."""

    derivative: float | None = None
    """Of the bulk modulus by pressure."""


def crystals() -> Iterator[Crystal]:
    """Conventional cells."""
    for name in ELEMENTS:
        atoms, found = dcdft[name], dcdft.data[name]
        scale = (found["wien2k_volume"] * len(atoms) / atoms.get_volume()) ** (1 / 3)
        atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
        plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)  # without magnetic moments
        yield Crystal(name, plain, found["wien2k_B"], found["wien2k_Bp"])
    for name, (kind, length) in OTHERS.items():
        yield Crystal(name, bulk(name, kind, length, cubic=True))
