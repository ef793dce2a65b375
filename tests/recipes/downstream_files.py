"""Small files in the layouts in which downstream datasets are published, for tests of recipes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from packed import write_packed
from pymatgen.core import Lattice, Structure

from gfmpot.data import FrameSet

COUNT = 20
"""Structures of a file."""


def labelled(atoms: Atoms, i: int, *, stress: bool = False) -> Atoms:
    """Displaced, with labels that a harmonic crystal could have."""
    rng = np.random.default_rng(i)
    moved = rng.normal(scale=0.05, size=atoms.positions.shape)
    atoms.positions += moved
    labels: dict[str, Any] = {"energy": 5.0 * float((moved**2).sum()) - 3.0 * len(atoms), "forces": -10.0 * moved}
    labels |= {"stress": rng.normal(scale=0.01, size=6)} if stress else {}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def frames(*, stress: bool = False) -> list[Atoms]:
    """Crystals of two elements, in groups of two."""
    found = [labelled(bulk("MgO", "rocksalt", a=4.2), i, stress=stress) for i in range(COUNT)]
    for i, atoms in enumerate(found):
        atoms.info["group"] = f"run{i // 2}"
    return found


def md17(folder: Path) -> Path:
    """As sGDML has it, in kcal/mol."""
    water = molecule("H2O")
    moved = np.random.default_rng(0).normal(scale=0.05, size=(COUNT, 3, 3))
    energies = -47_000.0 + 100.0 * (moved**2).sum(axis=(1, 2))
    path = folder / "md17_water.npz"
    np.savez(path, z=water.numbers, R=water.positions + moved, E=energies[:, None], F=-200.0 * moved)
    return path


def wiggle150(folder: Path) -> Path:
    """As the supporting information has it."""
    rng, text = np.random.default_rng(0), ""
    for i in range(COUNT):
        atoms, name = molecule("CH3CH2OH" if i % 2 else "CH3OCH3"), "ado" if i % 2 else "efa"
        atoms.rattle(0.1, seed=i)
        rows = zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
        lines = [f"{symbol} {x:.6f} {y:.6f} {z:.6f}" for symbol, (x, y, z) in rows]
        text += "\n".join([str(len(atoms)), f"{name}_{i:02d} {-97_000 + rng.uniform(0, 100):.4f}", *lines]) + "\n"
    path = folder / "ct5c00015_si_003.xyz"
    path.write_text(text)
    return path


def ms25(folder: Path) -> Path:
    """A system's folder as on Zenodo."""
    inside = folder / "MgO-2x2" / "set1"
    inside.mkdir(parents=True)
    found = frames()
    for name, part in (("train-1000", found[:12]), ("val", found[12:16]), ("test", found[16:])):
        write(inside / f"{name}.traj", part)
    return inside.parent


def perovskites() -> list[Structure]:
    """Of two formulas, two of each cell."""
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    lattices = [Lattice.orthorhombic(4.0 + 0.02 * i, 4.0, 4.2) for i in range(COUNT)]
    return [Structure(cell, [("Mg", "Na")[i % 2], "Al", "O", "O", "O"], places) for i, cell in enumerate(lattices)]


def cif_table(folder: Path) -> Path:
    """As Liu-Group-UF/Perovskite-ML has it."""
    (folder / "CIF_files").mkdir()
    lines = ["id,formation_energy"]
    for i, structure in enumerate(perovskites()):
        structure.to(str(folder / "CIF_files" / f"{i}.cif"))
        lines.append(f"{i}.cif,{-2.0 + 0.1 * (i % 2) + 0.01 * i:.4f}")
    path = folder / "oqmd_fm.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def matbench(task: str, column: str, values: Sequence[Any]) -> Callable[[Path], Path]:
    """As Matbench has a task."""

    def write_task(folder: Path) -> Path:
        rows = [[structure.as_dict(), value] for structure, value in zip(perovskites(), values, strict=True)]
        path = folder / f"{task}.json.gz"
        with gzip.open(path, "wt") as file:
            json.dump({"index": list(range(len(rows))), "columns": ["structure", column], "data": rows}, file)
        return path

    return write_task


def packed(column: str = "", unit: str = "", values: Sequence[Any] = ()) -> Callable[[Path], Path]:
    """Packed as in docs/data.md, with a column of a property; without one, with energies and forces."""

    def write_file(folder: Path) -> Path:
        path = write_packed(folder / "set.npz", FrameSet.from_atoms(frames()))
        if column:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files if name not in ("energy", "forces", "stress")}
            meta = np.array(json.dumps({"target_units": {f"target_{column}": unit}}))
            np.savez(path, **arrays, **{f"target_{column}": np.array(values), "meta": meta})
        return path

    return write_file


def custom(folder: Path, *, stress: bool = True) -> Path:
    """A user's own."""
    path = folder / "mine.extxyz"
    write(path, frames(stress=stress))
    return path


def qm9(folder: Path) -> Path:
    """The packed form, of three molecules that are bent."""
    from gfmpot.finetune.readers._qm9 import UNITS

    found = [labelled(molecule(("CH4", "H2O", "NH3")[i % 3]), i) for i in range(COUNT)]
    path = write_packed(folder / "qm9.npz", FrameSet.from_atoms(found))
    with np.load(path) as file:
        arrays = dict(file)
    columns = {f"target_{name}": np.linspace(-10.0, -20.0, COUNT) for name in UNITS}
    meta = np.array(json.dumps({"target_units": {f"target_{name}": unit for name, unit in UNITS.items()}}))
    np.savez(path, **arrays, **columns, qm9_index=np.arange(1, COUNT + 1), meta=meta)
    return path


NUMBERS = np.linspace(0.0, 1.0, COUNT)
TRUTHS = np.arange(COUNT) % 4 > 1

FILES: dict[str, Callable[[Path], Path]] = {
    **{"qm9": qm9, "md17": md17, "wiggle150": wiggle150, "oqmd": cif_table, "abx3": cif_table, "custom": custom},
    **{f"ms25_{system}": ms25 for system in ("mgo22", "mgo44", "hea", "reaction", "zro")},
    **{name: packed() for name in ("nbmotaw", "pt_co", "zro2", "hfo2", "mgo")},
    **{f"{name}_is_metal": packed("is_metal", "", TRUTHS) for name in ("lcmgm", "evapd", "oqmd")},
    "matbench_jdft2d": matbench("matbench_jdft2d", "exfoliation_en", (100 * NUMBERS).tolist()),
    "matbench_mp_is_metal": matbench("matbench_mp_is_metal", "is_metal", TRUTHS.tolist()),
    "twodmatpedia": packed("exfoliation_energy", "eV/atom", NUMBERS),
    "conformers": packed("dlpno_ccsdt", "eV", NUMBERS),
}
"""What writes a file for a recipe, into a folder that is empty."""
