"""Readers of crystals: tables with CIF files, Matbench."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from reader_samples import everything, examples, refused

from gfmpot.finetune.reader import build_reader

TABLE = build_reader("cif_table")
MATBENCH = build_reader("matbench")


def perovskite(a: str = "Pb", length: float = 4.0) -> Structure:
    places = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Structure(Lattice.orthorhombic(length, length, 4.2), [a, "Ti", "O", "O", "O"], places)


CRYSTALS = {"4069899": perovskite(), "mp-10": perovskite("Ba"), "x": perovskite("Sr", 3.9)}


def write_cifs(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, structure in CRYSTALS.items():
        structure.to(str(folder / f"{name}.cif"))
    return folder


def write_table(folder: Path, *lines: str, name: str = "table.csv") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def check_crystals(found: list[Any]) -> None:
    for example, structure in zip(found, CRYSTALS.values(), strict=True):
        np.testing.assert_allclose(example.frame.cell, structure.lattice.matrix, atol=1e-6)
        inside = example.frame.positions @ np.linalg.inv(example.frame.cell)
        atoms = np.column_stack([example.frame.numbers, inside.round(6)]).tolist()  # CIF files have them in some order
        assert sorted(atoms) == sorted(np.column_stack([structure.atomic_numbers, structure.frac_coords]).tolist())
        assert example.frame.pbc.all()
        assert np.isnan(example.frame.energy)


# --- tables


def test_a_table_beside_a_folder(tmp_path: Path) -> None:
    write_cifs(tmp_path / "CIF_files")
    path = write_table(tmp_path, "id,formation_energy", "4069899.cif,-2.5138", "mp-10.cif,", "x.cif,1e-2")
    found = examples(everything(TABLE, path))
    check_crystals(found)
    assert [e.key for e in found] == list(CRYSTALS)
    assert [e.frame.group for e in found] == ["O3PbTi", "BaO3Ti", "O3SrTi"]
    assert [e.targets["formation_energy"] for e in found] == pytest.approx([-2.5138, np.nan, 0.01], nan_ok=True)
    assert TABLE.units(path) == {"formation_energy": ""}
    assert TABLE.count(tmp_path) == 3


def test_a_table_beside_an_archive(tmp_path: Path) -> None:
    write_cifs(tmp_path / "away")
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data" / "cifs.zip", "w") as archive:
        for file in (tmp_path / "away").iterdir():
            archive.write(file, f"cifs/{file.name}")
    path = write_table(tmp_path / "data", "name,mp_id,E,stable", "a,4069899,1,True", "b,mp-10,2,False", "c,x,3,")
    found = examples(everything(TABLE, path))
    check_crystals(found)
    targets = [[e.targets["E"], e.targets["stable"]] for e in found]
    np.testing.assert_array_equal(targets, [[1, 1], [2, 0], [3, np.nan]])


def test_units_and_kinds_of_columns(tmp_path: Path) -> None:
    write_cifs(tmp_path)
    path = write_table(
        tmp_path,
        ",provider,id,sites,energy (eV/atom),gap (eV),gap (PBE),moduli (GPa),note",
        '0,mp,x.cif,"[1, 2]",-3.5,1,2,,',
        '1,mp,mp-10.cif,"[3, 4]",-4.5,3,4,,',
    )
    assert TABLE.units(path) == {"energy": "eV/atom", "gap (eV)": "eV", "gap (PBE)": "PBE"}
    found = examples(everything(TABLE, path))
    assert [e.key for e in found] == ["x", "mp-10"]
    assert dict(found[0].targets) == {"energy": -3.5, "gap (eV)": 1.0, "gap (PBE)": 2.0}


def test_a_table_without_a_header(tmp_path: Path) -> None:
    write_cifs(tmp_path)
    found = examples(everything(TABLE, write_table(tmp_path, "x,0.5,7", "mp-10,1.5,8", name="id_prop.csv")))
    assert [dict(e.targets) for e in found] == [{"column_2": 0.5, "column_3": 7.0}, {"column_2": 1.5, "column_3": 8.0}]


def test_structures_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    write_cifs(tmp_path)
    mixed = perovskite()
    mixed.replace(0, {"Pb": 0.5, "Ba": 0.5})
    mixed.to(str(tmp_path / "mixed.cif"))
    (tmp_path / "broken.cif").write_text("data_broken\n_cell_length_a 4.0\n")
    path = write_table(tmp_path, "id,E", "x,1", "mixed,2", "broken,3", "absent,4")
    found = everything(TABLE, path)
    reasons = {item.where: item.reason for item in refused(found)}
    assert list(reasons) == ["table.csv:mixed", "table.csv:broken", "table.csv:absent"]
    assert "is disordered" in reasons["table.csv:mixed"]
    assert "not a CIF that pymatgen can read" in reasons["table.csv:broken"]
    assert "there is no absent.cif beside the table" in reasons["table.csv:absent"]


def test_other_and_cut_tables(tmp_path: Path) -> None:
    path = write_table(tmp_path, "id,E", "x,1")
    with pytest.raises(FileNotFoundError, match=r"no CIF files in .* beside table.csv"):
        TABLE.count(path)
    write_cifs(tmp_path)
    with pytest.raises(ValueError, match="no column names any of 3 CIF files beside it; the first row is id: y, E: 1"):
        TABLE.count(write_table(tmp_path, "id,E", "y,1", name="other.csv"))
    with pytest.raises(ValueError, match=r"expected one \*.csv, got other.csv, table.csv; name the file"):
        TABLE.count(tmp_path)
    with pytest.raises(ValueError, match="expected a column of numbers beside 'id', got id, E"):
        TABLE.count(write_table(tmp_path, "id,E", "x,high", name="words.csv"))
    with pytest.raises(ValueError, match="row 2 has 1 cells, the first line has 2: it is damaged or cut off"):
        TABLE.count(write_table(tmp_path, "id,E", "x,1", "mp-", name="cut.csv"))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="is empty; expected a table"):
        TABLE.count(tmp_path / "empty.csv")
    (tmp_path / "cifs.zip").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match=r"cifs.zip: not a whole zip archive"):
        TABLE.count(write_table(tmp_path, "id,E", "x,1", "mp-10,2", name="again.csv"))


def test_real_tables(reference: Callable[[str], Path]) -> None:
    energies = examples(list(TABLE.read(reference("originals/abx3/oqmd_fm_first200.csv"), range(200))))
    gaps = examples(list(TABLE.read(reference("originals/abx3/oqmd_bg_first200.csv"), range(0, 200, 40))))
    packed = examples(list(TABLE.read(reference("oqmd_abx3.npz"), range(200))))
    assert TABLE.units(reference("oqmd_abx3.npz"))["formation_energy"] == "eV/atom"
    assert (energies[0].key, energies[0].targets["formation_energy"]) == ("4069899", -2.5138)
    assert (gaps[0].key, gaps[0].targets["band_gap"]) == ("4069899", 1.589)
    by_key = {e.key: e for e in packed}
    for example in energies:
        other = by_key[example.key]
        assert other.targets["formation_energy"] == example.targets["formation_energy"]
        assert sorted(other.frame.numbers) == sorted(example.frame.numbers)
        volumes = [abs(np.linalg.det(e.frame.cell)) for e in (example, other)]
        assert volumes[0] == pytest.approx(volumes[1], rel=1e-5)
    with pytest.raises(ValueError, match="no column names any of 200 CIF files"):
        TABLE.count(reference("originals/abx3/abc3_data_first200.csv"))


# --- Matbench


def write_task(path: Path, columns: list[str], rows: list[list[Any]]) -> Path:
    with gzip.open(path, "wt") as file:
        json.dump({"index": list(range(len(rows))), "columns": columns, "data": rows}, file)
    return path


def rows(values: list[Any]) -> list[list[Any]]:
    return [[s.as_dict(), value] for s, value in zip(CRYSTALS.values(), values, strict=True)]


def test_a_task_of_matbench(tmp_path: Path) -> None:
    path = write_task(tmp_path / "matbench_jdft2d.json.gz", ["structure", "exfoliation_en"], rows([63.59, None, 0]))
    found = examples(everything(MATBENCH, path))
    check_crystals(found)
    assert [e.key for e in found] == ["mb-jdft2d-1", "mb-jdft2d-2", "mb-jdft2d-3"]
    np.testing.assert_array_equal([e.targets["exfoliation_en"] for e in found], [63.59, np.nan, 0])
    assert MATBENCH.units(path) == {"exfoliation_en": "meV/atom"}
    assert [e.frame.group for e in found] == ["O3PbTi", "BaO3Ti", "O3SrTi"]


def test_names_have_leading_zeros(tmp_path: Path) -> None:
    many = [[perovskite().as_dict(), i % 2 == 0] for i in range(101)]
    path = write_task(tmp_path / "matbench_mp_is_metal.json.gz", ["structure", "is_metal"], many)
    first, last = examples(list(MATBENCH.read(path, [0, 100])))
    assert (first.key, last.key) == ("mb-mp-is-metal-001", "mb-mp-is-metal-101")
    assert (first.targets, last.targets) == ({"is_metal": 1.0}, {"is_metal": 1.0})
    assert MATBENCH.count(path) == 101
    assert MATBENCH.units(path) == {"is_metal": ""}


def test_broken_rows_are_refused(tmp_path: Path) -> None:
    broken = rows([1, "high", 2])
    del broken[0][0]["lattice"]
    path = write_task(tmp_path / "matbench_mp_gap.json.gz", ["structure", "gap pbe"], broken)
    one, other = refused(everything(MATBENCH, path))
    assert one.where == "matbench_mp_gap.json.gz:0"
    assert "with a lattice and sites, but it has no 'lattice'" in one.reason
    assert "expected a number or a boolean as target, got 'high'" in other.reason


def test_other_and_cut_files_are_not_matbench(tmp_path: Path) -> None:
    path = tmp_path / "matbench_steels.json.gz"
    with pytest.raises(ValueError, match=r"got composition, yield strength. Tasks on compositions have no structures"):
        MATBENCH.count(write_task(path, ["composition", "yield strength"], [["Fe0.62C0.01", 2411.5]]))
    for text in ("[1, 2]", '{"a": 1}', '{"index": [0], "data": [[{}, 1]]}'):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ValueError, match=r"other.json: expected the JSON of a data frame, an object of index"):
            MATBENCH.count(tmp_path / "other.json")
    write_task(path, ["structure", "E"], rows([1, 2, 3]))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"gz: .*; if it was downloaded, do so again"):
        MATBENCH.count(path)
    plain = gzip.decompress(whole)
    (tmp_path / "cut.json").write_bytes(plain[:-100])
    with pytest.raises(ValueError, match="the JSON is cut off"):
        MATBENCH.count(tmp_path / "cut.json")
    (tmp_path / "cut.json").write_bytes(plain[:12])
    with pytest.raises(ValueError, match="the JSON is damaged or cut off"):
        MATBENCH.count(tmp_path / "cut.json")
