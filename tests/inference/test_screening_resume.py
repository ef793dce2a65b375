"""Runs that go on or begin anew, and what must not pass."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from ase import Atoms
from ase.io import write
from screening_samples import BAD, halved, table

from gfmpot.inference import Predictor
from gfmpot.inference.screening import Relaxer, Screening, Settings, Top, check
from gfmpot.inference.screening.folder import read_lines
from gfmpot.models import Potential
from gfmpot.ranks.launch import Launch

pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "gfmpot[parquet]"')


def test_a_stopped_run_goes_on(screen, files: list[Atoms], tmp_path: Path, predictor: Predictor) -> None:
    screen("a.extxyz", out="whole", block=7)
    calls = iter([False] * 6 + [True] * 99)
    first = Screening([tmp_path / "a.extxyz"], tmp_path / "out", predictor, Settings(block=7))
    outcome = first.work(stopping=lambda: next(calls))
    assert outcome.stopped
    assert 0 < outcome.done < outcome.blocks
    assert "blocks are not done, the first is" in check(tmp_path / "out")[0]
    with pytest.raises(ValueError, match=r"blocks in .* are not done: the same command goes on"):
        first.close()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/results.parquet").iterdir()}
    assert screen("a.extxyz", block=7)[1].complete
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was done is not done again"
    assert check(tmp_path / "out") == []
    pd.testing.assert_frame_equal(
        table(tmp_path / "out").drop(columns="branch_weights"), table(tmp_path / "whole").drop(columns="branch_weights")
    )


KILLED = """
import sys, time, torch
from gfmpot.inference import Predictor
from gfmpot.inference.screening import Screening, Settings
from gfmpot.models import load
torch.set_num_threads(1)
if __name__ == "__main__":
    predictor = Predictor(sys.argv[3], precision="fp64", device="cpu")
    screening = Screening([sys.argv[1]], sys.argv[2], predictor, Settings(block=7))
    screening.work(workers=1, progress=lambda structures, atoms: time.sleep(0.2))
