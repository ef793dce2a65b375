"""Small models of properties, and structures with properties that are known, for tests."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gfmpot.data import FrameSet
from gfmpot.finetune.property_data import PropertyData
from gfmpot.models import (
    BranchInfo,
    HeadConfig,
    Potential,
    PotentialConfig,
    PropertyConfig,
    PropertyModel,
    Scaling,
    Target,
)
from gfmpot.models.backbones.painn import PaiNNConfig

SYMBOLS = ("H", "C", "N", "O", "Na", "Mg", "Al", "Cl", "Cu")

GAP = Target("band_gap", "eV", "intensive")
DEFECT = Target("defect_level", "eV", "intensive", "attention")
ZPVE = Target("zpve", "eV", "extensive")
METAL = Target("is_metal", "", "class")
TARGETS = (GAP, DEFECT, ZPVE, METAL)


def small_potential(seed: int = 0) -> Potential:
    """One untrained branch."""
    config = PotentialConfig(
        backbone=PaiNNConfig(hidden=16, layers=2, radial_basis=4, cutoff=4.0, mean_neighbours=20.0),
        head=HeadConfig(shared_layers=0, branch_layers=1, branch_width=8),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Potential(config, [BranchInfo("a-pbe", "PBE", e0=dict.fromkeys(SYMBOLS, -1.0))])


def small_model(target: Target = GAP, seed: int = 0, potential: Potential | None = None) -> PropertyModel:
    """Untrained, with a scaling that is not trivial."""
    references = {s: 0.1 * i for i, s in enumerate(SYMBOLS)} if target.kind == "extensive" else {}
    offset = 0.0 if target.kind == "extensive" else 0.7
    scaling = Scaling(SYMBOLS, references, offset, 1.0 if target.is_class else 2.0)
    shape = PropertyConfig.of(small_potential(), head_width=16)
    return PropertyModel.begun_with(potential, shape, target, scaling, seed=seed)


def structures() -> list[Atoms]:
    """Crystals and molecules, displaced; one has a charge."""
    found = [bulk("MgO", "rocksalt", 4.2), bulk("Cu", "fcc", 3.6) * (2, 1, 1), molecule("CH4"), molecule("CH3CH2OH")]
    ion = molecule("NH3")
    ion.info |= {"charge": 1, "spin": 2}
    found.append(ion)
    for seed, atoms in enumerate(found):
        atoms.rattle(0.05, seed=seed)
    return found


def labelled(count: int, target: Target = GAP, seed: int = 0) -> PropertyData:
    """Metals of different density, with what can be learnt from it."""
    rng = np.random.default_rng(seed)
    frames, values = [], []
    for i in range(count):
        atoms = bulk(("Cu", "Al")[i % 2], cubic=True)
        strain = rng.uniform(0.92, 1.08)
        atoms.set_cell(atoms.cell * strain, scale_atoms=True)
        atoms.rattle(0.02, seed=1000 * seed + i)
        value = 10.0 * (strain - 1.0) + (i % 2)
        frames.append(atoms)
        values.append(
            float(value > 0.5) if target.is_class else value * (len(atoms) if target.kind == "extensive" else 1)
        )
    return PropertyData(FrameSet.from_atoms(frames, f"metals{seed}"), np.array(values), [f"m{i}" for i in range(count)])
