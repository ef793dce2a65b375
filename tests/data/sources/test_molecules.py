"""Sources of molecules, on files made in exactly the published layouts and on real samples where there are any."""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.db import connect

from gfmpot.data import FrameSet
from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, build_source
from gfmpot.data.sources._tfrecord import _masked_crc32c, parse_example, record_offsets
from gfmpot.units import BOHR, HARTREE

PUBLISHED = ("qm7x", "qcml", "transition1x", "ani1x", "nabla2dft", "rmd17")
WATER = np.array([8, 1, 1], dtype=np.uint8)
XYZ = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
FORCES = np.array([[0.3, 0.1, 0.0], [-0.2, 0.0, 0.0], [-0.1, -0.1, 0.0]])


def everything(source: Source, path: Path) -> list[Frame | Rejected]:
    found = list(source.read(path, 0, source.count(path)))
    in_parts = [item for i in range(source.count(path)) for item in source.read(path, i, i + 1)]
    assert [_plain(item) for item in in_parts] == [_plain(item) for item in found]
    return found


def _plain(item: Frame | Rejected) -> dict[str, Any]:
    return {k: np.asarray(v).tolist().__repr__() for k, v in dataclasses.asdict(item).items()}


def frames(items: list[Frame | Rejected]) -> list[Frame]:
    good = [item for item in items if isinstance(item, Frame)]
    assert [frame.problem() for frame in good] == [None] * len(good)
    return good


def rejected(items: list[Frame | Rejected]) -> list[Rejected]:
    return [item for item in items if isinstance(item, Rejected)]


@pytest.mark.parametrize("name", PUBLISHED)
def test_description_is_complete(name: str) -> None:
    source = build_source(name)
    texts = ("branch", "title", "theory", "format", "layout", "units", "charge_spin", "licence", "citation", "url")
    assert all(getattr(source.info, text) for text in texts)
    assert source.info.paper_theory or name == "rmd17"
    with pytest.raises(ValueError, match="takes no options, got energy_unit"):
        build_source(name, energy_unit="eV")


# --- QM7-X


def qm7x_file(path: Path) -> Path:
    """Molecule / conformation / datasets, as in the README of the Zenodo record."""
    with h5py.File(path, "w") as file:
        for molecule, names in {"1": ("Geom-m1-i1-c1-opt", "Geom-m1-i1-c1-d1"), "12": ("Geom-m12-i1-c1-opt",)}.items():
            for i, name in enumerate(names):
                conformation = file.create_group(f"{molecule}/{name}")
                conformation["atNUM"] = WATER.astype(np.int64)
                conformation["atXYZ"] = XYZ + 0.01 * i
                conformation["ePBE0+MBD"] = np.array([-2078.5 - i])
                conformation["ePBE0"] = np.array([-2078.0])
                conformation["totFOR"] = FORCES
    return path


def test_qm7x(tmp_path: Path) -> None:
    source, path = build_source("qm7x"), qm7x_file(tmp_path / "1000.hdf5")
    assert source.count(path) == 2
    found = frames(everything(source, path))
    assert [frame.group for frame in found] == ["qm7x-1", "qm7x-1", "qm7x-12"]
    assert [frame.energy for frame in found] == [-2079.5, -2078.5, -2078.5]  # d1 sorts before opt
    np.testing.assert_array_equal(found[0].forces, FORCES)
    np.testing.assert_array_equal(found[1].positions, XYZ)
    assert found[0].spin == 0
    assert found[0].split is None


def test_qm7x_bad_conformation_is_rejected_and_the_rest_kept(tmp_path: Path) -> None:
    path = qm7x_file(tmp_path / "1000.hdf5")
    with h5py.File(path, "a") as file:
        broken = file["1/Geom-m1-i1-c1-opt"]
        del broken["totFOR"]
        broken["totFOR"] = FORCES[:2]
        del file["12/Geom-m12-i1-c1-opt/atXYZ"]
        file["20"] = 1.0
    found = everything(build_source("qm7x"), path)
    assert len(frames(found)) == 1
    first, second, third = rejected(found)
    assert first.where == "1000.hdf5:1/Geom-m1-i1-c1-opt"
    assert "expected positions and forces (3, 3) for 3 atomic numbers, got (3, 3) and (2, 3)" in first.reason
    assert "'atXYZ' is missing; there is 'atNUM', 'ePBE0'" in second.reason
    assert third == Rejected("1000.hdf5:20", "'20' is a dataset, expected a group")


