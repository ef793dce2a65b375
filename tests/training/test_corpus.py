"""A branch of several stores."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from gfmpot.data.conversion import Settings, convert, describe
from gfmpot.data.formats.manifest import SplitSettings
from gfmpot.data.source import build_source
from gfmpot.training.config import BranchData, SplitConfig
from gfmpot.training.corpus import read_branch


def store(folder: Path, name: str, split: tuple[float, float]) -> Path:
    """Forty rattled copper cells, a group each."""
    cells = [bulk("Cu", cubic=True) for _ in range(40)]
    for seed, atoms in enumerate(cells):
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
    packed = folder / f"{name}.npz"
    np.savez(
        packed,
        natoms=[len(atoms) for atoms in cells],
        numbers=np.concatenate([atoms.numbers for atoms in cells]),
        positions=np.concatenate([atoms.positions for atoms in cells]),
        energy=[atoms.get_potential_energy() for atoms in cells],
        forces=np.concatenate([atoms.get_forces() for atoms in cells]),
        cell=np.stack([atoms.cell.array for atoms in cells]),
        pbc=np.stack([atoms.pbc for atoms in cells]),
    )
    source, out = build_source("npz"), folder / f"{name}.bp"
    about = describe(source, "npz", [packed], branch="emt", theory="EMT")
    convert(source, [packed], out, about, settings=Settings(SplitSettings(*split), 100.0, 5))
    return out


def test_a_store_of_training_structures_adds_to_one_with_all_splits(tmp_path: Path) -> None:
    whole, more = store(tmp_path, "whole", (0.2, 0.2)), store(tmp_path, "more", (0.0, 0.0))
    alone, both = (
        read_branch(BranchData(files=tuple(path.name for path in paths)), paths, SplitConfig())
        for paths in ([whole], [whole, more])
    )
    assert len(both.splits["train"]) == len(alone.splits["train"]) + 40
    for side in ("valid", "test"):
        assert len(both.splits[side]) == len(alone.splits[side]) > 0
    assert both.info.n_structures == len(both.splits["train"])
    with pytest.raises(ValueError, match=re.escape("more.bp: only the splits train; training needs train, valid")):
        read_branch(BranchData(files=("more.bp",)), [more], SplitConfig())
