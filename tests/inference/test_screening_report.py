"""What is said of a complete run: that it is whole, what it took, what is best."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read, write

from gfmpot.inference import Predictor
from gfmpot.inference.screening import Relaxation, Relaxer, Screening, Settings, Top, check
from gfmpot.inference.screening import closing as module
from gfmpot.inference.screening.closing import close, histograms
from gfmpot.inference.screening.folder import Folder
from gfmpot.inference.screening.tables import SUMMARY


@pytest.fixture
def run(screen, tmp_path: Path, candidates: list[Atoms]) -> Path:
    """Blocks of five records from a file of fourteen good and two bad structures, and two files that are one record."""
    bad = [Atoms("W"), Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 0, 1.05]])]
    write(tmp_path / "a.extxyz", [*candidates, *bad, *candidates])
    (tmp_path / "cifs").mkdir()
    for name in ("x", "y"):
        write(tmp_path / f"cifs/{name}.cif", candidates[:2])
    (tmp_path / "broken.extxyz").write_text("nonsense")
    screen("a.extxyz", "cifs", "broken.extxyz", block=5, read_file=lambda path: read(path, ":"))
    return tmp_path / "out"


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], **summary: object) -> None:
    """Change rows and summary of a table."""
    whole = pq.read_table(path)
    metadata = json.loads(whole.schema.metadata[SUMMARY]) | summary
    rows = change(whole.drop_columns(["branch_weights"]).to_pandas())
    changed = type(whole).from_pandas(rows, preserve_index=False)
    pq.write_table(changed.replace_schema_metadata({SUMMARY: json.dumps(metadata)}), path)


def same(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


def test_a_whole_run_has_no_problems(run: Path) -> None:
    assert check(run) == []


def block(run: Path, number: int) -> Path:
    return run / f"results.parquet/block-{number:07}.parquet"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: block(run, 2).unlink(), "1 of 4 blocks are not done, the first is 2"),
        (lambda run: shutil.copy(block(run, 0), block(run, 9)), "block-0000009.parquet belongs to no block"),
        (lambda run: shutil.copy(block(run, 0), block(run, 2)), "block 2: 5 structures are of files|of another block"),
        (lambda run: block(run, 1).write_bytes(b"PAR1"), "block-0000001.parquet is damaged"),
        (lambda run: edit(block(run, 0), lambda rows: rows[1:]), "block 0: 5 structures were written, 4 are there"),
        (
            lambda run: edit(block(run, 0), lambda rows: rows[1:], written=4, structures=4),
            "block 0: 4 structures were read from 5 records",
        ),
        (
            lambda run: edit(block(run, 0), lambda rows: rows.assign(index=[0, 1, 2, 3, 3])),
            r"block 0: .*a\.extxyz, structure 3 is there 2 times",
        ),
        (
            lambda run: edit(block(run, 0), lambda rows: rows.assign(index=[0, 1, 2, 3, 7])),
            r"block 0: .*a\.extxyz, structure 7 is of another block",
        ),
        (
            lambda run: edit(block(run, 0), lambda rows: rows.assign(index=[0, 1, 2, 3, 7])),
            r"block 0: .*a\.extxyz, structure 4 is missing",
        ),
        (lambda run: edit(block(run, 0), same, not_selected=1), r"but \{'written': 5, 'not_selected': 1"),
        (
            lambda run: edit(block(run, 0), lambda rows: rows.assign(file="b.xyz")),
            "block 0: it has structures of b.xyz, which is no input of this run",
        ),
        (
            lambda run: (run / "quarantine/block-0000001.jsonl").unlink(),
            "block 1: 2 structures were quarantined, 0 are there",
        ),
        (
            lambda run: edit(block(run, 3), lambda rows: rows.assign(index=[*rows["index"][:-1], 9])),
            r"block 3: .*y\.cif, structure 1 is missing",
        ),
    ],
)
def test_damage_is_found(run: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(run)
    problems = check(run)
    assert problems
    assert any(re.search(message, problem) for problem in problems), problems


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no screening: it has no run\.json"):
        check(tmp_path)


def test_the_report_adds_up(run: Path) -> None:
    report = close(run)
    assert report == json.loads((run / "report.json").read_text())
    assert report["problems"] == []
    assert report["structures"] == 20
    assert (report["written"], report["not_selected"], report["quarantined"]) == (18, 0, 2)
    assert report["files"] == 4
    assert report["unreadable_files"] == 1
    assert report["blocks"] == 4
    rows = pd.read_parquet(run / "results.parquet")
    assert report["atoms"] == rows["natoms"].sum()
    assert report["edges"] > 0
    assert sum(report["paths"].values()) == 20
    assert set(report["phases"]) >= {"read", "graph", "wait", "evaluate", "write"}
    (share,) = report["shares"]
    assert share["structures"] == 20
    assert share["structures_per_second"] == pytest.approx(20 / (share["ended"] - share["began"]))
    assert report["seconds"] == pytest.approx(share["ended"] - share["began"])
    lines = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [None, 7, 8]
    assert lines[0]["file"].endswith("broken.extxyz")
    assert sum(report["reasons"].values()) == 3


def test_reasons_that_differ_in_numbers_are_one(screen, tmp_path: Path) -> None:
    close_atoms = [Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 0, 1 + 0.01 * i]]) for i in range(1, 4)]
    write(tmp_path / "a.extxyz", close_atoms)
    screen("a.extxyz")
    (reason,) = close(tmp_path / "out")["reasons"]
    assert reason.startswith("atoms … (Z=…) and … (Z=…) are … Å apart")


def test_histograms_count_everything(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTERMOST", 10)
    rows = pd.read_parquet(run / "results.parquet")
    for column, found in histograms(Folder(run), len(rows)).items():
        defined = rows[column].dropna()
        outside = (defined < found["edges"][0]) | (defined > found["edges"][-1])
        assert found["below"] + found["above"] == outside.sum()
        assert sum(found["counts"]) == len(defined) - outside.sum()
        assert found["undefined"] == rows[column].isna().sum()
    assert rows["energy_std"].isna().any()


def test_a_histogram_of_one_value(screen, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [molecule("H2O")] * 3)
    screen("a.extxyz")
    found = histograms(Folder(tmp_path / "out"), 3)
    assert {column: sum(one["counts"]) for column, one in found.items()} == dict.fromkeys(found, 3)


def test_time_with_at_least_one_process() -> None:
    assert module._covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == pytest.approx(4)
    assert module._covered([]) == 0


# --- the best


def ranked(predictor: Predictor, tmp_path: Path, top: Top, **settings: object) -> tuple[pd.DataFrame, list[Atoms]]:
    """Rows and structures that a run writes as its best, and that the second pass over it writes, too."""
    paths = [tmp_path / name for name in ("a.extxyz", "two.cif")]
    chosen = Settings(block=3, read_file=lambda path: read(path, ":"), **settings)
    screening = Screening(paths, tmp_path / "out", predictor, chosen, top=top)
    screening.work()
    assert screening.close() is not None
    return pd.read_parquet(tmp_path / "out/top.parquet"), read(tmp_path / "out/top.extxyz", ":")


@pytest.fixture
def inputs(tmp_path: Path, candidates: list[Atoms]) -> dict[tuple[str, int], Atoms]:
    write(tmp_path / "a.extxyz", [*candidates, *candidates])
    write(tmp_path / "two.cif", candidates[:2])
    files = {name: read(tmp_path / name, ":") for name in ("a.extxyz", "two.cif")}
    return {(str(tmp_path / name), i): atoms for name, found in files.items() for i, atoms in enumerate(found)}


@pytest.mark.parametrize(
    "top", [Top(4), Top(5, "max_force", largest=True), Top(7, "energy_std"), Top(2, "natoms"), Top(99, "energy")]
)
def test_the_best_are_those_of_the_whole_table(predictor, tmp_path: Path, inputs, top: Top) -> None:
    found, structures = ranked(predictor, tmp_path, top)
    rows = pd.read_parquet(tmp_path / "out/results.parquet").dropna(subset=[top.by])
    expected = rows.sort_values([top.by, "file", "index"], ascending=[not top.largest, True, True]).head(top.count)
    assert found[["file", "index", top.by]].values.tolist() == expected[["file", "index", top.by]].values.tolist()
    for (_, row), atoms in zip(found.iterrows(), structures, strict=True):
        given = inputs[row["file"], row["index"]]
        np.testing.assert_allclose(atoms.positions, given.positions, atol=1e-6)
        assert (atoms.numbers == given.numbers).all()
        assert (atoms.pbc == given.pbc).all()
        assert atoms.info.get("charge", 0) == given.info.get("charge", 0)
        assert atoms.get_potential_energy() == pytest.approx(row["energy"], abs=1e-6)


def test_the_best_of_relaxed_structures_are_relaxed(predictor, tmp_path: Path, inputs) -> None:
    def stretched(structures: list[Atoms]) -> list[Relaxation]:
        ends = [atoms.copy() for atoms in structures]
        for atoms in ends:
            atoms.positions *= 1.02
        return [Relaxation(atoms, 3, True) for atoms in ends]

    found, structures = ranked(predictor, tmp_path, Top(16, "energy"), relaxer=Relaxer(stretched, {}))
    assert len(found) == 16
    for (_, row), atoms in zip(found.iterrows(), structures, strict=True):
        given = inputs[row["file"], row["index"]]
        np.testing.assert_allclose(atoms.positions, 1.02 * given.positions, atol=1e-6)


def test_rankings_that_make_no_sense(predictor, tmp_path: Path, inputs) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Top(0)
    with pytest.raises(ValueError, match="no column 'enrgy' to rank by; did you mean 'energy'"):
        Top(3, "enrgy")
    with pytest.raises(ValueError, match="no column 'formula' to rank by"):
        Top(3, "formula")
    with pytest.raises(ValueError, match="no column 'steps' to rank by without a relaxation"):
        ranked(predictor, tmp_path, Top(3, "steps"))


def test_one_process_of_many_reports(predictor, tmp_path: Path, inputs) -> None:
    first, second = (Screening([tmp_path / "a.extxyz"], tmp_path / "out", predictor) for _ in range(2))
    first.work()
    assert first.close() is not None
    assert second.work().complete
    assert second.close() is None