# --- ANI-1x


def ani1x_file(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for name, numbers, count in (("H2O1", WATER, 3), ("C1H4", np.array([6, 1, 1, 1, 1], dtype=np.uint8), 2)):
            group = file.create_group(name)
            rng = np.random.default_rng(count)
            group["atomic_numbers"] = numbers
            group["coordinates"] = rng.normal(size=(count, len(numbers), 3), scale=2).astype(np.float32)
            group["wb97x_dz.energy"] = -76.0 - np.arange(count, dtype=np.float64)
            group["wb97x_dz.forces"] = rng.normal(size=(count, len(numbers), 3)).astype(np.float32)
            group["ccsd(t)_cbs.energy"] = np.full(count, np.nan)
    return path


def test_ani1x(tmp_path: Path) -> None:
    source, path = build_source("ani1x"), ani1x_file(tmp_path / "ani1x-release.h5")
    assert source.count(path) == 2
    found = frames(everything(source, path))
    assert [frame.group for frame in found] == ["CH4"] * 2 + ["H2O"] * 3
    assert found[4].energy == pytest.approx(-78.0 * HARTREE, rel=1e-15)
    with h5py.File(path) as file:
        np.testing.assert_allclose(found[3].positions, file["H2O1/coordinates"][1])
        np.testing.assert_allclose(found[3].forces, file["H2O1/wb97x_dz.forces"][1] * HARTREE, rtol=1e-7)


def test_ani1x_unlabelled_and_mismatched(tmp_path: Path) -> None:
    path = ani1x_file(tmp_path / "ani1x-release.h5")
    with h5py.File(path, "a") as file:
        file["H2O1/wb97x_dz.energy"][1] = np.nan
        file["H2O1/wb97x_dz.forces"][1] = np.nan
        del file["C1H4/wb97x_dz.energy"]
        file["C1H4/wb97x_dz.energy"] = np.zeros(3)
    found = everything(build_source("ani1x"), path)
    (bad,) = rejected(found)
    assert bad.where == "ani1x-release.h5:C1H4"
    assert "equally many structures, got the shapes (2, 5, 3), (3,) and (2, 5, 3)" in bad.reason
    unlabelled = found[2]
    assert isinstance(unlabelled, Frame)
    assert unlabelled.problem() == "neither energy nor forces"


def test_flipped_byte_rejects_its_record_only(tmp_path: Path) -> None:
    path = ani1x_file(tmp_path / "ani1x-release.h5")
    with h5py.File(path, "a") as file:
        forces = file["C1H4/wb97x_dz.forces"][()]
        del file["C1H4/wb97x_dz.forces"]
        stored = file.create_dataset("C1H4/wb97x_dz.forces", data=forces, chunks=forces.shape, fletcher32=True)
        place = stored.id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 7] ^= 4
    path.write_bytes(data)
    found = everything(build_source("ani1x"), path)
    assert len(frames(found)) == 3
    (bad,) = rejected(found)
    assert bad.where == "ani1x-release.h5:C1H4"
    assert "'wb97x_dz.forces' cannot be read" in bad.reason


# --- Transition1x


def transition1x_file(path: Path) -> Path:
    """As ``combine_dbs.py`` of the dataset writes it; train, val and test link to reactions in data."""
    with h5py.File(path, "w") as file:
        for side, formula, reaction in (("train", "H2O", "rxn0001"), ("val", "H2O", "rxn0002"), ("test", "HO", "rxn9")):
            numbers = WATER if formula == "H2O" else WATER[:2]
            group = file.create_group(f"data/{formula}/{reaction}")
            parts = (("reactant", 1, -10.0), ("product", 1, -20.0), ("transition_state", 1, -1.0), ("", 4, -5.0))
            for part, count, energy in parts:
                stored = group.create_group(part) if part else group
                stored["atomic_numbers"] = numbers
                stored["positions"] = np.repeat(XYZ[None, : len(numbers)], count, axis=0)
                stored["wB97x_6-31G(d).energy"] = energy - np.arange(count)
                stored["wB97x_6-31G(d).forces"] = np.repeat(FORCES[None, : len(numbers)], count, axis=0)
            file[f"{side}/{formula}/{reaction}"] = h5py.SoftLink(f"/data/{formula}/{reaction}")
    return path