"""


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_kill_9_leaves_each_structure_once_and_no_process(
    screen, files: list[Atoms], small_potential: Potential, tmp_path: Path
) -> None:
    from gfmpot.models import save

    (tmp_path / "killed.py").write_text(KILLED)
    save(small_potential, tmp_path / "model.safetensors")
    command = [sys.executable, "killed.py", str(tmp_path / "a.extxyz"), str(tmp_path / "out"), "model.safetensors"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("out/results.parquet/block-*.parquet"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, outcome = screen("a.extxyz", block=7)
    assert outcome.complete
    assert check(tmp_path / "out") == []
    assert len(table(tmp_path / "out")) == 35
    while any(alive(int(child)) for child in children):
        assert time.monotonic() < deadline, "processes that read ahead end with the one that they read for"
        time.sleep(0.05)


def test_other_runs_are_refused(screen, predictor, small_potential, files, tmp_path: Path, candidates) -> None:
    screen("a.extxyz", block=7)
    for settings, message in (
        ({"block": 8}, "block_size was 7, is 8"),
        ({"block": 7, "forces": True}, "forces was false, is true"),
        ({"block": 7, "where": "natoms > 2"}, 'where was null, is "natoms > 2"'),
        ({"block": 7, "charge": 1}, "charge was 0, is 1"),
        ({"block": 7, "relaxer": Relaxer(halved, {"fmax": 1})}, "relax was null, is"),
    ):
        with pytest.raises(ValueError, match=message):
            screen("a.extxyz", **settings)
    for options, message in (
        ({"head": "solids-pbe"}, "head was null"),
        ({"weights": {"solids-pbe": 1}}, "weights was"),
        ({"skip": 0.1}, r"skip was 0\.0, is 0\.1"),
        ({"allow_unsupported": True}, "allow_unsupported was false, is true"),
    ):
        other = Predictor(small_potential, precision="fp64", device="cpu", **options)
        with pytest.raises(ValueError, match=message):
            Screening([tmp_path / "a.extxyz"], tmp_path / "out", other, Settings(block=7))
    write(tmp_path / "b.extxyz", candidates)
    with pytest.raises(ValueError, match=r"is a screening of .*a\.extxyz, not .*b\.extxyz: choose another folder"):
        screen("b.extxyz", block=7)
    write(tmp_path / "a.extxyz", candidates)
    with pytest.raises(ValueError, match=r"a\.extxyz has changed since this run was planned"):
        screen("a.extxyz", block=7)


def test_files_that_come_to_a_folder_are_noticed(screen, tmp_path: Path, candidates: list[Atoms]) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.extxyz", candidates)
    screen("in")
    write(tmp_path / "in/b.extxyz", candidates)
    (tmp_path / "in/a.extxyz").unlink()
    with pytest.raises(ValueError, match=r"other files in the inputs \(new: .*b\.extxyz; gone: .*a\.extxyz\)"):
        screen("in")


def test_a_file_that_changes_meanwhile_stops_the_run(screen, tmp_path: Path, predictor, candidates) -> None:
    write(tmp_path / "a.extxyz", candidates)
    screening = Screening([tmp_path / "a.extxyz"], tmp_path / "out", predictor)
    write(tmp_path / "a.extxyz", candidates[:3])
    with pytest.raises(ValueError, match="has changed since this run was planned"):
        screening.work()


def test_overwrite_begins_anew(screen, predictor: Predictor, tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "a.extxyz", candidates)
    screen("a.extxyz")
    write(tmp_path / "a.extxyz", candidates[:2])
    paths, out = [tmp_path / "a.extxyz"], tmp_path / "out"
    with pytest.raises(ValueError, match="several ranks cannot agree"):
        Screening(paths, out, predictor, overwrite=True, launch=Launch(0, 2, 0, 2))
    assert Screening(paths, out, predictor, overwrite=True).work().complete
    assert len(table(out)) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="holds other things than a screening"):
        Screening(paths, tmp_path / "other", predictor, overwrite=True)
    assert (tmp_path / "other/thesis.tex").exists()


def test_overwrite_removes_nothing_that_is_not_of_the_run(screen, predictor, tmp_path: Path, candidates) -> None:
    out = tmp_path / "out"
    write(tmp_path / "a.extxyz", [*candidates, *BAD])
    screen("a.extxyz", block=4)[0].close()
    findings = [out / name for name in ("quarantine.jsonl", "report.json")]
    blocks = list(out.glob("*/block-*"))
    write(out / "new.extxyz", candidates)
    (out / "relaxed").mkdir()
    for kept in ("notes.txt", "relaxed/chosen.extxyz", "results.parquet/mine.csv"):
        (out / kept).write_text("mine")
    (tmp_path / "link.extxyz").symlink_to(out / "new.extxyz")
    (tmp_path / "linked").symlink_to(out)
    inside = [
        out / "new.extxyz",
        out / "relaxed/chosen.extxyz",
        tmp_path / "link.extxyz",
        tmp_path / "linked/new.extxyz",
    ]
    for path in inside:
        inputs = [tmp_path / "a.extxyz", path]
        with pytest.raises(ValueError, match=r"extxyz is in the folder for the results, .*out: choose another one"):
            Screening(inputs, out, predictor, overwrite=True)
    (tmp_path / "bad.extxyz").write_text("nonsense")
    with pytest.raises(ValueError, match="nothing can be read"):
        Screening([tmp_path / "bad.extxyz"], out, predictor, overwrite=True)
    assert all(path.exists() for path in (*blocks, *findings)), "a mistake costs nothing"
    again = Screening([tmp_path / "a.extxyz"], out, predictor, overwrite=True)
    assert not any(path.exists() for path in (*blocks, *findings))
    for kept in ("new.extxyz", "notes.txt", "relaxed/chosen.extxyz", "results.parquet/mine.csv"):
        assert (out / kept).exists()
    assert again.work().complete
    assert check(out) == []


def test_a_file_or_nothing_to_write_to(screen, predictor: Predictor, tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "a.extxyz", candidates)
    with pytest.raises(FileExistsError, match=r"a\.extxyz is a file: give a folder"):
        screen("a.extxyz", out="a.extxyz")
    with pytest.raises(OSError, match="nowhere"):
        Screening([tmp_path / "a.extxyz"], "/proc/nowhere", predictor)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        screen("b.extxyz", out="new")
    assert not (tmp_path / "new").exists(), "mistakes leave nothing behind"


def test_a_damaged_plan(screen, tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "a.extxyz", candidates)
    screen("a.extxyz")
    (tmp_path / "out/run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        screen("a.extxyz")


def test_what_a_killed_process_was_writing_is_removed(screen, tmp_path: Path, candidates: list[Atoms]) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    write(tmp_path / "a.extxyz", candidates)
    screen("a.extxyz")
    results = tmp_path / "out/results.parquet"
    names = {number: f".block-0000000.parquet.{socket.gethostname()}-{number}.partial" for number in (process.pid, 1)}
    other = ".block-0000000.parquet.elsewhere-1.partial"
    for name in (*names.values(), other):
        (results / name).write_text("half")
    assert len(table(tmp_path / "out")) == 7, "readers pass over it"
    screen("a.extxyz")
    assert sorted(path.name for path in results.iterdir()) == sorted([names[1], other, "block-0000000.parquet"])


def test_a_file_that_is_damaged_in_the_middle_is_screened_until_there(screen, tmp_path: Path, candidates) -> None:
    write(tmp_path / "a.extxyz", candidates)
    lines = (tmp_path / "a.extxyz").read_text().splitlines(keepends=True)
    third = 2 + 2 + 2 + 2  # two frames of two atoms
    lines[third] = "5?\n"
    (tmp_path / "a.extxyz").write_text("".join(lines))
    write(tmp_path / "b.extxyz", candidates)
    screening, outcome = screen("a.extxyz", "b.extxyz", block=4)
    assert outcome.complete
    report = screening.close()
    assert report is not None
    assert (report["structures"], report["written"], report["unreadable_files"]) == (9, 9, 1)
    assert report["problems"] == []
    (line,) = read_lines([tmp_path / "out/quarantine.jsonl"])
    assert (line["file"], line["index"]) == (str(tmp_path / "a.extxyz"), 2)
    assert "frame 2 should begin with a number of atoms, got '5?" in line["reason"]
    assert table(tmp_path / "out")["index"].tolist() == [0, 1, *range(7)]


def test_finals_of_a_killed_process_do_not_stay(screen, tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "a.extxyz", candidates[1:2])  # copper, which cannot be relaxed
    relaxer = Relaxer(halved, {})
    screening, _ = screen("a.extxyz", relaxer=relaxer)
    screening.folder.table(0).unlink()
    screening.folder.relaxed.mkdir()
    write(screening.folder.finals(0), candidates)
    assert screen("a.extxyz", relaxer=relaxer)[1].complete
    assert not screening.folder.finals(0).exists()


def test_nothing_to_read(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to read"):
        Screening([], tmp_path / "out", predictor)


# --- the end


def ranked(folder: Path) -> list[float]:
    return pd.read_parquet(folder / "top.parquet")["max_force"].tolist()


def test_who_wants_a_ranking_gets_one_though_another_has_reported(
    screen, predictor: Predictor, tmp_path: Path, candidates: list[Atoms]
) -> None:
    write(tmp_path / "a.extxyz", candidates)
    paths, out = [tmp_path / "a.extxyz"], tmp_path / "out"
    plain = Screening(paths, out, predictor)
    late = Screening(paths, out, predictor, top=Top(3, "max_force"), launch=Launch(1, 2, 1, 2))
    plain.work()
    assert plain.close() is not None
    os.utime(out / "report.json", (0, 0))  # by the clock of another machine
    assert late.close() is None
    assert len(ranked(out)) == 3
    times = (out / "top.parquet").stat().st_mtime_ns
    assert late.close() is None
    assert (out / "top.parquet").stat().st_mtime_ns == times, "once is enough"
    best = Screening(paths, out, predictor, top=Top(2, "max_force", largest=True))
    assert best.close() is not None, "what was complete before is reported on once more"
    assert ranked(out) == sorted(table(out)["max_force"], reverse=True)[:2]


def test_a_report_of_what_is_not_complete_any_more_is_removed(screen, predictor, tmp_path: Path, candidates) -> None:
    write(tmp_path / "a.extxyz", candidates)
    paths, out = [tmp_path / "a.extxyz"], tmp_path / "out"
    first = Screening(paths, out, predictor, top=Top(2))
    first.work()
    first.close()
    first.folder.table(0).unlink()
    again = Screening(paths, out, predictor, launch=Launch(1, 2, 1, 2))
    assert not any((out / name).exists() for name in ("report.json", "top.parquet", "top.extxyz", "quarantine.jsonl"))
    again.work()
    assert again.close() is not None
