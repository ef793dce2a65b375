"""Runs by several processes, and those that read ahead."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ase import Atoms
from screening_samples import table

from gfmpot.inference import Predictor
from gfmpot.inference.screening import Screening, Settings, check
from gfmpot.inference.screening.inputs import Block, Blocks, Input
from gfmpot.inference.screening.locks import Locks
from gfmpot.inference.screening.preparing import Piece
from gfmpot.inference.screening.readers import Readers
from gfmpot.inference.screening.tables import read_summary
from gfmpot.models import Potential, save
from gfmpot.ranks.launch import Launch

pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "gfmpot[parquet]"')


def test_ranks_share_the_work(predictor: Predictor, files: list[Atoms], tmp_path: Path) -> None:
    """A rank begins with its own stretch and does the rest when nobody else does."""
    paths, settings = [tmp_path / "a.extxyz"], Settings(block=7)
    second = Screening(paths, tmp_path / "out", predictor, settings, launch=Launch(1, 2, 1, 2))
    n = len(second.blocks)
    calls = iter([False] * 3 + [True] * 99)
    second.work(stopping=lambda: next(calls))
    done = sorted(second.folder.done())
    assert done[0] == n // 2
    first = Screening(paths, tmp_path / "out", predictor, settings, launch=Launch(0, 2, 0, 2))
    assert first.work().complete
    ranks = {number: read_summary(first.folder.table(number))["rank"] for number in range(n)}
    assert [rank for number, rank in ranks.items() if number in done] == [1] * len(done)
    assert check(tmp_path / "out") == []


HOLDER = """
import fcntl, sys, time
with open(sys.argv[1], "r+b") as file:
    for number in sys.argv[2:]:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(number))
    print("taken", flush=True)
    time.sleep(100)
"""


def hold(path: Path, *numbers: int) -> subprocess.Popen[str]:
    """Another process that holds locks."""
    command = [sys.executable, "-c", HOLDER, str(path), *map(str, numbers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n"
    return process


def test_what_another_process_does_is_left_to_it_until_it_dies(
    predictor: Predictor, files: list[Atoms], tmp_path: Path
) -> None:
    paths, settings = [tmp_path / "a.extxyz"], Settings(block=7)
    screening = Screening(paths, tmp_path / "out", predictor, settings)
    with hold(tmp_path / "out/locks", 1, 3) as other:
        outcome = screening.work()
        assert not outcome.stopped
        assert screening.folder.done() == set(range(len(screening.blocks))) - {1, 3}
        with pytest.raises(FileExistsError, match="another process is screening into"):
            Screening(paths, tmp_path / "out", predictor, settings, overwrite=True)
        other.kill()
    assert screening.work().complete
    assert check(tmp_path / "out") == []


def test_locks_exclude_other_processes_and_end_with_them(tmp_path: Path) -> None:
    path = tmp_path / "locks"
    with Locks(path) as locks:
        assert locks.alone()
        with hold(path, 5, 10**9) as other:
            assert not locks.alone()
            assert not locks.take(5)
            assert not locks.take(10**9)
            assert locks.take(6)
            other.kill()
        assert locks.take(5)
        locks.release(5)
        with hold(path, 5) as other:
            assert not locks.take(5)
            other.kill()


LOCKLESS = """
import fcntl, sys, torch
from pathlib import Path
from time import sleep
def none(*arguments):
    raise OSError(38, "Function not implemented")
fcntl.lockf = none
from gfmpot.inference import Predictor
from gfmpot.inference.screening import Screening, Settings
torch.set_num_threads(1)
inputs, out, model, mine, other = sys.argv[1:]
screening = Screening([inputs], out, Predictor(model, precision="fp64", device="cpu"), Settings(block=7))
Path(mine).touch()
while not Path(other).exists():
    sleep(0.01)
assert not screening.locked
assert screening.work().complete
"""


def test_without_locks_everybody_works(files, small_potential: Potential, tmp_path: Path) -> None:
    """As on a file system that has none: more work by two processes at once, each structure once."""
    (tmp_path / "lockless.py").write_text(LOCKLESS)
    save(small_potential, tmp_path / "model.safetensors")
    command = [sys.executable, "lockless.py", str(tmp_path / "a.extxyz"), "out", "model.safetensors"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    ways = (["first", "second"], ["second", "first"])
    both = [subprocess.Popen([*command, *way], cwd=tmp_path, env=environ) for way in ways]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert check(tmp_path / "out") == []
    assert len(table(tmp_path / "out")) == 35
    assert list(tmp_path.glob("out/**/.*")) == [], "nothing half-written is left"


class Deadly:
    """Prepares nothing but the end of its process."""

    def pieces(self, block: object) -> None:
        os._exit(3)


class Broken:
    """Prepares nothing but an error."""

    def pieces(self, block: object) -> None:
        raise ZeroDivisionError("once upon a time")


def test_a_reading_process_that_dies_is_an_error() -> None:
    blocks = Blocks([Input("a", "npz", 0, 0, 3)], 1)
    with Readers(Deadly(), 1) as readers, pytest.raises(ChildProcessError, match=r"died \(exit code 3\)"):
        next(readers.pieces(blocks[n] for n in range(3)))
    with Readers(Broken(), 1) as readers, pytest.raises(ChildProcessError, match="ZeroDivisionError: once upon"):
        next(readers.pieces(blocks[n] for n in range(3)))


class Talkative:
    """Prepares as many pieces as a block has records."""

    def pieces(self, block: Block) -> Iterator[Piece]:
        yield from 99 * [dataclasses.replace(Piece.last(-1, [], {}), is_last=False)]
        yield Piece.last(block.number, [], {})


def test_blocks_of_many_files_do_not_fill_a_pipe() -> None:
    """A block of 5,000 files is more than a pipe takes at once, while its reader waits for pieces to be taken."""
    blocks = Blocks([Input(f"{i}.cif", "whole", 0, 0, 1) for i in range(20_000)], 5_000)
    assert len(pickle.dumps(blocks[0])) > 1 << 16
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for itself"))
    signal.alarm(60)
    try:
        with Readers(Talkative(), 1) as readers:  # type: ignore[arg-type]
            found = [piece.block for piece in readers.pieces(blocks[n] for n in range(4)) if piece.block >= 0]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert found == [0, 1, 2, 3]
