"""A small untrained model and structures, for the tests of screening."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from screening_samples import many

from gfmpot.inference import Predictor
from gfmpot.inference.screening import Outcome, Screening, Settings
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig
from gfmpot.models.backbones.painn import PaiNNConfig

E0 = {symbol: -1.0 - i for i, symbol in enumerate(("H", "C", "N", "O", "Na", "Mg", "Al", "Si", "Cl", "Cu", "Fe"))}
STATES = ((-1, 0), (-1, 2), (0, 0), (0, 1), (0, 3), (1, 0), (1, 2))


@pytest.fixture(scope="session")
def small_potential() -> Potential:
    """Two branches, of which one knows molecules only."""
    config = PotentialConfig(
        backbone=PaiNNConfig(hidden=16, layers=2, radial_basis=4, cutoff=4.0, mean_neighbours=20.0),
        head=HeadConfig(shared_layers=0, branch_layers=1, branch_width=16),
    )
    branches = [
        BranchInfo("solids-pbe", "PBE", e0=E0, states=STATES),
        BranchInfo("molecules-pbe0", "PBE0", e0={s: E0[s] for s in ("H", "C", "N", "O")}, states=STATES),
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Potential(config, branches, e0_blend=E0)


@pytest.fixture
def predictor(small_potential: Potential) -> Predictor:
    return Predictor(small_potential, precision="fp64", device="cpu")


@pytest.fixture
def candidates() -> list[Atoms]:
    """Seven structures, all different: crystals, a slab with a zero vector, molecules, an ion."""
    found = [bulk("MgO", "rocksalt", 4.2), bulk("Cu", "fcc", 3.6) * (2, 1, 1), molecule("CH4"), molecule("H2O")]
    slab = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    slab.pbc = (True, True, False)
    slab.cell[2] = 0
    ion = molecule("NH3")
    ion.info |= {"charge": 1, "spin": 2}
    found += [slab, ion, molecule("CH3CH2OH")]
    for seed, atoms in enumerate(found):
        atoms.positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    return found


Screen = Callable[..., tuple[Screening, Outcome]]


@pytest.fixture
def screen(predictor: Predictor, tmp_path: Path) -> Screen:
    """Screen files into ``out``; further arguments are settings, or of ``work``."""

    def run(*paths: str | Path, out: str = "out", workers: int = 0, **settings: object) -> tuple[Screening, Outcome]:
        screening = Screening([tmp_path / path for path in paths], tmp_path / out, predictor, Settings(**settings))
        return screening, screening.work(workers=workers)

    return run


@pytest.fixture
def files(tmp_path: Path, candidates: list[Atoms]) -> list[Atoms]:
    """``a.extxyz`` with bad structures among good ones; returns them as they are read."""
    write(tmp_path / "a.extxyz", many(candidates))
    return read(tmp_path / "a.extxyz", ":")
