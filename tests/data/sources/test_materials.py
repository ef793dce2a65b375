"""MPtrj and Alexandria on files written in their published layouts, and what is known of all datasets of materials."""

import bz2
import json
from pathlib import Path

import numpy as np
import pytest

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import build_source
from gfmpot.data.sources import _json_members
from gfmpot.models.presets import TABLE_II
from gfmpot.units import GPA

PUBLISHED = (
    *("mptrj", "alexandria", "omat24", "oc20", "oc22", "oc25", "odac23"),
    *("omol25", "omol25_neutral", "omol25_charged", "opoly26"),
)


def read(name: str, path: Path, start: int = 0, stop: int | None = None, **options) -> list[Frame | Rejected]:
    source = build_source(name, **options)
    stop = source.count(path) if stop is None else stop
    return list(source.read(path, start, stop))


@pytest.mark.parametrize("name", PUBLISHED)
def test_info_names_the_branch_of_table_ii(name):
    info = build_source(name).info
    assert info.branch in {branch for branch, _ in TABLE_II}
    assert info.paper_structures > 0
    assert all((info.title, info.theory, info.layout, info.units, info.charge_spin, info.licence, info.citation))
    assert "PBE0" not in info.theory


# JSON of pymatgen structures


def crystal(scale: float = 1.0):
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.hexagonal(3.0 * scale, 5.0), ["Fe", "O"], [[0, 0, 0], [0.3, 0.6, 0.5]])
    structure.properties = {"note": 'quotes " and brackets ]}{[ and \\'}
    return structure


STRESS = [[10.0, 1.0, 2.0], [1.0, -20.0, 3.0], [2.0, 3.0, 30.0]]  # kbar, positive under compression


def labels(i: int) -> dict:
    return {"energy": -float(i), "forces": [[0.1 * i, 0, 0], [0, 0, 0.2]], "stress": STRESS}


def mptrj_frame(i: int, **more) -> dict:
    named = {"uncorrected_total_energy": -float(i), "corrected_total_energy": -i - 1.0, "energy_per_atom": -i / 2}
    frame = {"structure": crystal().as_dict(), "force": labels(i)["forces"], "stress": STRESS, "magmom": None}
    return frame | named | more


@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
def test_mptrj(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(_json_members, "CHUNK", chunk)
    materials = {
        "mp-1": {"mp-1-0-0": mptrj_frame(1), "mp-1-1-4": mptrj_frame(2)},
        "mp-22": {"mp-9-0-1": mptrj_frame(3)},
    }
    path = tmp_path / f"MPtrj{chunk}.json"
    path.write_text(json.dumps(materials, indent=None if chunk == 7 else 1))
    assert build_source("mptrj").count(path) == 2
    frames = read("mptrj", path)
    assert [(f.group, f.energy) for f in frames] == [("mp-1", -1.0), ("mp-1", -2.0), ("mp-22", -3.0)]
    assert [f.energy for f in read("mptrj", path, 1, 2)] == [-3.0]
    np.testing.assert_allclose(frames[0].stress, -0.1 * GPA * np.array([10, -20, 30, 3, 2, 1]))
    np.testing.assert_allclose(frames[0].positions, crystal().cart_coords, atol=1e-12)
    assert frames[0].numbers.tolist() == [26, 8]
    assert all(f.problem() is None and f.pbc.all() for f in frames)


def test_mptrj_refuses_what_is_not_as_published(tmp_path):
    disordered = mptrj_frame(1)
    disordered["structure"]["sites"][1]["species"] = [{"element": "O", "occu": 0.5}]
    odd = {
        "a": disordered,
        "b": {"structure": {}},
        "c": mptrj_frame(1, force=[[0, 0, 0]]),
        "d": mptrj_frame(1, stress=None),
    }
    path = tmp_path / "m.json"
    path.write_text(text := json.dumps({"mp-1": odd, "mp-2": []}))
    got = read("mptrj", path)
    assert [r.where for r in got[:3]] == [f"m.json:mp-1/{k}" for k in "abc"]
    for rejected, reason in zip(got, ["site 1 is disordered", "no uncorrected_total_energy", "(1, 3)"], strict=False):
        assert reason in rejected.reason
    assert np.isnan(got[3].stress).all()
    assert got[4].where == "m.json:1"
    for wrong, reason in ((text[:-400], "cut off"), ("[1, 2]", "expected"), ("", "expected"), (text[:9], "expected")):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=reason):
            build_source("mptrj").count(path)


def write_bz2(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bz2.compress(json.dumps(value).encode()))
    return path


def entry(i: int, **more) -> dict:
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    structure = crystal().add_site_property("forces", labels(i)["forces"])
    data = {"mat_id": f"agm00{i}", "stress": STRESS, "energy_total": -float(i)}
    return ComputedStructureEntry(structure, -float(i), correction=-9.0, data=data).as_dict() | more


def test_alexandria_entries(tmp_path):
    entries = [entry(i) for i in range(3)]
    del entries[2]["structure"]["sites"][0]["properties"]["forces"]
    path = write_bz2(tmp_path / "pbe/alexandria_000.json.bz2", {"entries": entries})
    frames = read("alexandria", path)
    assert [(f.group, f.energy) for f in frames[:2]] == [("agm000", 0.0), ("agm001", -1.0)]
    assert frames[2].reason.endswith("no 'forces'")
    np.testing.assert_allclose(frames[1].forces, labels(1)["forces"])
    np.testing.assert_allclose(frames[1].stress[0], -GPA)
    assert read("alexandria", path, 1, 2)[0].group == "agm001"
    write_bz2(tmp_path / "pbe/convex_hull.json.bz2", {"entries": entries[:1]})
    assert build_source("alexandria").files([tmp_path]) == [path]
    assert read("alexandria", write_bz2(tmp_path / "a.json.bz2", {"entries": []})) == []


def test_alexandria_relaxations(tmp_path):
    steps = [{"structure": crystal(1 + i / 10).as_dict()} | labels(i) for i in range(3)]
    runs = [{"kpoints": [4, 4, 4], "PREC": "Accurate", "ENMAX": 520, "steps": steps[:2]}, {"steps": steps[2:]}]
    other = [{"functional": "pbesol", "steps": [steps[0], {}]}]
    path = write_bz2(tmp_path / "pbe_0000.json.bz2", {"agm1": runs, "agm2": other, "agm3": [{}]})
    frames = read("alexandria", path)
    assert [(f.group, f.energy) for f in frames[:3]] == [("agm1", 0.0), ("agm1", -1.0), ("agm1", -2.0)]
    np.testing.assert_allclose(frames[2].cell, crystal(1.2).lattice.matrix, atol=1e-12)
    assert [r.where.split(":")[1] for r in frames[3:]] == ["agm2/0/0", "agm2/0/1", "2"]
    assert "pbesol" in frames[3].reason


def test_alexandria_refuses_other_functionals_and_damaged_files(tmp_path):
    whole = {"entries": [entry(1)]}
    for name in ("alexandria_ps_000.json.bz2", "scan/alexandria_000.json.bz2"):
        with pytest.raises(ValueError, match="another functional"):
            build_source("alexandria").count(write_bz2(tmp_path / name, whole))
    cut = write_bz2(tmp_path / "cut.json.bz2", whole)
    cut.write_bytes(cut.read_bytes()[:-30])
    for path in (cut, write_bz2(tmp_path / "list.json.bz2", [1])):
        with pytest.raises(ValueError, match=path.name):
            build_source("alexandria").count(path)
    cut.write_bytes(b"hello" * 100)
    with pytest.raises(ValueError, match="Invalid data stream"):
        build_source("alexandria").count(cut)
