"""``gfmpot screen``: as a user meets it, and every command of docs/screening.md."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from pages import DOCS, blocks, commands, run
from typer.testing import Result

from gfmpot.cli.screen_progress import Pace, duration, shown
from gfmpot.cli.screen_report import draw
from gfmpot.inference.screening import check
from gfmpot.ranks.launch import Launch

pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "gfmpot[parquet]"')

PAGE = DOCS / "screening.md"
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "SLURM_", "PMI", "MPI_", "OMPI_", "PALS_", "TORCHELASTIC")


@pytest.fixture
def screen(call, tiny_model: Path) -> Callable[..., Result]:
    def run(*arguments: object, code: int = 0) -> Result:
        return call("screen", *arguments, "--model", tiny_model, "--precision", "fp64", "-j", 0, code=code)

    return run


def candidates(count: int = 12) -> list[Atoms]:
    found = [bulk("MgO", "rocksalt", 4.1 + 0.02 * i) if i % 3 else molecule("CH3CH2OH") for i in range(count)]
    for i, atoms in enumerate(found):
        atoms.positions += np.random.default_rng(i).normal(scale=0.05, size=atoms.positions.shape)
    return found


def programs() -> str:
    """Where ``gfmpot``, ``torchrun`` and ``mpiexec`` of this environment are."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def environment() -> dict[str, str]:
    """Without the variables of whatever started the tests."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return plain | {"OMP_NUM_THREADS": "1", "PATH": programs()}


def test_results_report_and_picture(screen, tmp_path: Path) -> None:
    write("a.extxyz", [*candidates(), Atoms("W")])
    (tmp_path / "in").mkdir()
    write("in/b.cif", candidates()[1])
    (tmp_path / "in/notes.txt").write_text("x")
    result = screen("a.extxyz", "in", "-o", "out")
    assert "14 structures from 2 files: 13 written, 0 not selected, 1 quarantined" in result.stdout
    assert "no branch supports all of W" in result.stdout
    assert "passed over 1 files .txt in folders" in result.stderr
    assert "wrote out" in result.stdout
    table = pd.read_parquet("out/results.parquet")
    assert set(table["file"]) == {"a.extxyz", "in/b.cif"}
    assert "14 structures from 2 files" in (tmp_path / "out/report.txt").read_text()
    assert json.loads((tmp_path / "out/report.json").read_text())["problems"] == []
    assert (tmp_path / "out/distributions.png").read_bytes().startswith(b"\x89PNG")
    assert "every structure is there exactly once" in screen("-o", "out", "--check").stdout


def test_the_same_command_again_does_nothing_again(screen, tmp_path: Path) -> None:
    write("a.extxyz", candidates())
    screen("a.extxyz", "-o", "out", "--block-size", 5)
    (tmp_path / "out/results.parquet/block-0000001.parquet").unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/results.parquet").iterdir()}
    assert "going on: 2 of 3 blocks are done" in screen("a.extxyz", "-o", "out", "--block-size", 5).stderr
    assert times == {path: path.stat().st_mtime_ns for path in times}
    result = screen("a.extxyz", "-o", "out", "--block-size", 5, "--top-k", 3)
    assert "12 structures" in result.stdout
    assert len(pd.read_parquet("out/top.parquet")) == 3


def test_relaxation(screen, tmp_path: Path) -> None:
    write("a.extxyz", candidates(5))
    screen("a.extxyz", "-o", "plain")
    options = ("--relax", "--cell", "--steps", 3, "--fmax", 1e-6)
    screen("a.extxyz", "-o", "out", *options, "--stress")
    plain, relaxed = (pd.read_parquet(f"{name}/results.parquet") for name in ("plain", "out"))
    assert relaxed["steps"].tolist() == [3] * 5
    assert not relaxed["converged"].any()
    assert (relaxed["energy"] < plain["energy"]).all()
    finals = read("out/relaxed/block-0000000.extxyz", ":")
    moved = [abs(a.cell.array - b.cell.array).max() for a, b in zip(finals, read("a.extxyz", ":"), strict=True)]
    assert [change > 0 for change in moved] == [False, True, True, False, True], "molecules have no cell to relax"
    assert "relax was" in screen("a.extxyz", "-o", "out", *options, "--stress", "--steps", 4, code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.xyz"], "error: no file or folder a.xyz; did you mean 'a.extxyz'?"),
        ([], "error: give files or folders to screen"),
        (["bad.extxyz"], "error: nothing can be read: bad.extxyz: frame 0 should begin with a number of atoms"),
        (["a.extxyz", "--where", "enrgy < 3"], "no column 'enrgy'; did you mean 'energy'?"),
        (
            ["a.extxyz", "--top-k", "3", "--by", "max_forc"],
            "no column 'max_forc' to rank by; did you mean 'max_force'?",
        ),
        (["a.extxyz", "--by", "energy"], "error: --by and --largest say what --top-k is"),
        (["a.extxyz", "--cell"], "error: --cell says how to relax: give --relax, too"),
        (["a.extxyz", "--fmax", "0.05"], "error: --fmax says how to relax: give --relax, too"),
        (["a.extxyz", "--steps", "3"], "error: --steps says how to relax: give --relax, too"),
        (["a.extxyz", "--optimizer", "FIRE"], "error: --optimizer says how to relax: give --relax, too"),
        (["a.extxyz", "--spin", "0"], "error: spin is a multiplicity 2S+1, at least 1, or None for unspecified; got 0"),
        (["a.extxyz", "--relax", "--optimizer", "FIER"], "no optimizer 'FIER' for batches; did you mean 'FIRE'?"),
        (["a.extxyz", "--relax", "--fmax", "0"], "fmax must be positive"),
        (["a.extxyz", "--precision", "fp23"], "no precision 'fp23'; did you mean 'fp32'?"),
        (["a.extxyz", "--precision", "auto"], "--precision auto looks at the first structures"),
        (["a.extxyz", "--head", "solids-pbf"], "no head 'solids-pbf'; did you mean 'solids-pbe'?"),
        (["a.extxyz", "--device", "cdua"], "did you mean 'cuda'?"),
        (["--check"], "error: out is no screening: it has no run.json"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    call, tiny_model: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write("a.extxyz", candidates(2))
    (tmp_path / "bad.extxyz").write_text("nonsense\n")
    result = call("screen", *arguments, "-o", "out", "--model", tiny_model, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("out/results.parquet/*"))


def test_another_folder_or_file_is_refused(screen, tmp_path: Path) -> None:
    write("a.extxyz", candidates(2))
    assert "a.extxyz is a file: give a folder" in screen("a.extxyz", "-o", "a.extxyz", code=2).stderr
    assert "holds other things than a screening" in screen("a.extxyz", "-o", ".", code=2).stderr
    assert "error:" in screen("a.extxyz", "-o", "/proc/nowhere", code=2).stderr


def test_nothing_but_bad_structures(screen) -> None:
    write("a.extxyz", [Atoms("W"), Atoms("Og")])
    result = screen("a.extxyz", "-o", "out", code=1)
    assert "not one structure could be screened: out/quarantine.jsonl says why" in result.stderr
    assert "2 structures from 1 files: 0 written" in result.stdout


def test_files_that_cannot_be_read_to_their_end_are_a_failure(screen, tmp_path: Path) -> None:
    write("a.extxyz", candidates())
    text = (tmp_path / "a.extxyz").read_text()
    (tmp_path / "half.extxyz").write_text(text + "nonsense\n" + text)
    (tmp_path / "bad.extxyz").write_text("nonsense\n")
    result = screen("a.extxyz", "half.extxyz", "bad.extxyz", "-o", "out", code=1)
    assert "24 structures from 3 files, 2 of them unreadable: 24 written" in result.stdout
    assert "2 files could not be read to their end: out/quarantine.jsonl says why" in result.stderr
    assert "cannot be read after its first 12 structures: half.extxyz: frame 12 should begin with" in result.stderr
    assert "cannot be read: bad.extxyz: frame 0 should begin with" in result.stderr


def test_a_folder_without_locks_is_told(screen, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    write("a.extxyz", candidates(2))
    assert "locks" not in screen("a.extxyz", "-o", "with").stderr
    monkeypatch.setattr("gfmpot.inference.screening.locks.fcntl.lockf", none)
    assert "no file locks in out: ranks may do some blocks twice" in screen("a.extxyz", "-o", "out").stderr


def test_without_pyarrow(screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write("a.extxyz", candidates(2))
    assert 'pip install "gfmpot[parquet]"' in screen("a.extxyz", "-o", "out", code=2).stderr


def test_damage_is_told(screen, tmp_path: Path) -> None:
    write("a.extxyz", candidates())
    screen("a.extxyz", "-o", "out", "--block-size", 4)
    (tmp_path / "out/results.parquet/block-0000001.parquet").write_bytes(b"x")
    result = screen("-o", "out", "--check", code=1)
    assert "block-0000001.parquet is damaged" in result.stderr
    assert "the same command does it again" in result.stderr


# --- real processes


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not list(path.parent.glob(path.name)):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_goes_on(screen, tiny_model: Path, tmp_path: Path, how: signal.Signals) -> None:
    write("a.extxyz", candidates(300))
    command = ["gfmpot", "screen", "a.extxyz", "-o", "out", "--block-size", "3", "-j", "0"]
    command += ["--model", str(tiny_model), "--precision", "fp64"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        wait_for(tmp_path / "out/results.parquet/block-*.parquet", process)
        process.send_signal(how)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert re.search(r"stopped: \d+ of 100 blocks are done; the same command goes on", told), told
    assert "going on:" in screen("a.extxyz", "-o", "out", "--block-size", 3).stderr
    assert check(tmp_path / "out") == []


def ranks(*launcher: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [*launcher, "gfmpot", "screen", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)


def test_two_ranks_of_mpiexec(call, tiny_model: Path, tmp_path: Path) -> None:
    found = shutil.which("mpiexec", path=programs())
    if found is None or (importlib.util.find_spec("mpich") is None and "HYDRA" not in _version(found)):
        pytest.skip("needs Hydra's mpiexec: pip install mpich")
    write("a.extxyz", candidates(60))
    done = ranks(found, "-n", "2", arguments=["a.extxyz", "-o", "out", "--block-size", "5", "--model", str(tiny_model)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote out") == 1, "one of them reports"
    assert check(tmp_path / "out") == []
    shares = json.loads((tmp_path / "out/report.json").read_text())["shares"]
    assert {share["rank"] for share in shares} <= {0, 1}
    assert sum(share["structures"] for share in shares) == 60


def _version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout


# --- the page


def test_every_command_of_the_page(call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0}, raising=False)  # nothing reads ahead: faster here
    names: dict[str, Any] = {}

    def command(program: str, *arguments: str) -> None:
        if program == "gfmpot":
            call(*arguments)
        else:
            done = subprocess.run([program, *arguments], env=environment(), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr

    assert sum(len(commands(block)) for block in blocks(PAGE) if block.language == "bash") == 7
    run(blocks(PAGE), names, command)
    assert len(names["table"]) == 480
    assert capsys.readouterr().out == "480 []\n"
    assert 0 < len(pd.read_parquet("stable/results.parquet")) < 480
    assert len(read("best/top.extxyz", ":")) == 10
    assert set(pd.read_parquet("relaxed/results.parquet")["formula"]) == {"MgO", "CaO"}


def test_every_column_is_explained() -> None:
    from gfmpot.inference.screening.tables import RELAXED, TYPES

    for name in (*TYPES, *RELAXED, "branch_weights", "forces", "stress"):
        assert f"`{name}`" in PAGE.read_text()


def test_every_format_is_named() -> None:
    from gfmpot.inference.screening.formats import KINDS

    for suffix in KINDS:
        assert f"`{suffix}`" in PAGE.read_text() or suffix in (".cif", ".vasp", ".hdf5")


# --- progress


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run_of(records: int, size: int, done: set[int], rank: int = 0, world: int = 1) -> Any:
    launch = Launch(rank, world, rank, world)
    blocks = SimpleNamespace(records=records, size=size)
    return SimpleNamespace(blocks=blocks, folder=SimpleNamespace(done=lambda: done), launch=launch)


def test_pace_counts_what_all_do_and_not_what_was_there_before() -> None:
    done, clock = {0, 1}, Clock()
    pace = Pace(run_of(100, 10, done), clock)
    assert pace.left is None
    clock.now = 10.0
    pace.add(20, 160)
    assert pace.done == 40
    assert pace.left == pytest.approx(30)
    assert str(pace) == "2 structures/s, 16 atoms/s, 30 s left"
    done |= {2, 3, 4, 5, 6}  # by others
    clock.now = 20.0
    pace.add(5, 40)
    assert pace.done == 70
    assert pace.left == pytest.approx(12)
    done |= set(range(10))
    clock.now = 30.0
    pace.add(1, 1)
    assert pace.done == 100


def test_other_ranks_show_nothing_and_files_get_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gfmpot.cli.screen_progress.LINES", -1.0)
    other = run_of(100, 10, set(), rank=1, world=2)
    other.folder.done = lambda: pytest.fail("one rank that looks into the folder is enough")
    monkeypatch.setattr("gfmpot.cli.screen_progress.LOOKING", -1.0)
    with shown(other) as progress:
        progress(50, 100)
    assert capsys.readouterr().err == ""
    with shown(run_of(100, 10, set(), rank=0, world=2)) as progress:
        progress(50, 100)
    told = capsys.readouterr().err
    assert re.fullmatch(r"50\.0% of 100 records, [\d,]+ structures/s, [\d,]+ atoms/s on this rank, \d+ s left\n", told)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "unknown time"), (35.2, "35 s"), (720, "12 min"), (12_000, "3 h 20 min")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_no_picture_without_matplotlib(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    beyond = {"below": 0, "above": 0, "undefined": 0}
    draw({"max_force": {"counts": [1], "edges": [1.0, 2.0], **beyond}}, tmp_path / "a.png")
    assert 'no a.png: reports are drawn with matplotlib: pip install "gfmpot[plot]"' in capsys.readouterr().err
