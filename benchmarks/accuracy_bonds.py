"""Who is bonded to whom, by distance alone."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BOND = 1.25
"""Longest bond, in sums of covalent radii."""

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def bonds(atoms: Atoms) -> Pairs:
    """Both ends of each bond, both ways round."""
    first, second = neighbor_list("ij", atoms, BOND * covalent_radii[atoms.numbers])
    return first, second


def bonded(atoms: Atoms) -> set[tuple[int, int]]:
    """Pairs of bonded atoms."""
    return {(int(i), int(j)) for i, j in zip(*bonds(atoms), strict=True) if i < j}


def fragments(atoms: Atoms) -> NDArray[np.int32]:
    """Number of the fragment that each atom is in."""
    first, second = bonds(atoms)
    links = coo_array((np.ones(len(first)), (first, second)), shape=(len(atoms), len(atoms)))
    labels: NDArray[np.int32] = connected_components(links, directed=False)[1]
    return labels
