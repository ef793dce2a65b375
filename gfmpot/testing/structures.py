"""The structures that conformance checks use, made of elements that the subject supports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
from ase import Atoms
from ase.build import bulk, fcc100, molecule
from ase.data import atomic_numbers, chemical_symbols, covalent_radii, reference_states
from numpy.typing import NDArray

Supports = Callable[[Collection[str]], bool]
"""Whether elements (symbols) may occur together."""

CLOSEST = 2.2
"""Å, between atoms of crystals made up from radii: dense packings of light atoms would have hundreds of neighbours."""

_METALS = ("Cu", "Al", "Ni", "Ag", "Si", "Fe", "Ti", "Mg", "C", "Ar")
_SALTS = (("Na", "Cl", 5.64), ("Mg", "O", 4.21), ("Li", "F", 4.03), ("Ca", "O", 4.81), ("Ni", "O", 4.18))
_MOLECULES = ("CH3CH2OH", "H2O", "NH3", "CH4", "CO2", "N2", "H2")


class Samples:
    """Structures of supported elements; every call makes them anew, so that nobody can spoil another's.

    Well-known materials are taken where their elements are supported. Otherwise a metal is any supported element, a
    salt any pair, a molecule a cluster, with distances from covalent radii.

    Raises:
        ValueError: no element is supported.
    """

    def __init__(self, supports: Supports) -> None:
        known = [symbol for symbol in (*_METALS, *chemical_symbols[1:]) if supports([symbol])]
        if not known:
            raise ValueError("no structure can be built: the subject supports no element (do its branches have e0?)")
        self.supports = supports
        self.metal = known[0]
        self._others = known

    def general(self) -> dict[str, Atoms]:
        """Without symmetry, in every kind of cell: what invariances and derivatives are measured on."""
        triclinic = self._triclinic()
        structures = {
            "molecule": self.molecule(),
            "bulk": self.salt() * (2, 1, 1),
            "slab": self._slab(),
            "slab, zero vector": flattened(self._slab()),
            "wire": self._wire(),
            "triclinic": triclinic,
            "left-handed": left_handed(triclinic),
        }
        return {name: rattled(atoms) for name, atoms in structures.items()}

    def edge_cases(self) -> dict[str, Atoms]:
        """What programs stumble over."""
        dummy = self.molecule()
        dummy.cell = np.eye(3)
        return {
            "isolated atom": Atoms(self.metal),
            "one-atom cell": self.crystal(),
            "far outside the cell": scattered(rattled(self.salt() * (2, 1, 1))),
            "molecule in a 1 Å cell": dummy,
            "lone atom in a periodic box": Atoms(self.metal, cell=[60.0] * 3, pbc=True),
        }

    def symmetric(self) -> dict[str, Atoms]:
        """Crystals in which every force is zero by symmetry."""
        return {"rock salt": self.salt(cubic=True), "fcc": bulk(self.metal, "fcc", a=self._lattice(), cubic=True)}

    def molecule(self) -> Atoms:
        """A molecule without cell, or a cluster if no molecule is supported."""
        for name in _MOLECULES:
            atoms = molecule(name)
            if self.supports(set(atoms.get_chemical_symbols())):
                return atoms
        d = self.spacing()
        return Atoms(
            self.metal * 5, d * np.array([[0, 0, 0], [1, 0, 0], [0.4, 0.9, 0], [0.5, 0.3, 0.9], [1.4, 0.9, 0.3]])
        )

    def ion(self) -> Atoms:
        """The molecule with one electron less, in a multiplicity that this allows."""
        atoms = self.molecule()
        electrons = int(atoms.numbers.sum()) - 1
        atoms.info.update(charge=1, spin=2 if electrons % 2 else 3)
        return atoms

    def crystal(self) -> Atoms:
        """One atom in a primitive fcc cell."""
        return bulk(self.metal, "fcc", a=self._lattice())

    def salt(self, *, cubic: bool = False) -> Atoms:
        """Rock salt of two elements, or of one if no two go together."""
        for cation, anion, a in _SALTS:
            if self.supports([cation, anion]):
                return bulk(cation + anion, "rocksalt", a=a, cubic=cubic)
        partner = next((symbol for symbol in self._others[1:] if self.supports([self.metal, symbol])), self.metal)
        a = 2 * max(_radius(self.metal) + _radius(partner), CLOSEST)
        atoms = bulk("NaCl", "rocksalt", a=a, cubic=cubic)
        atoms.symbols = [self.metal if symbol == "Na" else partner for symbol in atoms.symbols]
        return atoms

    def spacing(self) -> float:
        """Å, between neighbours in the metal."""
        return float(self._lattice() / np.sqrt(2))

    def probes(self, distances: NDArray[np.float64]) -> Iterator[Atoms]:
        """Two dimers; the first atom of one at each of ``distances`` (Å) from the first of the other, all else beyond.

        Each dimer's own bond gives the energy a slope against which a jump can be told.
        """
        d = self.spacing()
        for distance in distances:
            x = float(distance)
            at = [[0, 0, 0], [x, 0, 0], [-0.3 * d, -0.9 * d, 0.2 * d], [distances[0] + 0.4 * d, 0.9 * d, 0.3 * d]]
            yield Atoms(self.metal * 4, at)

    def unsupported(self) -> str | None:
        """An element that is not supported, if there is one."""
        return next((symbol for symbol in chemical_symbols[1:] if not self.supports([symbol])), None)

    def _lattice(self) -> float:
        state = reference_states[atomic_numbers[self.metal]]
        if state and state["symmetry"] == "fcc":
            return float(state["a"])
        return float(np.sqrt(2) * max(1.95 * _radius(self.metal), CLOSEST))

    def _slab(self) -> Atoms:
        slab = fcc100(self.metal, (1, 2, 2), a=self._lattice(), vacuum=4.0)
        slab.pbc = (True, True, False)
        return slab

    def _wire(self) -> Atoms:
        d = self.spacing()
        return Atoms(self.metal * 2, [[0, 0, 0], [0.9 * d, 0.4 * d, 0]], cell=[1.8 * d, 0, 0], pbc=(True, False, False))

    def _triclinic(self) -> Atoms:
        atoms = self.crystal() * (2, 1, 1)
        skew = np.array([[1.0, 0.07, -0.05], [0.11, 0.97, 0.04], [-0.03, 0.09, 1.06]])
        atoms.set_cell(atoms.cell.array @ skew, scale_atoms=True)
        return atoms


def rattled(atoms: Atoms, size: float = 0.08, seed: int = 1) -> Atoms:
    """A copy with every coordinate moved by about ``size`` Å."""
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(scale=size, size=moved.positions.shape)
    return moved


def left_handed(atoms: Atoms) -> Atoms:
    """The same crystal described by a left-handed cell."""
    return recelled(atoms, np.diag([1, -1, 1]))


def recelled(atoms: Atoms, combination: NDArray[np.int64]) -> Atoms:
    """The same atoms with other lattice vectors: integer combinations (3, 3) of the old ones."""
    copy = atoms.copy()
    copy.set_cell(combination @ atoms.cell.array, scale_atoms=False)
    return copy


def flattened(slab: Atoms) -> Atoms:
    """A slab whose third cell vector is zero."""
    copy = slab.copy()
    copy.set_cell(slab.cell.array * [[1], [1], [0]], scale_atoms=False)
    return copy


def scattered(atoms: Atoms, seed: int = 2) -> Atoms:
    """A copy with every atom moved by its own lattice vector, up to ten cells away."""
    moved = atoms.copy()
    images = np.random.default_rng(seed).integers(-10, 11, size=(len(atoms), 3)) * atoms.pbc
    moved.positions += images @ atoms.cell.array
    return moved


def rotated(atoms: Atoms, matrix: NDArray[np.float64]) -> Atoms:
    """A copy with positions and cell under an orthogonal map (3, 3)."""
    return deformed(atoms, matrix.T)


def deformed(atoms: Atoms, gradient: NDArray[np.float64]) -> Atoms:
    """A copy with positions and cell rows multiplied by ``gradient`` (3, 3) from the right."""
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ gradient, scale_atoms=False)
    moved.positions = atoms.positions @ gradient
    return moved


def has_volume(atoms: Atoms) -> bool:
    """Whether stress is defined: a periodic direction, and no zero cell vector."""
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def _radius(symbol: str) -> float:
    return float(covalent_radii[atomic_numbers[symbol]])
