"""Datasets published as ``.aselmdb``, on files written as the published ones are."""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import build_source
from gfmpot.units import HARTREE

lmdb = pytest.importorskip("lmdb")


def read(name: str, path: Path, start: int = 0, stop: int | None = None, **options) -> list[Frame | Rejected]:
    source = build_source(name, **options)
    stop = source.count(path) if stop is None else stop
    return list(source.read(path, start, stop))


def water(**more) -> dict:
    atoms = molecule("H2O")
    row = {"numbers": atoms.numbers, "positions": atoms.positions, "pbc": atoms.pbc, "cell": np.zeros((3, 3))}
    data = {"source": "omol/x/1", "charge": 0, "spin": 1, "composition": "H2O1", "lowdin_charges": np.zeros(3)}
    return row | {"energy": -2079.5, "forces": np.eye(3), "data": data} | more


def copper(**more) -> dict:
    atoms = bulk("Cu", cubic=True)
    row = {"numbers": atoms.numbers, "positions": atoms.positions, "pbc": atoms.pbc, "cell": atoms.cell.array}
    return row | {"energy": -14.9, "forces": np.ones((4, 3)), "stress": np.arange(6) / 10, "data": {}} | more


def marked(value):
    """As ase.io.jsonio writes arrays."""
    return {"__ndarray__": [list(value.shape), value.dtype.name, value.ravel().tolist()]}


def nested(value):
    """As orjson writes arrays: the older writer."""
    return value.tolist()


def write_aselmdb(path: Path, rows: list, deleted=(), arrays=marked) -> Path:
    """The layout of ase_db_backends.aselmdb.LMDBDatabase; a row that is bytes is stored as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = {str(i): r if isinstance(r, bytes) else pack(r, arrays) for i, r in enumerate(rows, 1) if i not in deleted}
    packed["nextid"] = pack(len(rows) + 1)
    packed["metadata"] = pack({"made": "here"})
    if deleted:
        packed["deleted_ids"] = pack(list(deleted))
    return write_lmdb(path, packed)


def pack(value, arrays=marked) -> bytes:
    return zlib.compress(json.dumps(value, default=arrays).encode())


def write_lmdb(path: Path, values: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), subdir=False, map_size=1 << 26) as file, file.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    return path


@pytest.mark.parametrize("arrays", [marked, nested])
def test_aselmdb_rows_of_both_writers(tmp_path, arrays):
    rows = [copper(energy=-float(i), data={"parent_id": f"agm00{i}_Cu_spg225", "sid": "s"}) for i in range(5)]
    path = write_aselmdb(tmp_path / "omat/val/rattled-300/d.aselmdb", rows, deleted=[2], arrays=arrays)
    frames = read("omat24", path)
    assert [f.energy for f in frames] == [0.0, -2.0, -3.0, -4.0]
    assert frames[1].group == "agm002"
    assert frames[1].split == "valid"
    assert frames[1].problem() is None
    np.testing.assert_array_equal(frames[1].stress, np.arange(6) / 10)
    np.testing.assert_array_equal(frames[1].cell, bulk("Cu", cubic=True).cell.array)
    assert read("omat24", path, 2, 3)[0].energy == -3.0


def test_aselmdb_refuses_bad_rows_by_number(tmp_path):
    few = copper(forces=np.ones((3, 3)), data={"sid": "agm1"})
    damaged = pack(copper(), nested)[:-40]
    rows = [few, damaged, copper(), {"data": {"sid": "a"}}, copper(data={"sid": "agm1"}, stress=np.ones(5))]
    path = write_aselmdb(tmp_path / "d.aselmdb", rows)
    got = read("omat24", path)
    assert [r.where for r in got] == [f"d.aselmdb:{i}" for i in (1, 2, 3, 4, 5)]
    for rejected, reason in zip(
        got,
        ["(4, 3) for 4 atomic numbers", "zlib", "neither parent_id nor sid", "no numbers", "shape (5,)"],
        strict=True,
    ):
        assert reason in rejected.reason


def test_lmdb_files_that_are_none(tmp_path, monkeypatch):
    whole = write_aselmdb(tmp_path / "whole.aselmdb", [copper(data={"sid": f"a{i}"}) for i in range(200)])
    cut = tmp_path / "cut.aselmdb"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = tmp_path / "text.aselmdb"
    text.write_text("hello" * 5000)
    other = write_lmdb(tmp_path / "other.aselmdb", {"0": b"x", "length": b"y"})
    for path, reason in ((cut, "truncated"), (text, "opened as an LMDB"), (other, "nextid")):
        with pytest.raises(ValueError, match=reason) as error:
            build_source("omat24").count(path)
        assert path.name in str(error.value)
    again = write_aselmdb(tmp_path / "again.aselmdb", [copper()])
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match=r"gfmpot\[lmdb\]"):
        build_source("omat24").count(again)


def test_one_lmdb_may_be_read_twice_at_once(tmp_path):
    path = write_aselmdb(tmp_path / "d.aselmdb", [copper(energy=float(i), data={"sid": "a"}) for i in range(4)])
    source = build_source("omat24")
    pairs = zip(source.read(path, 0, 4), source.read(path, 0, 4), strict=True)
    assert [(a.energy, b.energy) for a, b in pairs] == [(float(i), float(i)) for i in range(4)]


def test_parts_of_omol25_cover_it_once_and_share_its_groups(tmp_path):
    states = [(0, 1), (1, 2), (0, 3), (-1, 1)]
    rows = [water(energy=float(i), data={"charge": q, "spin": s}) for i, (q, s) in enumerate(states)]
    path = write_aselmdb(tmp_path / "train_4M/d.aselmdb", [*rows, water(data={"charge": 0})])
    whole, neutral, charged = (read(n, path) for n in ("omol25", "omol25_neutral", "omol25_charged"))
    assert [(f.charge, f.spin) for f in whole[:4]] == states
    assert [f.energy for f in neutral[:-1]] == [0.0]
    assert [f.energy for f in charged[:-1]] == [1.0, 2.0, 3.0]
    assert {f.group for f in whole[:4]} == {"H2O"}
    assert whole[0].split == "train"
    assert not whole[0].pbc.any()
    assert "spin" in whole[4].reason == neutral[-1].reason
    apart = write_aselmdb(tmp_path / "neutral_val/d.aselmdb", rows)
    assert read("omol25_neutral", apart)[0].split is None


def test_oc25_opoly26_and_any_aselmdb(tmp_path):
    path = write_aselmdb(tmp_path / "val/d.aselmdb", [copper(data={"source": "a/b", "fid": 3}), copper()])
    good, bad = read("oc25", path)
    assert (good.group, good.split) == ("a/b", "valid")
    assert "no source" in bad.reason
    polymer = write_aselmdb(tmp_path / "train/p.aselmdb", [water()])
    assert read("opoly26", polymer)[0].group == "H2O"
    labelled = copper(key_value_pairs={"family": "fcc"}, forces=np.full((4, 3), 0.5))
    path = write_aselmdb(tmp_path / "x.aselmdb", [labelled, {"energy": 1.0}])
    frame, bad = read("aselmdb", path, group_by="family", energy_unit="Hartree")
    assert (frame.group, frame.energy) == ("fcc", pytest.approx(-14.9 * HARTREE))
    assert "no numbers" in bad.reason