def test_transition1x(tmp_path: Path) -> None:
    source, path = build_source("transition1x"), transition1x_file(tmp_path / "Transition1x.h5")
    assert source.count(path) == 3
    found = frames(everything(source, path))
    assert len(found) == 3 * 6  # reactant, product and four images: the transition state is one of these
    assert [frame.energy for frame in found[:6]] == [-10, -20, -5, -6, -7, -8]
    assert [frame.split for frame in found[::6]] == ["train", "valid", "test"]
    assert [frame.group for frame in found[::6]] == ["H2O", "H2O", "HO"]
    np.testing.assert_array_equal(found[3].forces, FORCES)


def test_transition1x_reaction_without_product(tmp_path: Path) -> None:
    path = transition1x_file(tmp_path / "Transition1x.h5")
    with h5py.File(path, "a") as file:
        del file["data/HO/rxn9/product"]
    (bad,) = rejected(everything(build_source("transition1x"), path))
    assert bad.where == "Transition1x.h5:data/HO/rxn9/product"
    assert "is missing" in bad.reason


# --- HDF5 files that are not what they should be


@pytest.mark.parametrize("name", ["qm7x", "ani1x", "transition1x", "hdf5"])
def test_truncated_hdf5(name: str, tmp_path: Path) -> None:
    path = qm7x_file(tmp_path / "1000.hdf5")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"1000\.hdf5: not a whole HDF5 file .*truncated"):
        build_source(name).count(path)
    path.write_bytes(b"no HDF5 at all")
    with pytest.raises(ValueError, match=r"1000\.hdf5: not a whole HDF5 file"):
        build_source(name).count(path)
    with pytest.raises(FileNotFoundError):
        build_source(name).count(tmp_path / "absent.hdf5")


