"""A model and files with what it is adapted to, for tests of fine-tuning."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from gfmpot.finetune.task import Measure, Task
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig, Target
from gfmpot.models.backbones.painn import PaiNNConfig

METALS = ("Cu", "Al")
TASK = Task(
    name="metals",
    title="Metals by EMT",
    reader="structures",
    target=Target("energy", "eV", "energy"),
    forces=True,
    branch_name="metals-emt",
    theory="EMT",
    measures=(
        Measure("energy_per_atom_mae", "meV/atom", 1e3, "energy MAE"),
        Measure("forces_mae", "meV/Å", 1e3, "force component MAE"),
    ),
    split=(0.6, 0.2, 0.2),
    epochs=12,
    batch=4,
    learning_rate=3e-3,
    backbone_learning_rate=1e-3,
)
GAP = dataclasses.replace(
    TASK,
    name="gap",
    target=Target("gap", "eV", "intensive"),
    forces=False,
    branch_name="",
    measures=(Measure("mae", "eV"),),
)


def two_branches(symbols: tuple[str, ...] = ("H", "Al", "Cu")) -> Potential:
    """Untrained; the first branch knows nothing of copper."""
    config = PotentialConfig(
        backbone=PaiNNConfig(hidden=32, layers=2, radial_basis=4, cutoff=4.0, mean_neighbours=20.0),
        head=HeadConfig(shared_layers=0, branch_layers=1, branch_width=8),
    )
    few = {s: -1.0 for s in symbols if s != "Cu"}
    branches = [BranchInfo("few-pbe", "PBE", e0=few), BranchInfo("all-emt", "EMT", e0=dict.fromkeys(symbols, -2.0))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Potential(config, branches, dict.fromkeys(symbols, -2.0), {"name": "two"})


def metals(count: int) -> list[Atoms]:
    """Labelled by EMT, with a made-up gap."""
    return [metal(METALS[i % 2], i) for i in range(count)]


def metal(symbol: str, seed: int) -> Atoms:
    """Strained and displaced."""
    rng = np.random.default_rng(seed)
    atoms = bulk(symbol, cubic=True)
    strain = rng.uniform(0.95, 1.05)
    atoms.set_cell(atoms.cell * strain, scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    atoms.info["gap"] = float(10 * (strain - 0.9))
    return atoms


def written(path: Path, frames: list[Atoms]) -> Path:
    """As extended XYZ."""
    write(path, frames, format="extxyz")
    return path
