"""What is read: the same structures from files of every kind, in blocks, whatever is wrong with some of them."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.db import connect
from ase.io import read, write

from gfmpot.data.conversion import Settings, convert
from gfmpot.data.formats.manifest import NAME as MANIFEST
from gfmpot.data.formats.manifest import Description, SplitSettings
from gfmpot.data.frame import Frame
from gfmpot.data.source import build_source
from gfmpot.inference.screening.formats import Defaults
from gfmpot.inference.screening.inputs import Block, Blocks, Input, Span, find, structures, survey

MARKS = 3


def whole(path: Path) -> Iterator[Atoms | str]:
    """Reads files that are one record, as the command line does."""
    try:
        yield from read(path, ":")
    except Exception as error:
        yield f"unreadable: {error}"


PLAIN = Defaults(read_file=whole)


def read_all(item: Input, start: int = 0, stop: int | None = None, defaults: Defaults = PLAIN) -> list:
    return list(structures(item, start, item.records if stop is None else stop, defaults))


def arrays(candidates: list[Atoms], **more: object) -> dict[str, object]:
    return {
        "natoms": np.array([len(atoms) for atoms in candidates]),
        "numbers": np.concatenate([atoms.numbers for atoms in candidates]),
        "positions": np.concatenate([atoms.positions for atoms in candidates]),
        "cell": np.array([atoms.cell.array for atoms in candidates]),
        "pbc": np.array([atoms.pbc for atoms in candidates]),
        "charge": np.array([atoms.info.get("charge", 0) for atoms in candidates]),
        "spin": np.array([atoms.info.get("spin", 0) for atoms in candidates]),
        **more,
    }


def write_extxyz(path: Path, candidates: list[Atoms]) -> Path:
    write(path, candidates, format="extxyz")
    return path


def write_db(path: Path, candidates: list[Atoms]) -> Path:
    with connect(path, append=False) as database:
        for atoms in candidates:
            database.write(atoms, data=atoms.info)
    return path


def write_aselmdb(path: Path, candidates: list[Atoms]) -> Path:
    lmdb = pytest.importorskip("lmdb")
    database = lmdb.open(str(path), subdir=False, map_size=1 << 20)
    with database.begin(write=True) as transaction:
        for i, atoms in enumerate(candidates, 1):
            row = {name: getattr(atoms, name).tolist() for name in ("numbers", "positions", "pbc")}
            row |= {"cell": atoms.cell.array.tolist(), "data": atoms.info}
            transaction.put(str(i).encode(), zlib.compress(json.dumps(row).encode()))
        transaction.put(b"nextid", zlib.compress(json.dumps(len(candidates) + 1).encode()))
    database.close()
    return path


def write_npz(path: Path, candidates: list[Atoms]) -> Path:
    np.savez_compressed(path, **arrays(candidates, energy=np.full(len(candidates), np.nan)))
    return path


def write_bare_npz(path: Path, candidates: list[Atoms]) -> Path:
    """Without energies: nothing is labelled."""
    np.savez(path, **arrays(candidates))
    return path


def write_hdf5(path: Path, candidates: list[Atoms]) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, values in arrays(candidates).items():
            file[name] = values
    return path


def write_store(path: Path, candidates: list[Atoms]) -> Path:
    pytest.importorskip("adios2")
    source = path.with_suffix(".npz")
    np.savez(source, **arrays(candidates, energy=np.arange(len(candidates)) - 100.0))
    settings = Settings(split=SplitSettings(valid=0.0, test=0.0))
    convert(build_source("npz"), [source], path, Description("npz", "toy-none", "none"), settings=settings)
    source.unlink()
    return path


WRITERS: dict[str, Callable[[Path, list[Atoms]], Path]] = {
    "a.extxyz": write_extxyz,
    "a.xyz": write_extxyz,
    "a.db": write_db,
    "a.aselmdb": write_aselmdb,
    "a.npz": write_npz,
    "b.npz": write_bare_npz,
    "a.h5": write_hdf5,
    "a.bp": write_store,
    "a.traj": lambda path, candidates: write(path, candidates) or path,
}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path, candidates: list[Atoms]) -> Input:
    path = WRITERS[request.param](tmp_path / request.param, candidates)
    ((file, kind),) = find([path])[0]
    return survey(file, kind, PLAIN, MARKS)


def test_every_kind_gives_the_same_structures(written: Input, candidates: list[Atoms]) -> None:
    assert written.problem == ""
    found = read_all(written)
    assert [index for index, _ in found] == list(range(len(candidates)))
    by_formula = {atoms.get_chemical_formula(): atoms for atoms in candidates}  # a store has its own order
    for _, frame in found:
        assert isinstance(frame, Frame)
        atoms = by_formula.pop(Atoms(frame.numbers).get_chemical_formula())
        np.testing.assert_array_equal(frame.numbers, atoms.numbers)
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-7)
        np.testing.assert_allclose(frame.cell, atoms.cell.array, atol=1e-7)
        np.testing.assert_array_equal(frame.pbc, atoms.pbc)
        assert (frame.charge, frame.spin) == (atoms.info.get("charge", 0), atoms.info.get("spin", 0))
    assert by_formula == {}


def test_every_part_is_read_alone(written: Input) -> None:
    expected = read_all(written)
    if written.kind == "whole":
        assert written.records == 1
        return
    for start, stop in ((0, 1), (2, 5), (4, 7), (6, 7), (3, 3)):
        found = read_all(written, start, stop)
        assert [index for index, _ in found] == list(range(start, stop))
        for (_, frame), (_, other) in zip(found, expected[start:stop], strict=True):
            np.testing.assert_array_equal(frame.positions, other.positions)


@pytest.mark.parametrize("name", ["a.extxyz", "b.npz", "a.db"])
def test_defaults_hold_where_nothing_is_stated(name: str, tmp_path: Path, candidates: list[Atoms]) -> None:
    path = WRITERS[name](tmp_path / name, candidates)
    if name == "b.npz":
        stated = {key: value for key, value in arrays(candidates).items() if key != "charge"}
        np.savez(path, **stated)
    item = survey(path, find([path])[0][0][1], PLAIN, MARKS)
    found = [frame for _, frame in read_all(item, defaults=Defaults(charge=-1, spin=3))]
    expected = [(atoms.info.get("charge", -1), atoms.info.get("spin", 3)) for atoms in candidates]
    if name == "b.npz":
        expected = [(-1, spin) for _, spin in expected]
    assert [(frame.charge, frame.spin) for frame in found] == expected


def test_no_multiplicity_is_not_zero(tmp_path: Path, candidates: list[Atoms]) -> None:
    """In arrays, 0 is unspecified; a structure that states it is as wrong here as for every other verb."""
    path = write_extxyz(tmp_path / "a.extxyz", candidates[:2])
    path.write_text(path.read_text().replace("Properties=", "spin=0 Properties=", 1))
    (_, first), (_, second) = read_all(survey(path, "extxyz", PLAIN, MARKS))
    assert first == "multiplicity 0 is impossible: it must be at least 1, or not stated at all"
    assert isinstance(second, Frame)
    np.savez(tmp_path / "a.npz", **arrays(candidates))
    assert all(isinstance(frame, Frame) for _, frame in read_all(survey(tmp_path / "a.npz", "npz", PLAIN, MARKS)))
    with pytest.raises(ValueError, match="spin is a multiplicity"):
        Defaults(spin=0)


def test_a_database_of_another_program_and_a_damaged_one(tmp_path: Path, candidates: list[Atoms]) -> None:
    """Both can be counted: what is wrong is seen when rows are read."""
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("CREATE TABLE systems (id INTEGER PRIMARY KEY, star TEXT)")
        database.executemany("INSERT INTO systems (star) VALUES (?)", [["Sol"], ["Sirius"]])
        database.commit()
    write_db(tmp_path / "b.db", candidates)
    with closing(sqlite3.connect(tmp_path / "b.db")) as database:
        database.execute("ALTER TABLE systems DROP COLUMN positions")
    for name, count in (("a.db", 2), ("b.db", 7)):
        item = survey(tmp_path / name, "ase_db", PLAIN, MARKS)
        assert item.records == count
        found = read_all(item)
        assert [index for index, _ in found] == list(range(count))
        assert all(isinstance(reason, str) for _, reason in found)


def test_labels_that_make_no_sense_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    path.write_text('1\nProperties=species:S:1:pos:R:3 energy="low"\nCu 0 0 0\n')
    item = survey(path, "extxyz", PLAIN, MARKS)
    assert isinstance(read_all(item)[0][1], Frame)


def test_bad_structures_have_their_place_and_reason(tmp_path: Path, candidates: list[Atoms]) -> None:
    path = write_extxyz(tmp_path / "a.extxyz", candidates)
    lines = path.read_text().replace("Cu ", "Qq ", 1).splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    found = read_all(survey(path, "extxyz", PLAIN, MARKS))
    assert [index for index, _ in found] == list(range(7))
    assert "Qq" in found[1][1]
    assert "the file is cut off: the frame of 9 atoms ends after" in found[6][1]
    assert all(isinstance(found[i][1], Frame) for i in (0, 2, 3, 4, 5))


def test_a_file_that_breaks_off_gives_a_reason_for_each_of_the_rest(tmp_path: Path, candidates: list[Atoms]) -> None:
    h5py = pytest.importorskip("h5py")
    path = write_hdf5(tmp_path / "a.h5", candidates * 100)
    with h5py.File(path, "a") as file:
        positions = file["positions"][()]
        del file["positions"]
        file.create_dataset("positions", data=positions, chunks=(64, 3), fletcher32=True)
        place = file["positions"].id.get_chunk_info(30).byte_offset
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    found = read_all(survey(path, "hdf5", PLAIN, MARKS))
    assert [index for index, _ in found] == list(range(700))
    good = [isinstance(entry, Frame) for _, entry in found]
    assert good[0]
    assert good == sorted(good, reverse=True)
    assert "it and what follows could not be read: a.h5: positions cannot be read" in found[-1][1]


def test_a_damaged_archive_is_not_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.npz"
    np.savez(path, natoms=np.ones(999, dtype=int), numbers=np.ones(999, dtype=int), positions=rng.normal(size=(999, 3)))
    assert survey(path, "npz", PLAIN, MARKS).records == 999
    data = bytearray(path.read_bytes())
    data[-5000] ^= 1
    path.write_bytes(data)
    assert "not a whole .npz of plain arrays (Bad CRC-32" in survey(path, "npz", PLAIN, MARKS).problem


def test_whole_files(tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "two.cif", candidates[:2])
    (tmp_path / "bad.cif").write_text("data_nothing")
    items = [survey(path, kind, PLAIN, MARKS) for path, kind in find([tmp_path])[0]]
    assert [(Path(item.path).name, item.records) for item in items] == [("bad.cif", 1), ("two.cif", 1)]
    assert [index for index, _ in read_all(items[1])] == [0, 1]
    ((index, reason),) = read_all(items[0])
    assert (index, reason) == (0, "there is no structure in it")
    assert "nothing was given" in survey(tmp_path / "two.cif", "whole", Defaults(), MARKS).problem


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.extxyz", "should begin with a number of atoms"),
        ("a.db", "not a whole SQLite database"),
        ("a.npz", "not a whole .npz"),
        ("a.h5", "not a whole HDF5 file"),
        ("a.aselmdb", "cannot be opened as an LMDB file"),
    ],
)
def test_files_that_are_something_else(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("nonsense, and more of it")
    ((path, kind),) = find([tmp_path])[0]
    item = survey(path, kind, PLAIN, MARKS)
    assert item.records == 0
    assert message in item.problem
    (tmp_path / name).write_text("")
    assert survey(path, kind, PLAIN, MARKS).problem != ""


def test_a_changed_file_is_noticed(tmp_path: Path, candidates: list[Atoms]) -> None:
    path = write_extxyz(tmp_path / "a.extxyz", candidates)
    item = survey(path, "extxyz", PLAIN, MARKS)
    os.utime(path, ns=(0, 0))
    with pytest.raises(ValueError, match=r"a\.extxyz has changed since this run was planned"):
        read_all(item)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_all(item)


def test_folders_are_searched(tmp_path: Path, candidates: list[Atoms]) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.cif", "a.extxyz", "deep/POSCAR", "deep/er/c.db", ".hidden.cif", "deep/notes.txt", "README"):
        (tmp_path / name).write_text("x")
    write_store(tmp_path / "s.bp", candidates)
    (tmp_path / "deep/out/results.parquet").mkdir(parents=True)
    (tmp_path / "deep/out/top.extxyz").write_text("of an earlier screening")
    files, others = find([tmp_path, tmp_path / "a.extxyz"])
    found = {str(path.relative_to(tmp_path)): kind for path, kind in files}
    assert found == {
        "a.extxyz": "extxyz",
        "b.cif": "whole",
        "s.bp/train.bp": "store",
        "deep/POSCAR": "whole",
        "deep/er/c.db": "ase_db",
    }
    assert others == {".txt": 1, "README": 1, "hidden": 1}


def test_links_are_followed_and_those_that_lead_nowhere_or_in_circles_do_no_harm(tmp_path: Path, candidates) -> None:
    for name in ("in/deep", "elsewhere", "in/.git"):
        (tmp_path / name).mkdir(parents=True)
    write_extxyz(tmp_path / "elsewhere/a.extxyz", candidates)
    for name in (".git/a.cif", ".b.cif", ".DS_Store"):
        (tmp_path / "in" / name).write_text("x")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/deep/circle").symlink_to(tmp_path / "in")
    (tmp_path / "in/deep/gone.extxyz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in/deep/self.extxyz").symlink_to("self.extxyz")
    files, others = find([tmp_path / "in"])
    assert [str(path.relative_to(tmp_path / "in")) for path, _ in files] == [
        "deep/gone.extxyz",
        "deep/self.extxyz",
        "linked/a.extxyz",
    ]
    assert others == {"hidden": 3}
    items = [survey(path, kind, PLAIN, MARKS) for path, kind in files]
    assert [item.records for item in items] == [0, 0, 7]
    assert "No such file" in items[0].problem
    for item in items:
        item.check()
    write_extxyz(tmp_path / "nowhere", candidates)
    with pytest.raises(ValueError, match="has changed since"):
        items[0].check()


def test_damaged_stores_have_a_problem(tmp_path: Path, candidates: list[Atoms]) -> None:
    manifest = write_store(tmp_path / "a.bp", candidates) / MANIFEST
    manifest.write_text(manifest.read_text()[:99])
    (tmp_path / "other.bp").mkdir()
    (tmp_path / "other.bp/md.idx").write_text("of another program")
    items = [survey(path, kind, PLAIN, MARKS) for path, kind in find([tmp_path])[0]]
    assert [(Path(item.path).name, item.records) for item in items] == [("a.bp", 0), ("other.bp", 0)]
    assert items[0].problem.startswith(str(manifest))
    assert MANIFEST in items[1].problem
    for item in items:
        item.check()
    manifest.write_text("{}")
    with pytest.raises(ValueError, match="has changed since"):
        items[0].check()


def test_missing_inputs(tmp_path: Path) -> None:
    (tmp_path / "candidates.cif").write_text("x")
    with pytest.raises(
        FileNotFoundError, match=r"no file or folder .*candidate\.cif; did you mean '.*candidates\.cif'"
    ):
        find([tmp_path / "candidate.cif"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no structures in it; looked for \.extxyz, \.xyz"):
        find([tmp_path / "empty"])


def test_blocks_cover_all_records_once() -> None:
    records = [3, 0, 1, 1, 7, 0, 2]
    blocks = Blocks([Input(f"{i}.npz", "npz", 0, 0, n) for i, n in enumerate(records)], 4)
    assert (len(blocks), blocks.records) == (4, 14)
    assert blocks[0] == Block(0, (Span(0, 0, 3), Span(2, 0, 1)))
    assert [blocks[n].records for n in range(4)] == [4, 4, 4, 2]
    spans = [span for n in range(4) for span in blocks[n].spans]
    seen = [(span.input, record) for span in spans for record in range(span.start, span.stop)]
    assert seen == [(i, record) for i, n in enumerate(records) for record in range(n)]
    for n in range(4):
        for span in blocks[n].spans:
            assert {blocks.number_of(span.input, record) for record in range(span.start, span.stop)} == {n}
    assert len(Blocks([], 4)) == 0