@pytest.mark.parametrize(
    ("name", "maker", "message"),
    [
        ("qm7x", ani1x_file, "expected the layout of QM7-X.*at the top are 'C1H4', 'H2O1'"),
        ("qm7x", transition1x_file, "expected the layout of QM7-X"),
        ("ani1x", qm7x_file, "expected the layout of ANI-1x.*the first has no atomic_numbers"),
        ("ani1x", transition1x_file, "expected the layout of ANI-1x"),
        ("transition1x", qm7x_file, "groups data, train, val and test at the top; got '1', '12'"),
        ("hdf5", qm7x_file, "missing natoms, numbers, positions, energy"),
    ],
)
def test_file_of_another_layout(name: str, maker: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_source(name).count(maker(tmp_path / "other.h5"))


def test_transition1x_of_datasets(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name in ("data", "train", "val", "test"):
            file[name] = 1.0
    with pytest.raises(ValueError, match=r"x\.h5: expected groups .*'train' is a dataset, expected a group"):
        build_source("transition1x").count(tmp_path / "x.h5")


def test_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = qm7x_file(tmp_path / "1000.hdf5")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r'pip install "gfmpot\[hdf5\]"'):
        build_source("qm7x").count(path)


# --- ∇²DFT

FREE_ATOMS = [0.0, -0.5, 0.0, 0.0, 0.0, 0.0, -37.8, -54.5, -75.0]


def nabla_file(path: Path, **metadata: Any) -> Path:
    """As SchNetPack writes it: properties in data, units and free atoms in the metadata."""
    database = connect(path)
    for i in range(3):
        atoms = Atoms(WATER, XYZ)
        data = {"energy": np.array([-0.35 - i]), "forces": FORCES}
        if i == 2:
            del data["forces"]  # train_full has energies alone
        database.write(atoms, data=data, moses_id=7 + i // 2, conformation_id=i, smiles="O")
    database.metadata = {
        "_distance_unit": "Ang",
        "_property_unit_dict": {"energy": "Hartree", "forces": "Hartree/Ang"},
        "atomrefs": {"energy": FREE_ATOMS},
    } | metadata
    return path


def test_nabla2dft(tmp_path: Path) -> None:
    source, path = build_source("nabla2dft"), nabla_file(tmp_path / "train_2k_v2_formation_energy_w_forces.db")
    found = frames(everything(source, path))
    assert [frame.energy for frame in found] == pytest.approx([(-76.35 - i) * HARTREE for i in range(3)])
    assert [frame.group for frame in found] == ["moses-7", "moses-7", "moses-8"]
    np.testing.assert_allclose(found[0].forces, FORCES * HARTREE)
    assert np.isnan(found[2].forces).all()
    assert found[0].split == "train"
    path = nabla_file(tmp_path / "test_2k_conformers_v2_formation_energy_w_forces.db")
    assert frames(everything(source, path))[0].split == "test"
    path = nabla_file(tmp_path / "additional_trajectories.db")
    assert frames(everything(source, path))[0].split is None


@pytest.mark.parametrize(
    "metadata", [{"atomrefs": {}}, {"_property_unit_dict": {"energy": "eV"}}, {"_distance_unit": "Bohr"}]
)
def test_nabla2dft_of_other_units_or_without_free_atoms(metadata: dict[str, Any], tmp_path: Path) -> None:
    path = nabla_file(tmp_path / "train.db", **metadata)
    with pytest.raises(ValueError, match=r"train\.db: expected the metadata of ∇²DFT"):
        list(build_source("nabla2dft").read(path, 0, 1))


def test_nabla2dft_rejects_single_rows(tmp_path: Path) -> None:
    path = nabla_file(tmp_path / "train.db")
    connect(path).write(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), data={"forces": np.zeros((2, 3))}, moses_id=1)
    connect(path).write(Atoms("F2", [[0, 0, 0], [0, 0, 1.4]]), data={"energy": np.array([-1.0])}, moses_id=2)
    no_energy, no_atom = rejected(everything(build_source("nabla2dft"), path))
    assert no_energy.where == "train.db:3"
    assert "no energy in the row's data, which holds forces" in no_energy.reason
    assert "without a free-atom energy" in no_atom.reason


def test_nabla2dft_real_sample(reference: Callable[[str], Path]) -> None:
    """Against the conversion of the same file by other means; the Hartree there is 8e-9 smaller."""
    source, path = build_source("nabla2dft"), reference("originals/nabladft/test_database.db")
    packed = FrameSet.from_npz(reference("nabladft_sample.npz"))
    found = frames(list(source.read(path, 0, source.count(path))))
    read = FrameSet.from_frames(found)
    assert len(read) == len(packed) == 100
    np.testing.assert_allclose(read.energy, packed.energy, rtol=1e-8)
    np.testing.assert_allclose(read.forces, packed.forces, atol=2e-6)
    np.testing.assert_array_equal(read.numbers, packed.numbers)
    before = path.stat().st_mtime_ns
    source.count(path)
    assert path.stat().st_mtime_ns == before


# --- QCML

TFRECORD = (
    "eNqlkj9PwlAUxV/LH+uBVPIMESvGmKjRGBOVECcD36QpzRNeoLRpy8DGqJtxEfwCOvgVUOLq7qYbRncHNy1StFgGoic5yVvueff8chMC+VKrz5"
    "5wLCIDWXNNg+tqvWGUmO3QuBKFKAlYRdoqsV31yLQNzeVmXWV1ZpebVKJxRC86nRukkTQaNZdbNa5zt0ljSgSCgG0kRpM6c2iWKsiQHx0G3l1Q"
    "SFXWVCuaUxnkQtT2sIVZy3T44NPweEAvBW//uF7R7DKjspIEPkYSsOBvEdyatM7vMA9wRzUbbo0ze7gz2XkwL1/91Hzu7QTPg4DfaPx+fyUjYm"
    "WcTIrKSAYLhWmU9rEcpBEemfsmMKwyuTghtxOLd8/er5f8m8g+yvdoi1gMFZ9RYohIwn+O4mC8+ibdwBqZQmEkeg75IJJAVLFASM9zqui9PVue"
    "Tz1fee4Vp0TVak+8EWG92q9+AsBFu0o="
)
"""OH⁻, H and a water flagged as outlier, written by the ``tfrecord`` package with Google's protobuf; compressed."""


@pytest.fixture
def qcml_file(tmp_path: Path) -> Path:
    path = tmp_path / "qcml-full.tfrecord-00000-of-00011"
    path.write_bytes(zlib.decompress(base64.b64decode(TFRECORD)))
    return path


def test_qcml(qcml_file: Path) -> None:
    source = build_source("qcml")
    (qcml_file.parent / "features.json").write_text("{}")
    assert source.files([qcml_file.parent]) == [qcml_file]
    found = everything(source, qcml_file)
    hydroxide, hydrogen = frames(found)
    assert (hydroxide.charge, hydroxide.spin, hydroxide.group) == (-1, 1, "HO")
    assert (hydrogen.charge, hydrogen.spin) == (0, 2)
    assert hydroxide.numbers.tolist() == [8, 1]
    assert hydroxide.energy == -75.75 * HARTREE
    assert hydroxide.positions[1].tolist() == [0, 0, 1.8125 * BOHR]
    assert hydroxide.forces[0, 2] == pytest.approx(0.03125 * HARTREE / BOHR, rel=1e-15)
    assert rejected(found) == [Rejected(f"{qcml_file.name}:2", "flagged as an outlier by the publishers")]


def test_qcml_cut_off_or_something_else(qcml_file: Path) -> None:
    source, whole = build_source("qcml"), qcml_file.read_bytes()
    for cut, record in ((-3, 2), (500, 1), (int(record_offsets(qcml_file)[1]) + 5, 1)):
        qcml_file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=rf"00011: record {record} needs \d+ bytes.*cut off"):
            source.count(qcml_file)
    qcml_file.write_bytes(whole[1:])
    with pytest.raises(ValueError, match="not an uncompressed TFRecord file"):
        source.count(qcml_file)


