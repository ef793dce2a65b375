"""The rigid scans of benchmarks/accuracy_scans.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from accuracy_bonds import bonded, fragments
from ase import Atoms
from ase.build import molecule
from ase.collections import s22
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

DISTANCES: NDArray[np.float64] = np.concatenate([np.arange(2.3, 4.0, 0.1), np.arange(4.0, 7.01, 0.25)])
"""Å, between the oxygens of two waters."""

ANGLES: NDArray[np.float64] = np.arange(0.0, 361.0, 15.0)

TORSIONS = {
    "ethane": ("C2H6", "CC"),
    "butane": ("trans-butane", "CC"),
    "butadiene": ("butadiene", "CC"),
    "methanol": ("CH3OH", "CO"),
    "hydrogen peroxide": ("H2O2", "OO"),
    "formic acid": ("HCOOH", "CO"),
    "biphenyl": (None, "CC"),
}
"""Name in G2, and elements of the bond that is turned about: the one in the middle, if there are several."""


@dataclass(frozen=True)
class Scan:
    """Structures along a coordinate."""

    name: str
    along: Sequence[float]
    unit: str
    frames: list[Atoms]
    alone: Sequence[Atoms] = ()
    """Molecules whose energies are subtracted."""


def dimer(distances: NDArray[np.float64]) -> Scan:
    """Two waters, the second moved along the line between the oxygens."""
    pair = s22["Water_dimer"]
    second = fragments(pair) == fragments(pair)[-1]
    oxygens = [int(np.flatnonzero((pair.numbers == 8) & side)[0]) for side in (~second, second)]
    apart = pair.positions[oxygens[1]] - pair.positions[oxygens[0]]
    frames = []
    for distance in distances:
        frames.append(pair.copy())
        frames[-1].positions[second] += apart * (distance / np.linalg.norm(apart) - 1)
    return Scan("two waters", distances.tolist(), "Å", frames, (pair[~second], pair[second]))


def torsions(angles: NDArray[np.float64]) -> Iterator[Scan]:
    """Dihedrals in degrees; a side of the bond is turned as a whole."""
    for name, (inside, elements) in TORSIONS.items():
        start = biphenyl() if inside is None else molecule(inside)
        dihedral, side = _about(start, elements)
        frames = []
        for angle in angles:
            frames.append(start.copy())
            frames[-1].set_dihedral(*dihedral, angle, mask=side)
        yield Scan(name, angles.tolist(), "°", frames)


def biphenyl() -> Atoms:
    """Two rings of benzene in a plane, 1.48 Å apart."""
    ring = molecule("C6H6")
    carbon = ring.positions[0]
    hydrogen = int(np.argmin(np.linalg.norm(ring.positions[6:] - carbon, axis=1))) + 6
    middle = carbon * (1 + 0.74 / np.linalg.norm(carbon))
    del ring[hydrogen]
    other = ring.copy()
    other.positions = 2 * middle - other.positions
    return ring + other


def _about(atoms: Atoms, elements: str) -> tuple[list[int], list[bool]]:
    """Four atoms of the dihedral, and who is on the side of the fourth.

    The bond is the single one of these elements whose cut divides the molecule most evenly.
    """
    pairs = bonded(atoms)
    found = []
    for pair in sorted(pairs):
        first, second = sorted(pair, key=lambda i: (atoms.symbols[i], i))
        if atoms.symbols[first] + atoms.symbols[second] == elements:
            side = _side(len(atoms), pairs - {pair}, second)
            if not side[first]:
                found.append((abs(2 * int(side.sum()) - len(atoms)), first, second, side))
    _, first, second, side = min(found, key=lambda each: (each[0], -atoms.get_distance(*each[1:3])))
    ends = [_neighbour(atoms, pairs, *each) for each in ((first, second), (second, first))]
    return [ends[0], first, second, ends[1]], side.tolist()


def _side(count: int, pairs: set[tuple[int, int]], within: int) -> NDArray[np.bool_]:
    first, second = zip(*pairs, strict=True)
    links = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    labels = connected_components(links, directed=False)[1]
    found: NDArray[np.bool_] = labels == labels[within]
    return found


def _neighbour(atoms: Atoms, pairs: set[tuple[int, int]], of: int, other: int) -> int:
    """The heaviest one, which is not at the other end of the bond."""
    near = {sum(pair) - of for pair in pairs if of in pair} - {other}
    return min(near, key=lambda i: (-atoms.numbers[i], i))
