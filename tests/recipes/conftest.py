"""A packed file of crystals that recipes make others from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from packed import by_emt

KINDS = (("Cu", "fcc"), ("Ag", "fcc"), ("CuAu", "rocksalt"), ("AgPd", "rocksalt"), ("NiAl", "cesiumchloride"))
LENGTHS = {"fcc": 4.0, "rocksalt": 5.6, "cesiumchloride": 3.0}


@pytest.fixture(scope="module")
def crystals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty groups of three crystals each, of which some are held out."""
    rng, rows = np.random.default_rng(0), []
    for group in range(40):
        name, lattice = KINDS[group % len(KINDS)]
        for rattle in (0.2, 0.02, 0.1):
            atoms = bulk(name, lattice, a=LENGTHS[lattice]) * (2, 1, 1)
            atoms.positions += rng.normal(scale=rattle, size=atoms.positions.shape)
            rows.append((atoms, by_emt(atoms), group, rattle))
    path = tmp_path_factory.mktemp("crystals") / "crystals.npz"
    np.savez(
        path,
        natoms=np.array([len(a) for a, *_ in rows], np.int32),
        numbers=np.concatenate([a.numbers for a, *_ in rows]).astype(np.uint8),
        positions=np.concatenate([a.positions for a, *_ in rows]).astype(np.float32),
        cell=np.array([a.cell.array for a, *_ in rows], np.float32),
        pbc=np.ones((len(rows), 3), bool),
        energy=np.array([found["energy"] for _, found, *_ in rows]),
        forces=np.concatenate([found["forces"] for _, found, *_ in rows]).astype(np.float32),
        stress=np.array([found["stress"] for _, found, *_ in rows], np.float32),
        group=np.array([group for *_, group, _ in rows], np.int32),
        group_labels=np.array([f"crystal/{group}" for group in range(40)]),
        rattle=np.array([rattle for *_, rattle in rows], np.float32),
        meta=np.array('{"theory": "EMT"}'),
    )
    return path