def record(data: bytes) -> bytes:
    length = len(data).to_bytes(8, "little")
    return length + _masked_crc32c(length).to_bytes(4, "little") + data + bytes(4)


def test_qcml_records_of_another_kind(qcml_file: Path) -> None:
    whole = qcml_file.read_bytes()
    qcml_file.write_bytes(record(b"") + whole)
    with pytest.raises(ValueError, match=r"the first record has no atomic_numbers.*but nothing"):
        build_source("qcml").count(qcml_file)
    qcml_file.write_bytes(whole + record(b"\x0a\xff") + record(b"\xff\xff"))
    bad = rejected(everything(build_source("qcml"), qcml_file))[1:]
    assert [item.where for item in bad] == [f"{qcml_file.name}:3", f"{qcml_file.name}:4"]
    assert all("not a record of QCML" in item.reason for item in bad)


def test_integers_that_are_not_packed() -> None:
    """Both encodings of a repeated integer are allowed: {"q": [-1, 2]} with one field each."""
    minus_one = b"\x08" + b"\xff" * 9 + b"\x01"
    integers = minus_one + b"\x08\x02"
    feature = b"\x1a" + bytes([len(integers)]) + integers
    entry = b"\x0a\x01q" + b"\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    assert parse_example(b"\x0a" + bytes([len(features)]) + features)["q"].tolist() == [-1, 2]


def test_checksum() -> None:
    """The check value of CRC-32C, masked as TFRecord does."""
    crc = 0xE3069283
    assert _masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


# --- rMD17


def test_rmd17(tmp_path: Path) -> None:
    path = tmp_path / "rmd17_water.npz"
    arrays = {"nuclear_charges": WATER, "coords": np.stack([XYZ, XYZ + 1]), "energies": np.array([-100.0, -200.0])}
    np.savez(path, **arrays, forces=np.stack([FORCES, FORCES]), old_energies=np.zeros(2))
    found = frames(everything(build_source("rmd17"), path))
    assert [frame.energy for frame in found] == pytest.approx([-4.33641042418, -8.67282084836])
    assert found[0].forces == pytest.approx(FORCES * 0.0433641042418)
    assert {frame.group for frame in found} == {"rmd17-water"}
    np.savez(path, **arrays, forces=np.stack([FORCES]))
    with pytest.raises(ValueError, match=r"rmd17_water\.npz: expected the layout of rMD17"):
        build_source("rmd17").count(path)


def test_rmd17_real_sample(reference: Callable[[str], Path]) -> None:
    """Against the conversion of the same frames by other means, which keeps the revised labels beside the old."""
    path = reference("originals/rmd17/rmd17_uracil_1000.npz")
    with np.load(reference("md17_uracil.npz")) as packed, np.load(path) as original:
        row_of_frame = {index: row for row, index in enumerate(packed["md17_index"].tolist())}
        rows = [row_of_frame[index] for index in original["old_indices"].tolist()]
        energies, forces = packed["energy_rmd17"][rows], packed["forces_rmd17"].reshape(-1, 12, 3)[rows]
    found = frames(list(build_source("rmd17").read(path, 0, 1000)))
    assert build_source("rmd17").count(path) == 1000
    np.testing.assert_allclose([frame.energy for frame in found], energies, rtol=1e-8)
    np.testing.assert_allclose(np.stack([frame.forces for frame in found]), forces, atol=2e-6)
