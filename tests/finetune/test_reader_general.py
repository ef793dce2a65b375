"""Readers of users' own files: packed sets of properties, and structures with numbers beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from packed import write_packed
from reader_samples import everything, examples, refused

from gfmpot.data import FrameSet
from gfmpot.finetune.reader import build_reader
from gfmpot.units import BOHR, HARTREE

PACKED = build_reader("packed")


def crystal(i: int) -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.rattle(0.05, seed=i)
    atoms.info["group"] = f"run{i // 2}"
    atoms.calc = SinglePointCalculator(atoms, energy=-11.0 - i, forces=np.full((2, 3), 0.5 + i))
    return atoms


def write_set(path: Path, **changes: Any) -> Path:
    write_packed(path, FrameSet.from_atoms([crystal(i) for i in range(3)]))
    with np.load(path) as file:
        arrays = dict(file)
    columns = {
        "target_gap": np.array([1.0, np.nan, 3.0], dtype=np.float32),
        "target_is_metal": np.array([True, False, True]),
    }
    meta = {"meta": np.array(json.dumps({"target_units": {"target_gap": "eV", "target_is_metal": "eV"}}))}
    new = {**arrays, **columns, **meta, **changes}
    np.savez(path, **{name: value for name, value in new.items() if value is not None})
    return path


# --- packed


def test_columns_are_targets(tmp_path: Path) -> None:
    path = write_set(tmp_path / "mine.npz")
    found = examples(everything(PACKED, path))
    np.testing.assert_array_equal([e.targets["gap"] for e in found], [1, np.nan, 3])
    assert [e.targets["is_metal"] for e in found] == [1.0, 0.0, 1.0]
    assert PACKED.units(path) == {"gap": "eV", "is_metal": ""}
    assert [e.key for e in found] == ["mine:0", "mine:1", "mine:2"]
    assert [e.frame.group for e in found] == ["run0", "run0", "run1"]
    assert [e.frame.energy for e in found] == [-11.0, -12.0, -13.0]
    np.testing.assert_allclose(found[2].frame.forces, 2.5)
    np.testing.assert_allclose(found[2].frame.positions, crystal(2).positions)


def test_a_set_of_properties_needs_no_energy(tmp_path: Path) -> None:
    path = write_set(tmp_path / "mine.npz", energy=None, forces=None, stress=None, meta=None, group_labels=None)
    found = examples(everything(PACKED, path))
    assert np.isnan([e.frame.energy for e in found]).all()
    assert np.isnan(found[0].frame.forces).all()
    assert [e.frame.group for e in found] == ["0", "0", "1"]
    assert PACKED.units(path) == {"gap": "", "is_metal": ""}


def test_names_of_structures(tmp_path: Path) -> None:
    keys = np.array(["a", "b", "c"])
    for changes, expected in (
        ({"oqmd_id": np.array([4069899.0, 7.0, 8.0])}, ["4069899", "7", "8"]),
        ({"mp_id": keys}, ["a", "b", "c"]),
        ({"mp_id": keys[::-1], "key": keys}, ["a", "b", "c"]),
        ({"mp_id": keys[:2]}, ["s:0", "s:1", "s:2"]),
    ):
        found = examples(everything(PACKED, write_set(tmp_path / "s.npz", **changes)))
        assert [e.key for e in found] == expected


def test_other_and_cut_packed_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    with pytest.raises(ValueError, match=r"mine.npz: missing natoms; expected the packed layout"):
        PACKED.count(write_set(path, natoms=None))
    with pytest.raises(ValueError, match=r"target_gap to be a number for each of 3 structures, got .* shape \(2,\)"):
        PACKED.count(write_set(path, target_gap=np.zeros(2)))
    with pytest.raises(ValueError, match="target_name to be a number"):
        PACKED.count(write_set(path, target_name=np.array(["a", "b", "c"])))
    with pytest.raises(ValueError, match="expected JSON in the array meta, got 'units: eV'"):
        PACKED.units(write_set(path, meta=np.array("units: eV")))
    path.write_bytes(write_set(path).read_bytes()[:-200])
    with pytest.raises(ValueError, match="not a whole"):
        PACKED.count(path)


def test_real_packed_sets(reference: Callable[[str], Path]) -> None:
    path = reference("abx3_chenebuah.npz")
    found = examples(list(PACKED.read(path, [0, 1])))
    assert found[0].key == "mp-1183115"
    assert found[0].frame.group == "AcAlO3"
    assert found[0].targets["formation_energy"] == pytest.approx(-3.690019421499996)
    assert np.isnan(found[0].targets["bulk_modulus"])
    assert PACKED.units(path)["bulk_modulus"] == "GPa"
    assert PACKED.units(reference("qm7.npz")) == {"atomization": "eV", "atomization_dftb": "eV"}


# --- structures


def test_extended_xyz(tmp_path: Path) -> None:
    atoms = [crystal(i) for i in range(3)]
    for i, a in enumerate(atoms):
        a.info |= {
            "gap": 0.5 * i,
            "is_metal": i == 0,
            "label": "slab",
            "dipole": np.array([0.0, 0.0, 1.0]),
            "charge": 0,
        }
    del atoms[1].info["gap"]
    write(tmp_path / "mine.extxyz", atoms)
    reader = build_reader("structures")
    found = examples(everything(reader, tmp_path / "mine.extxyz"))
    assert [dict(e.targets) for e in found] == [
        {"gap": 0.0, "is_metal": 1.0},
        {"is_metal": 0.0},
        {"gap": 1.0, "is_metal": 0.0},
    ]
    assert reader.units(tmp_path / "mine.extxyz") == {"gap": "", "is_metal": ""}
    assert [e.key for e in found] == ["mine:0", "mine:1", "mine:2"]
    assert [e.frame.group for e in found] == ["run0", "run0", "run1"]
    assert [e.frame.energy for e in found] == [-11.0, -12.0, -13.0]
    np.testing.assert_allclose(found[1].frame.forces, 1.5)


def test_databases(tmp_path: Path) -> None:
    with connect(tmp_path / "mine.db", use_lock_file=False) as database:
        for i in range(3):
            database.write(crystal(i), key_value_pairs={"gap": 0.25 * i, "source": "vasp"}, data={"modulus": 100.0 + i})
    found = examples(everything(build_reader("structures"), tmp_path / "mine.db"))
    assert [dict(e.targets) for e in found] == [{"gap": 0.25 * i, "modulus": 100.0 + i} for i in range(3)]
    assert [e.frame.energy for e in found] == [-11.0, -12.0, -13.0]


def test_other_units_and_names(tmp_path: Path) -> None:
    atoms = crystal(0)
    atoms.info["REF_energy"], atoms.calc = -1.5, None
    atoms.arrays["REF_forces"] = np.full((2, 3), 0.25)
    write(tmp_path / "x.xyz", atoms, format="extxyz")
    options = {"energy_unit": "Hartree", "force_unit": "Hartree/Bohr", "energy_key": "REF_energy"}
    reader = build_reader("structures", **options, forces_key="REF_forces", group_by="formula")
    (found,) = examples(everything(reader, tmp_path / "x.xyz"))
    assert found.frame.energy == pytest.approx(-1.5 * HARTREE)
    np.testing.assert_allclose(found.frame.forces, 0.25 * HARTREE / BOHR)
    assert (found.frame.group, dict(found.targets)) == ("MgO", {})


def test_a_folder_of_one_kind(tmp_path: Path) -> None:
    reader = build_reader("structures")
    write(tmp_path / "a.xyz", [crystal(0), crystal(1)], format="extxyz")
    write(tmp_path / "b.extxyz", [crystal(2)])
    found = examples(everything(reader, tmp_path))
    assert [e.key for e in found] == ["a:0", "a:1", "b:0"]
    assert [e.frame.energy for e in found] == [-11.0, -12.0, -13.0]
    write_set(tmp_path / "c.npz")
    with pytest.raises(ValueError, match=r"expected files of one kind ending in .*, got .extxyz, .npz, .xyz"):
        reader.count(tmp_path)
    found = examples(everything(reader, tmp_path / "c.npz"))
    assert [(e.frame.energy, dict(e.targets)) for e in found] == [(-11.0, {}), (-12.0, {}), (-13.0, {})]
    (tmp_path / "notes.txt").write_text("3")
    with pytest.raises(ValueError, match=r"got .txt"):
        reader.count(tmp_path / "notes.txt")


def test_structures_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", [crystal(0), crystal(1)], format="extxyz")
    text = (tmp_path / "a.xyz").read_text()
    (tmp_path / "a.xyz").write_text(text.replace("Mg ", "Qq ", 1))
    (first,) = refused(everything(build_reader("structures"), tmp_path / "a.xyz"))
    assert first.where == "a.xyz:0"
    (tmp_path / "a.xyz").write_text("MgO\n" + text)
    with pytest.raises(ValueError, match="should begin with a number of atoms, got 'MgO"):
        build_reader("structures").count(tmp_path / "a.xyz")


def test_real_database(reference: Callable[[str], Path]) -> None:
    reader, path = build_reader("structures", energy_unit="Hartree"), reference("originals/nabladft/test_database.db")
    found = examples(list(reader.read(path, range(0, reader.count(path), 10))))
    assert len(found) == 10
    assert {"moses_id", "conformation_id"} <= set(found[0].targets)
    assert all(np.isfinite(e.frame.energy) for e in found)
