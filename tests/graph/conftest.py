"""Structures of every kind of periodicity, shared by the tests of graphs."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule

SKEW = np.array([[1.0, 0.2, -0.1], [0.15, 0.95, 0.3], [-0.2, 0.1, 1.1]])


def with_cell(atoms: Atoms, cell: np.ndarray) -> Atoms:
    copy = atoms.copy()
    copy.set_cell(cell, scale_atoms=False)
    return copy


def shaken(atoms: Atoms, seed: int = 0) -> Atoms:
    copy = atoms.copy()
    copy.positions += np.random.default_rng(seed).normal(scale=0.1, size=copy.positions.shape)
    return copy


def zoo() -> dict[str, Atoms]:
    """Name to structure; all without coincidences of distances with the cutoff."""
    salt = shaken(bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    slab = shaken(fcc111("Al", (2, 2, 2), vacuum=5.0))
    slab.pbc = (True, True, False)
    triclinic = shaken(bulk("Cu", "fcc", a=3.6) * (2, 1, 1))
    triclinic.set_cell(triclinic.cell.array @ SKEW, scale_atoms=True)
    dummy = molecule("H2O")
    dummy.cell = np.eye(3)
    outside = salt.copy()
    outside.positions += np.random.default_rng(1).integers(-9, 10, size=(len(salt), 3)) @ salt.cell.array
    return {
        "molecule": molecule("CH3CH2OH"),
        "molecule far away": Atoms("N2", [[1000.0, 0, 0], [1000.0, 1.1, 0]]),
        "bulk": salt,
        "one-atom cell": bulk("Cu", "fcc", a=3.6),
        "slab": slab,
        "slab, zero vector": with_cell(slab, slab.cell.array * [[1], [1], [0]]),
        "slab, second direction open": with_cell(slab, slab.cell.array[[0, 2, 1]]),
        "wire": Atoms("C2", [[0, 0, 0], [1.2, 0.5, 0.1]], cell=[2.5, 0, 0], pbc=(True, False, False)),
        "tilted wire": Atoms(
            "C2", [[0, 0, 0], [1.2, 0.5, 0.1]], cell=np.diag([2.5, 9, 9]) @ SKEW, pbc=(True, False, False)
        ),
        "triclinic": triclinic,
        "left-handed": with_cell(triclinic, triclinic.cell.array[[1, 0, 2]]),
        "far outside the cell": outside,
        "isolated atom": Atoms("Cu"),
        "dummy cell": dummy,
    }


ZOO = zoo()
ZOO["slab, second direction open"].pbc = (True, False, True)


@pytest.fixture(params=list(ZOO))
def structure(request: pytest.FixtureRequest) -> Atoms:
    return ZOO[request.param].copy()


@pytest.fixture
def salt() -> Atoms:
    return ZOO["bulk"].copy()


@pytest.fixture
def slab() -> Atoms:
    return ZOO["slab"].copy()


@pytest.fixture
def structures() -> list[Atoms]:
    """One of every kind."""
    return [atoms.copy() for atoms in ZOO.values()]
