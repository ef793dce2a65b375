"""Readers of conformers and trajectories: MD17, Wiggle150, MS25."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from packed import write_packed
from reader_samples import everything, examples, refused

from gfmpot.data import FrameSet
from gfmpot.finetune.reader import Example, build_reader

KCAL_PER_MOL = 1 / 23.060547830619
"""eV, of the tables of CODATA 2018."""

RNG = np.random.default_rng(0)
XYZ = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]) + RNG.normal(scale=0.02, size=(4, 3, 3))
FORCES, OLD_FORCES = RNG.normal(size=(2, 4, 3, 3))
ENERGIES, OLD_ENERGIES = RNG.normal(-260_000, 5, size=(2, 4))


def write_md17(path: Path, **changes: Any) -> Path:
    arrays = {"z": np.array([8, 1, 1], dtype=np.uint8), "R": XYZ, "E": OLD_ENERGIES[:, None], "F": OLD_FORCES}
    strings = {"name": np.array("water"), "theory": np.array("unknown"), "type": np.array("d")}
    objects = {"md5": np.array({"sum": "1a2b"}, dtype=object)}
    np.savez(
        path,
        **{name: value for name, value in {**arrays, **strings, **objects, **changes}.items() if value is not None},
    )
    return path


def write_rmd17(path: Path) -> Path:
    np.savez(
        path,
        **{"nuclear_charges": np.array([8, 1, 1]), "coords": XYZ, "energies": ENERGIES, "forces": FORCES},
        **{"old_indices": np.arange(4), "old_energies": OLD_ENERGIES, "old_forces": OLD_FORCES},
    )
    return path


def check_water(found: list[Example], energies: Any, forces: Any) -> None:
    assert len(found) == 4
    for i, example in enumerate(found):
        assert example.frame.numbers.tolist() == [8, 1, 1]
        np.testing.assert_allclose(example.frame.positions, XYZ[i])
        assert example.frame.energy == pytest.approx(energies[i] * KCAL_PER_MOL, rel=1e-9)
        np.testing.assert_allclose(example.frame.forces, forces[i] * KCAL_PER_MOL, rtol=1e-9)
        assert (example.key, example.frame.group, dict(example.targets)) == (f"water:{i}", "water", {})


def test_md17(tmp_path: Path) -> None:
    path = write_md17(tmp_path / "md17_water.npz")
    for reader in (build_reader("md17"), build_reader("md17", labels="original")):
        check_water(examples(everything(reader, path)), OLD_ENERGIES, OLD_FORCES)
    assert build_reader("md17").count(tmp_path) == 4
    with pytest.raises(ValueError, match="has the labels of MD17, not the revised ones"):
        build_reader("md17", labels="revised").count(path)
    write_rmd17(tmp_path / "rmd17_water.npz")
    with pytest.raises(ValueError, match=r"expected one \*.npz, got md17_water.npz, rmd17_water.npz; name the file"):
        build_reader("md17").count(tmp_path)


def test_both_sets_of_labels_of_rmd17(tmp_path: Path) -> None:
    path = write_rmd17(tmp_path / "rmd17_water.npz")
    for labels in ("", "revised"):
        check_water(examples(everything(build_reader("md17", labels=labels), path)), ENERGIES, FORCES)
    check_water(examples(everything(build_reader("md17", labels="original"), path)), OLD_ENERGIES, OLD_FORCES)


def test_units_in_a_file_of_sgdml(tmp_path: Path) -> None:
    path = write_md17(tmp_path / "water.npz", e_unit=np.array("eV"), r_unit=np.array("Ang"))
    found = examples(everything(build_reader("md17"), path))
    assert found[1].frame.energy == OLD_ENERGIES[1]
    np.testing.assert_array_equal(found[1].frame.forces, OLD_FORCES[1])
    with pytest.raises(ValueError, match=r"water.npz: 'furlong' is no unit of length"):
        list(build_reader("md17").read(write_md17(path, r_unit=np.array("furlong")), [0]))


def test_packed_md17_with_two_sets_of_labels(tmp_path: Path) -> None:
    frames = [build_reader("md17").read(write_md17(tmp_path / "md17_water.npz"), [i]) for i in range(4)]
    found = FrameSet.from_frames([example.frame for part in frames for example in part if isinstance(example, Example)])
    path = write_packed(tmp_path / "packed.npz", found)
    revised = {"energy_rmd17": ENERGIES, "forces_rmd17": FORCES.reshape(-1, 3)}
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **arrays, **revised)
    one = examples(everything(build_reader("md17"), path))
    other = examples(everything(build_reader("md17", labels="revised"), path))
    assert [e.frame.energy for e in one] == pytest.approx(OLD_ENERGIES * KCAL_PER_MOL)
    assert [e.frame.energy for e in other] == ENERGIES.tolist()  # eV in this layout
    np.testing.assert_array_equal(other[2].frame.forces, FORCES[2])
    assert one[0].frame.group == other[0].frame.group == "water"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="no labels energy_rmd17 and forces_rmd17"):
        build_reader("md17", labels="revised").count(path)


def test_other_and_damaged_files_are_not_md17(tmp_path: Path) -> None:
    reader, path = build_reader("md17"), tmp_path / "x.npz"
    with pytest.raises(ValueError, match=r"missing F; expected the arrays z, R, E, F of MD17 or nuclear_charges"):
        reader.count(write_md17(path, F=None))
    with pytest.raises(ValueError, match=r"forces \(c, n, 3\), got z \(3,\), R \(4, 3, 3\), E \(4, 1\), F \(2, 3, 3\)"):
        reader.count(write_md17(path, F=FORCES[:2]))
    with pytest.raises(ValueError, match="not a whole"):
        reader.count(write_md17(path, E=np.array([None] * 4, dtype=object)))
    path.write_bytes(write_md17(path).read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"x.npz: not a whole .npz of plain arrays"):
        reader.count(path)
    np.save(tmp_path / "x.npy", ENERGIES)
    with pytest.raises(ValueError, match="one array without a name"):
        reader.count(tmp_path / "x.npy")


def test_real_rmd17(reference: Callable[[str], Path]) -> None:
    path = reference("originals/rmd17/rmd17_uracil_1000.npz")
    new, old = build_reader("md17"), build_reader("md17", labels="original")
    assert new.count(path) == old.count(path) == 1000
    one, other = examples(list(new.read(path, [0, 7]))), examples(list(old.read(path, [0, 7])))
    # Uracil: PBE/def2-SVP of ORCA, and PBE+vdW-TS of FHI-aims, in Hartree.
    assert one[0].frame.energy / 27.211386 == pytest.approx(-414.04, abs=0.05)
    assert other[0].frame.energy / 27.211386 == pytest.approx(-414.51, abs=0.05)
    np.testing.assert_allclose(one[1].frame.forces, other[1].frame.forces, atol=1.0)
    packed = reference("md17_uracil.npz")
    assert [new.count(packed), build_reader("md17", labels="revised").count(packed)] == [9633, 9633]


# --- Wiggle150


def wiggle(energies: dict[str, float]) -> str:
    atoms = "O 0.0 0.0 0.0\nH 0.96 0.0 0.0\nH -0.24 0.93 0.0\n"
    return "".join(f"3\n{name} {energy}\n{atoms}" for name, energy in energies.items())


def test_conformers_are_relative_to_their_lowest(tmp_path: Path) -> None:
    path = tmp_path / "ct5c00015_si_003.xyz"
    energies = {"ado_00": -603984.7, "ado_07": -603880.2, "efa_03": -999.5, "efa_00": -1100.0, "xyz_1": -5.0}
    path.write_text(wiggle(energies))
    found = examples(everything(build_reader("wiggle150"), path))
    assert [e.key for e in found] == list(energies)
    assert [e.frame.group for e in found] == ["adenosine", "adenosine", "efavirenz", "efavirenz", "xyz"]
    expected = np.array([0.0, 104.5, 100.5, 0.0, 0.0]) * KCAL_PER_MOL
    assert [e.frame.energy for e in found] == pytest.approx(expected, abs=1e-9)
    assert [e.targets["relative_energy"] for e in found] == [e.frame.energy for e in found]
    assert found[0].frame.numbers.tolist() == [8, 1, 1]
    (only,) = build_reader("wiggle150").read(tmp_path, [1])  # the lowest is known although it is not read
    assert isinstance(only, Example)
    assert only.frame.energy == pytest.approx(104.5 * KCAL_PER_MOL)


def test_other_and_cut_files_are_not_wiggle150(tmp_path: Path) -> None:
    reader, path = build_reader("wiggle150"), tmp_path / "w.xyz"
    path.write_text(wiggle({"ado_00": -1.0}).replace("ado_00 -1.0", "energy=-1.0"))
    with pytest.raises(ValueError, match=r"w.xyz: frame 0 should have a name and an energy in kcal/mol .* got 'energy"):
        reader.count(path)
    path.write_text(wiggle({"ado_00": -1.0, "ado_01": -2.0})[:-25])
    with pytest.raises(ValueError, match="cut off: frame 1 has 2 of 3 atoms"):
        reader.count(path)
    path.write_text("<html>")
    with pytest.raises(ValueError, match="should begin with a number of atoms, got '<html>'"):
        reader.count(path)
    path.write_text(wiggle({"ado_00": -1.0}).replace("O 0.0 0.0", "Q 0.0 0.0"))
    assert "symbol and three coordinates: KeyError('Q')" in refused(everything(reader, path))[0].reason


# --- MS25


def surface(i: int, with_energy: bool = True) -> Atoms:
    atoms = bulk("MgO", "rocksalt", a=4.2)
    atoms.rattle(0.05, seed=i)
    if with_energy:
        forces = np.random.default_rng(i).normal(size=(2, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-11.0 - i, forces=forces)
    else:
        atoms.info["E"] = -0.4
    return atoms


def test_a_system_of_ms25(tmp_path: Path) -> None:
    folder = tmp_path / "MgO-2x2" / "set1"
    folder.mkdir(parents=True)
    files = {
        "train-1000": range(3),
        "train": range(9),
        "val": range(10, 12),
        "test": range(20, 23),
        "neb": range(30, 32),
    }
    for name, numbers in files.items():
        write(folder / f"{name}.traj", [surface(i) for i in numbers])
    reader = build_reader("ms25")
    found = examples(everything(reader, folder.parent))
    read = [*files["train-1000"], *files["val"], *files["test"]]
    assert [e.frame.energy for e in found] == [-11.0 - i for i in read]
    assert [e.frame.split for e in found] == ["train"] * 3 + ["valid"] * 2 + ["test"] * 3
    assert {e.frame.group for e in found} == {"MgO-2x2"}
    assert [found[0].key, found[4].key] == ["MgO-2x2/train-1000:0", "MgO-2x2/val:1"]
    for i, example in zip(read, found, strict=True):
        np.testing.assert_allclose(example.frame.forces, surface(i).calc.results["forces"])
        np.testing.assert_allclose(example.frame.cell, surface(i).cell.array)
        assert example.frame.pbc.all()
    alone = examples(everything(reader, folder / "neb.traj"))
    assert [(e.frame.energy, e.frame.split, e.frame.group) for e in alone] == [
        (-41.0, None, "MgO-2x2"),
        (-42.0, None, "MgO-2x2"),
    ]
    (folder / "train-1000.traj").unlink()
    assert reader.count(folder) == 9 + 2 + 3


def test_ms25_in_general_formats(tmp_path: Path) -> None:
    atoms = [surface(i) for i in range(3)]
    write(tmp_path / "HEA.extxyz", atoms)
    write_packed(tmp_path / "HEA.npz", FrameSet.from_atoms(atoms))
    for name in ("HEA.extxyz", "HEA.npz"):
        found = examples(everything(build_reader("ms25"), tmp_path / name))
        assert [e.frame.energy for e in found] == pytest.approx([-11.0, -12.0, -13.0])
        np.testing.assert_allclose(found[2].frame.forces, atoms[2].calc.results["forces"], atol=1e-7)


def test_energies_in_units_that_are_not_stated_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "H2O-64.traj", [surface(0), surface(1, with_energy=False)])
    one, other = everything(build_reader("ms25"), tmp_path / "H2O-64.traj")
    assert isinstance(one, Example)
    assert "info['E'], if any, is in a unit that is not stated" in refused([other])[0].reason


def test_other_and_cut_files_are_not_ms25(tmp_path: Path) -> None:
    reader = build_reader("ms25")
    with pytest.raises(FileNotFoundError, match="no MS25 data"):
        reader.count(tmp_path)
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected .traj, .extxyz, .xyz, .npz, got x.pkl"):
        reader.count(tmp_path / "x.pkl")
    write(tmp_path / "x.traj", [surface(0)])
    (tmp_path / "x.traj").write_bytes((tmp_path / "x.traj").read_bytes()[:20])
    with pytest.raises(ValueError, match=r"x.traj: not a whole ASE trajectory"):
        reader.count(tmp_path / "x.traj")
