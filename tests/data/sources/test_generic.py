"""Sources of general formats: extended XYZ, ASE databases, packed arrays in .npz and HDF5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from gfmpot.data import FrameSet
from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import build_source
from gfmpot.data.sources._ase import frame_from_atoms, voigt
from gfmpot.data.sources._npz import open_arrays, verify_arrays
from gfmpot.data.sources.extxyz import ExtXyz, scan
from gfmpot.units import BOHR, GPA, HARTREE

STRESS = np.array([0.01, 0.02, 0.03, 0.004, 0.005, 0.006])


def crystal(i: int) -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.rattle(0.02, seed=i)
    forces = np.random.default_rng(i).normal(size=(2, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-11.0 - i, forces=forces, stress=STRESS)
    return atoms


def ion() -> Atoms:
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"charge": -1, "spin": 1, "group": "hydroxide"})
    atoms.calc = SinglePointCalculator(atoms, energy=-20.0, forces=np.zeros((2, 3)))
    return atoms


def structures() -> list[Atoms]:
    return [crystal(0), ion(), crystal(1)]


def frames(items: list[Frame | Rejected]) -> list[Frame]:
    good = [item for item in items if isinstance(item, Frame)]
    assert [frame.problem() for frame in good] == [None] * len(good)
    return good


def check_same(found: list[Frame], given: list[Atoms]) -> None:
    assert len(found) == len(given)
    for frame, atoms in zip(found, given, strict=True):
        assert frame.numbers.tolist() == atoms.numbers.tolist()
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-7)
        np.testing.assert_allclose(frame.cell, atoms.cell.array, atol=1e-7)
        assert frame.pbc.tolist() == atoms.pbc.tolist()
        assert frame.energy == pytest.approx(atoms.calc.results["energy"])
        np.testing.assert_allclose(frame.forces, atoms.calc.results["forces"], atol=1e-7)
        np.testing.assert_allclose(frame.stress, atoms.calc.results.get("stress", np.full(6, np.nan)), atol=1e-8)
        assert (frame.charge, frame.spin) == (atoms.info.get("charge", 0), atoms.info.get("spin", 0))


# --- from ase.Atoms


def test_stress_in_every_shape() -> None:
    full = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    for given in (range(1, 7), full, full.ravel(), full + np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])):
        assert voigt(list(given)).tolist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="6, 9 or 3×3 numbers, got shape"):
        voigt([1, 2, 3])


def test_free_energy_only_where_there_is_no_energy() -> None:
    atoms = crystal(0)
    atoms.calc.results["free_energy"] = -99.0
    assert frame_from_atoms(atoms, "g").energy == -11.0
    del atoms.calc.results["energy"]
    assert frame_from_atoms(atoms, "g").energy == -99.0


def test_without_labels() -> None:
    frame = frame_from_atoms(Atoms("He"), "g", split="test")
    assert np.isnan(frame.energy)
    assert frame.forces.shape == (1, 3)
    assert (frame.charge, frame.spin, frame.split) == (0, 0, "test")
    assert frame.problem() == "neither energy nor forces"


def test_forces_are_those_before_constraints() -> None:
    from ase.constraints import FixAtoms

    atoms = crystal(3)
    atoms.set_constraint(FixAtoms([0]))
    assert np.abs(frame_from_atoms(atoms, "g").forces[0]).max() > 0.1


def test_labels_that_are_no_numbers() -> None:
    atoms = crystal(0)
    atoms.calc.results["energy"] = "low"
    with pytest.raises(ValueError, match="energy is not made of numbers: 'low'"):
        frame_from_atoms(atoms, "g")


# --- extended XYZ


def test_extxyz(tmp_path: Path) -> None:
    path = tmp_path / "set.extxyz"
    write(path, structures())
    source = build_source("extxyz")
    assert source.count(path) == 3
    check_same(frames(list(source.read(path, 0, 3))), structures())
    check_same(frames(list(source.read(path, 1, 2))), structures()[1:2])
    assert [frame.group for frame in frames(list(source.read(path, 0, 9)))] == ["set:0", "hydroxide", "set:2"]
    assert list(source.read(path, 5, 9)) == []


def test_extxyz_from_marks(tmp_path: Path) -> None:
    """Any part is found from a mark before it, without a scan of the file."""
    path = tmp_path / "set.extxyz"
    write(path, structures() * 3)
    source = ExtXyz()
    marks = scan(path).offsets[:-1:2].tolist()
    assert len(marks) == 5
    for start, stop in ((0, 9), (1, 2), (3, 7), (8, 9)):
        mark = start // 2
        found = frames(list(source.read_from(path, marks[mark], 2 * mark, start, stop)))
        check_same(found, (structures() * 3)[start:stop])
    assert len(list(source.read_from(path, marks[4], 8, 8, 99))) == 1


def test_extxyz_groups(tmp_path: Path) -> None:
    path = tmp_path / "set.xyz"
    write(path, structures(), format="extxyz")

    def groups(by: str) -> list[str]:
        return [frame.group for frame in frames(list(build_source("extxyz", group_by=by).read(path, 0, 3)))]

    assert groups("formula") == ["MgO", "HO", "MgO"]
    assert groups("file") == ["set"] * 3


def test_extxyz_in_other_units_and_under_other_names(tmp_path: Path) -> None:
    atoms = crystal(0)
    atoms.info |= {"REF_energy": -2.0, "REF_stress": STRESS}
    atoms.arrays["REF_forces"] = np.ones((2, 3))
    atoms.calc = None
    path = tmp_path / "atomic_units.xyz"
    write(path, atoms, format="extxyz")
    keys = {"energy_key": "REF_energy", "forces_key": "REF_forces", "stress_key": "REF_stress"}
    source = build_source("extxyz", energy_unit="Hartree", length_unit="Bohr", stress_unit="GPa", **keys)
    (frame,) = frames(list(source.read(path, 0, 1)))
    assert frame.energy == -2.0 * HARTREE
    np.testing.assert_allclose(frame.positions, atoms.positions * BOHR, atol=1e-7)
    np.testing.assert_allclose(frame.cell, atoms.cell.array * BOHR, atol=1e-7)
    np.testing.assert_allclose(frame.forces, HARTREE / BOHR)
    np.testing.assert_allclose(frame.stress, STRESS * GPA)
    source = build_source("extxyz", energy_unit="Hartree", force_unit="eV/Å", **keys)
    assert frames(list(source.read(path, 0, 1)))[0].forces[0, 0] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy_unit": "Å"}, "'Å' is no unit of energy"),
        ({"length_unit": "borh"}, "did you mean 'Bohr'"),
        ({"force_unit": "Hartree"}, "no unit of force"),
        ({"energy_units": "eV"}, "unknown key 'energy_units'; did you mean 'energy_unit'"),
        ({"energy_key": 1}, "expected str, got 1"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_source("extxyz", **options)


def test_extxyz_bad_frames_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "set.xyz"
    write(path, structures(), format="extxyz")
    text = path.read_text().splitlines()
    text[2] = text[2].replace("Mg", "Qq")
    text[6] = "O  0.0  zero  0.0  0.0  0.0  0.0"
    path.write_text("\n".join(text) + "\n\n \n")
    found = list(build_source("extxyz").read(path, 0, 3))
    assert [item.where for item in found if isinstance(item, Rejected)] == ["set.xyz:0", "set.xyz:1"]
    assert len(frames(found)) == 1


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [*lines[:8], "", *lines[8:]], "frame 2 begins with an empty line, but is not the end"),
        (lambda lines: lines[1:], "frame 0 should begin with a number of atoms, got 'Lattice"),
    ],
)
def test_extxyz_that_is_not_whole(edit: Callable[[list[str]], list[str]], message: str, tmp_path: Path) -> None:
    path = tmp_path / "set.xyz"
    write(path, structures(), format="extxyz")
    assert build_source("extxyz").count(path) == 3
    path.write_text("\n".join(edit(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=rf"set\.xyz: {message}"):
        build_source("extxyz").count(path)


def test_extxyz_that_is_cut_off_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "set.xyz"
    write(path, structures(), format="extxyz")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    source = build_source("extxyz")
    *whole, cut = source.read(path, 0, source.count(path))
    assert len(frames(whole)) == 2
    assert cut == Rejected("set.xyz:2", "the file is cut off: the frame of 2 atoms ends after 1 of them")


def test_extxyz_real_sample(reference: Callable[[str], Path]) -> None:
    """Against the conversion of the same frames by other means; 3×3 stresses in eV/Å³."""
    path = reference("originals/extxyz/mpf-alkali-TP.xyz")
    packed = FrameSet.from_npz(reference("alkali_tp.npz"))
    found = frames(list(build_source("extxyz").read(path, 0, build_source("extxyz").count(path))))
    assert len(found) == len(packed) == 460
    read = FrameSet.from_frames(found)
    np.testing.assert_allclose(read.energy, packed.energy, rtol=1e-9)
    np.testing.assert_allclose(read.forces, packed.forces, atol=1e-5)
    np.testing.assert_allclose(read.stress, packed.stress, atol=1e-6)


# --- ASE databases


def test_ase_db(tmp_path: Path) -> None:
    path = tmp_path / "set.db"
    database = connect(path)
    for atoms in [crystal(9), *structures()]:
        database.write(atoms, data=atoms.info)
    del database[1]
    source = build_source("ase_db")
    assert source.count(path) == 3
    found = frames(list(source.read(path, 0, 3)))
    check_same(found, structures())
    assert [frame.group for frame in found] == ["set:0", "hydroxide", "set:2"]
    check_same(frames(list(source.read(path, 2, 3))), structures()[2:])


def test_ase_db_with_labels_in_data(tmp_path: Path) -> None:
    path = tmp_path / "set.db"
    connect(path).write(Atoms("He"), data={"E": np.array([-2.9]), "F": np.zeros((1, 3))}, molecule="helium")
    source = build_source("ase_db", energy_key="E", forces_key="F", energy_unit="Hartree", group_by="molecule")
    (frame,) = frames(list(source.read(path, 0, 1)))
    assert frame.energy == -2.9 * HARTREE
    assert frame.group == "helium"


def test_ase_db_damaged(tmp_path: Path) -> None:
    import sqlite3

    source, path = build_source("ase_db"), tmp_path / "set.db"
    connect(path).write(crystal(0))
    connect(path).write(crystal(1))
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE systems SET positions = x'00' WHERE id = 1")
    raw.close()
    bad, good = source.read(path, 0, 2)
    assert isinstance(bad, Rejected)
    assert bad.where == "set.db:0"
    assert isinstance(good, Frame)
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(ValueError, match=r"set\.db: not a whole SQLite database of ASE"):
        list(source.read(path, 0, 2))
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as raw:
        raw.execute("CREATE TABLE something (x)")
    raw.close()
    with pytest.raises(ValueError, match="no such table: systems"):
        source.count(other)
    with pytest.raises(FileNotFoundError):
        source.count(tmp_path / "absent.db")


# --- packed arrays


def packed() -> dict[str, Any]:
    data = FrameSet.from_atoms(structures())
    per_structure = {name: getattr(data, name) for name in ("energy", "stress", "cell", "pbc", "charge", "spin")}
    return {
        "natoms": data.atoms_per_structure.astype(np.int32),
        "numbers": data.numbers.astype(np.uint8),
        "positions": data.positions,
        "forces": data.forces,
        **per_structure,
        "group": np.array([1, 0, 1]),
    }


def save(path: Path, arrays: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values if values.dtype.kind != "U" else values.astype(h5py.string_dtype())
    return path


@pytest.fixture(params=["npz", "hdf5"])
def container(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_packed(container: str, tmp_path: Path) -> None:
    labels = np.array(["hydroxide", "magnesia"])
    path = save(tmp_path / f"set.{container}", packed() | {"group_labels": labels, "target_gap": np.zeros(3)})
    source = build_source(container)
    assert source.count(path) == 3
    found = frames(list(source.read(path, 0, 3)))
    check_same(found, structures())
    assert [frame.group for frame in found] == ["magnesia", "hydroxide", "magnesia"]
    check_same(frames(list(source.read(path, 1, 3))), structures()[1:])
    assert list(source.read(path, 3, 9)) == []


def test_packed_with_the_least(container: str, tmp_path: Path) -> None:
    least = {key: packed()[key] for key in ("natoms", "numbers", "positions", "energy")}
    path = save(tmp_path / f"set.{container}", least)
    source = build_source(container, energy_unit="Hartree")
    found = frames(list(source.read(path, 0, 3)))
    assert found[1].energy == -20 * HARTREE
    assert np.isnan(found[1].forces).all()
    assert not found[1].pbc.any()
    assert [frame.group for frame in found] == ["set:0", "set:1", "set:2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy": None}, "missing energy; expected the packed layout.*properties alone cannot train"),
        ({"positions": None, "natoms": None}, "missing natoms, positions"),
        ({"natoms": np.array([2, 2, 3])}, "3 structures of 7 atoms in all, so numbers should have shape"),
        ({"natoms": np.array([2, -2, 6])}, r"one positive number per structure, got \[ 2 -2  6\]"),
        ({"energy": np.zeros(2)}, r"energy should have shape \(3,\), got \(2,\)"),
        ({"stress": np.zeros((3, 3, 3))}, r"stress should have shape \(3, 6\)"),
    ],
)
def test_packed_arrays_that_disagree(change: dict[str, Any], message: str, container: str, tmp_path: Path) -> None:
    arrays = {key: value for key, value in (packed() | change).items() if value is not None}
    path = save(tmp_path / f"set.{container}", arrays)
    with pytest.raises(ValueError, match=rf"set\.{container}.*{message}"):
        build_source(container).count(path)


def test_packed_group_without_label(container: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"set.{container}", packed() | {"group_labels": np.array(["hydroxide"])})
    found = list(build_source(container).read(path, 0, 3))
    assert [item.where for item in found if isinstance(item, Rejected)] == [f"set.{container}:0", f"set.{container}:2"]


def test_hdf5_with_a_flipped_byte(tmp_path: Path) -> None:
    path = save(tmp_path / "set.hdf5", packed())
    with h5py.File(path, "a") as file:
        del file["forces"]
        file.create_dataset("forces", data=packed()["forces"], chunks=(2, 3), fletcher32=True)
        place = file["forces"].id.get_chunk_info(1).byte_offset
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    source = build_source("hdf5")
    assert len(frames(list(source.read(path, 0, 1)))) == 1
    with pytest.raises(ValueError, match=r"set\.hdf5: forces cannot be read from 0 to 6"):
        list(source.read(path, 0, 3))


def test_npz_cut_off(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", packed())
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"set\.npz: not a whole \.npz of plain arrays"):
        build_source("npz").count(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    with pytest.raises(ValueError, match=r"one\.npz: not a whole \.npz"):
        build_source("npz").count(tmp_path / "one.npz")


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_npz_in_slices(save_as: Callable[..., None], tmp_path: Path) -> None:
    """Forwards, backwards and past the end, without the arrays that nobody asks for."""
    path = tmp_path / "set.npz"
    save_as(path, **packed(), labels=np.array([{}], dtype=object))
    arrays = open_arrays(path, ("natoms", "positions", "cell", "nothing"))
    assert list(arrays) == ["natoms", "positions", "cell"]
    for name, array in arrays.items():
        whole = packed()[name]
        assert array.shape == whole.shape
        np.testing.assert_array_equal(array[()], whole)
        for start, stop in ((0, 1), (1, 3), (2, 3), (0, 2), (2, 99)):
            np.testing.assert_array_equal(array[start:stop], whole[start:stop])
    with pytest.raises(ValueError, match=r"set\.npz: labels should be an array of numbers"):
        open_arrays(path, ["labels"])
    with pytest.raises(FileNotFoundError, match="no file"):
        open_arrays(tmp_path / "nothing.npz", ["natoms"])


def test_npz_in_slices_of_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, positions=np.random.default_rng(0).normal(size=(1000, 3)))
    data = bytearray(path.read_bytes())
    data[10_000:10_100] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"set\.npz: positions cannot be read from 990 to 1000"):
        open_arrays(path, ["positions"])["positions"][990:1000]
    with pytest.raises(ValueError, match=r"not a whole \.npz"):
        verify_arrays(path, ["positions"])
    verify_arrays(path, ["nothing"])
    path.write_bytes(data[:5000])
    with pytest.raises(ValueError, match=r"not a whole \.npz"):
        open_arrays(path, ["positions"])


def test_npz_reference_data(reference: Callable[[str], Path]) -> None:
    """As FrameSet reads it, and a property set without energies is refused."""
    path = reference("mlearn.npz")
    whole = FrameSet.from_npz(path)
    found = frames(list(build_source("npz").read(path, 100, 140)))
    read = FrameSet.from_frames(found)
    expected = whole.subset(list(range(100, 140)))
    for name in ("energy", "forces", "stress", "cell", "positions", "group"):
        np.testing.assert_array_equal(getattr(read, name), getattr(expected, name))
    with pytest.raises(ValueError, match=r"qm7\.npz: missing energy"):
        build_source("npz").count(reference("qm7.npz"))
