"""Runs: values, exactly once, going on, several processes, and what must not pass."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write

from gfmpot.graph import BatchBudget, graph_from_atoms
from gfmpot.inference import Predictor
from gfmpot.inference.screening import Outcome, Relaxation, Relaxer, Screening, Settings, check
from gfmpot.inference.screening import running as module
from gfmpot.inference.screening.locks import Locks
from gfmpot.inference.screening.readers import Readers
from gfmpot.inference.screening.tables import read_summary
from gfmpot.models import Potential
from gfmpot.ranks.launch import Launch

pytest.importorskip("pyarrow", reason='needs pyarrow: pip install "gfmpot[parquet]"')

BAD = [
    Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 0, 1.05]]),  # coincident
    Atoms("W"),  # unsupported
    Atoms("He", info={"charge": 0.5}),
    Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], info={"spin": 2}),
]


def many(candidates: list[Atoms], copies: int = 5) -> list[Atoms]:
    """Bad ones among the good ones, all different."""
    found: list[Atoms] = []
    for copy in range(copies):
        for i, atoms in enumerate(candidates):
            found.append(atoms.copy())
            found[-1].positions *= 1 + 0.001 * copy
            found += [bad.copy() for bad in BAD if (copy + i) % 6 == 0]
    return found


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet").sort_values(["file", "index"], ignore_index=True)


def refused(folder: Path) -> list[dict]:
    lines = [line for path in sorted(folder.glob("quarantine/*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def expected(predictor: Predictor, atoms: Atoms) -> dict:
    (found,) = predictor(graph_from_atoms(atoms, cutoff=predictor.cutoff))
    return found


@pytest.fixture
def files(tmp_path: Path, candidates: list[Atoms]) -> list[Atoms]:
    """``a.extxyz`` with bad structures among good ones; returns them as they are read."""
    write(tmp_path / "a.extxyz", many(candidates))
    return read(tmp_path / "a.extxyz", ":")


def test_values_are_the_predictors(screen, predictor: Predictor, tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "a.extxyz", candidates)
    assert screen("a.extxyz", forces=True, stress=True)[1] == Outcome(done=1, blocks=1, stopped=False)
    found = table(tmp_path / "out")
    assert found["file"].tolist() == [str(tmp_path / "a.extxyz")] * len(candidates)
    assert found["index"].tolist() == list(range(len(candidates)))
    for (_, row), atoms in zip(found.iterrows(), read(tmp_path / "a.extxyz", ":"), strict=True):
        results = expected(predictor, atoms)
        assert row["formula"] == atoms.get_chemical_formula()
        assert row["natoms"] == len(atoms)
        assert row["energy"] == pytest.approx(results["energy"], abs=1e-9)
        assert row["energy_per_atom"] == pytest.approx(results["energy"] / len(atoms), abs=1e-9)
        assert row["max_force"] == pytest.approx(np.linalg.norm(results["forces"], axis=1).max(), abs=1e-9)
        assert row["energy_std"] == pytest.approx(results["energy_std"], abs=1e-9, nan_ok=True)
        assert row["branch_weights"] == pytest.approx(results["branch_weights"])
        np.testing.assert_allclose(np.stack(row["forces"]), results["forces"], atol=1e-9)
        if "stress" in results:
            np.testing.assert_allclose(row["stress"], results["stress"], atol=1e-9)
        else:
            assert row["stress"] is None


@pytest.mark.parametrize("workers", [0, 2])
def test_each_structure_once(
    predictor, files: list[Atoms], tmp_path: Path, candidates: list[Atoms], workers: int
) -> None:
    write(tmp_path / "b.extxyz", candidates)
    paths, came = [tmp_path / "a.extxyz", tmp_path / "b.extxyz"], [0]

    def count(structures: int, atoms: int) -> None:
        came[0] += structures

    screening = Screening(paths, tmp_path / "out", predictor, Settings(block=7))
    assert screening.work(workers=workers, progress=count).complete
    assert came == [len(files) + 7], "nothing is done twice"
    assert check(tmp_path / "out") == []
    found, left = table(tmp_path / "out"), refused(tmp_path / "out")
    keys = sorted([*zip(found["file"], found["index"], strict=True), *((line["file"], line["index"]) for line in left)])
    assert keys == [(str(tmp_path / n), i) for n, c in (("a.extxyz", len(files)), ("b.extxyz", 7)) for i in range(c)]
    reasons = {line["reason"].split(" (")[0].split(" are ")[0].split(":")[0] for line in left}
    assert len(left) == len(files) - 35
    assert reasons == {
        "atoms 1",
        "no branch supports all of W",
        "charge must be a whole number, got np.float64(0.5)",
        "multiplicity 2 is impossible with 2 electrons",
    }


def test_batches_and_blocks_change_nothing(small_potential: Potential, files: list[Atoms], tmp_path: Path) -> None:
    tables = []
    for edges, block in ((100_000, 4096), (150, 4096), (300, 3)):
        predictor = Predictor(small_potential, precision="fp64", device="cpu", budget=BatchBudget(max_edges=edges))
        Screening([tmp_path / "a.extxyz"], tmp_path / f"{edges}", predictor, Settings(block=block)).work()
        tables.append(table(tmp_path / f"{edges}").drop(columns="branch_weights"))
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, rtol=1e-9, atol=1e-9)


def test_a_structure_that_has_no_finite_answer_does_not_take_others_along(
    screen, predictor: Predictor, tmp_path: Path, candidates: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model refuses a batch as a whole; and memory may suffice for less only."""
    write(tmp_path / "a.extxyz", candidates)
    calls: list[int] = []
    evaluate = Predictor.__call__

    def fussy(self: Predictor, graph):
        calls.append(graph.n_structures)
        if graph.n_structures > 3:
            raise torch.OutOfMemoryError("out of memory")
        if (graph.atomic_numbers == 29).any():
            raise ValueError("structure 0 of the batch: energy or forces are not finite")
        return evaluate(self, graph)

    monkeypatch.setattr(Predictor, "__call__", fussy)
    screen("a.extxyz")
    assert refused(tmp_path / "out") == [
        {"file": str(tmp_path / "a.extxyz"), "index": 1, "formula": "Cu2", "reason": "energy or forces are not finite"}
    ]
    assert table(tmp_path / "out")["index"].tolist() == [0, 2, 3, 4, 5, 6]
    assert calls[0] == 7
    assert check(tmp_path / "out") == []


def test_other_errors_of_the_model_are_raised(screen, tmp_path: Path, candidates, monkeypatch) -> None:
    def broken(self: Predictor, graph) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    write(tmp_path / "a.extxyz", candidates)
    monkeypatch.setattr(Predictor, "__call__", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        screen("a.extxyz")


def test_charges_reach_the_model(screen, small_potential: Potential, tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [molecule("H2O"), molecule("NH3")])
    screen("a.extxyz", charge=-1, spin=2, out="ion")
    screen("a.extxyz", out="neutral")
    ion, neutral = (table(tmp_path / name)["energy"] for name in ("ion", "neutral"))
    assert (ion - neutral).abs().min() > 1e-6


def test_where_writes_what_fulfils_it_and_counts_the_rest(screen, files: list[Atoms], tmp_path: Path) -> None:
    screen("a.extxyz", out="all")
    screen("a.extxyz", out="some", where="natoms > 3 and energy_per_atom < -3", block=9)
    everything = table(tmp_path / "all")
    chosen = everything[(everything["natoms"] > 3) & (everything["energy_per_atom"] < -3)].reset_index(drop=True)
    assert 0 < len(chosen) < len(everything)
    found = table(tmp_path / "some")
    pd.testing.assert_frame_equal(found.drop(columns="branch_weights"), chosen.drop(columns="branch_weights"))
    summaries = [read_summary(path) for path in sorted((tmp_path / "some/results.parquet").iterdir())]
    assert sum(summary["not_selected"] for summary in summaries) == len(everything) - len(chosen)
    assert check(tmp_path / "some") == []


def test_nothing_selected_and_nothing_good_still_are_blocks(screen, tmp_path: Path, candidates: list[Atoms]) -> None:
    write(tmp_path / "a.extxyz", candidates)
    write(tmp_path / "b.extxyz", BAD)
    screen("a.extxyz", "b.extxyz", where="natoms > 1000", forces=True, stress=True, block=7)
    assert len(table(tmp_path / "out")) == 0
    assert len(refused(tmp_path / "out")) == len(BAD)
    assert check(tmp_path / "out") == []


# --- relaxation


def halved(structures: Sequence[Atoms]) -> list[Relaxation | str]:
    """Stands for a relaxation: shakes less; fails for copper, and puts the atoms of methane on top of each other."""
    found: list[Relaxation | str] = []
    for steps, atoms in enumerate(structures):
        moved = atoms.copy()
        moved.positions *= 0 if "CH4" in str(atoms.symbols) else 1.01
        found.append("copper melts" if 29 in atoms.numbers else Relaxation(moved, steps, steps % 2 == 0))
    return found


def test_relaxed_structures_are_evaluated_and_written(screen, predictor: Predictor, tmp_path: Path, candidates) -> None:
    write(tmp_path / "a.extxyz", candidates)
    screen("a.extxyz", relaxer=Relaxer(halved, {"by": "1 %"}), forces=True)
    found = table(tmp_path / "out")
    assert found["index"].tolist() == [0, 3, 4, 5, 6]
    assert found["steps"].tolist() == [0, 3, 4, 5, 6]
    assert found["converged"].tolist() == [True, False, True, False, True]
    reasons = [line["reason"] for line in refused(tmp_path / "out")]
    assert reasons[0] == "copper melts"
    assert "closer than 0.1 Å" in reasons[1]
    finals = read(tmp_path / "out/relaxed/block-0000000.extxyz", ":")
    assert [atoms.info["index"] for atoms in finals] == [0, 3, 4, 5, 6]
    for (_, row), atoms in zip(found.iterrows(), finals, strict=True):
        np.testing.assert_allclose(atoms.positions, 1.01 * candidates[row["index"]].positions, atol=1e-7)
        assert row["energy"] == pytest.approx(expected(predictor, atoms)["energy"], abs=1e-6)
    assert finals[3].info["charge"] == 1
    assert finals[3].info["spin"] == 2
    assert check(tmp_path / "out") == []


# --- going on


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


# --- several processes


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


def test_without_locks_everybody_works(screen, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that has none: more work, the same result."""

    def none(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("gfmpot.inference.screening.locks.fcntl.lockf", none)
    assert screen("a.extxyz", block=7)[1].complete
    assert check(tmp_path / "out") == []


class Deadly:
    """Prepares nothing but the end of its process."""

    def pieces(self, block: object) -> None:
        os._exit(3)


class Broken:
    """Prepares nothing but an error."""

    def pieces(self, block: object) -> None:
        raise ZeroDivisionError("once upon a time")


def test_a_reading_process_that_dies_is_an_error() -> None:
    from gfmpot.inference.screening.inputs import Blocks, Input

    blocks = Blocks([Input("a", "npz", 0, 0, 3)], 1)
    with Readers(Deadly(), 1) as readers, pytest.raises(ChildProcessError, match=r"died \(exit code 3\)"):
        next(readers.pieces(blocks[n] for n in range(3)))
    with Readers(Broken(), 1) as readers, pytest.raises(ChildProcessError, match="ZeroDivisionError: once upon"):
        next(readers.pieces(blocks[n] for n in range(3)))


def test_a_branch_that_does_not_answer_supports_nothing(small_potential: Potential) -> None:
    both = Predictor(small_potential, device="cpu")
    assert [29 in elements for elements in module.answering(both)] == [True, False]
    head = Predictor(small_potential, device="cpu", head="molecules-pbe0")
    assert [29 in elements for elements in module.answering(head)] == [False]
    weights = Predictor(small_potential, device="cpu", weights={"molecules-pbe0": 1.0})
    assert [29 in elements for elements in module.answering(weights)] == [False]


def test_large_structures_go_alone(screen, tmp_path: Path) -> None:
    big = bulk("MgO", "rocksalt", 4.2, cubic=True) * (3, 3, 3)
    write(tmp_path / "a.extxyz", [bulk("MgO", "rocksalt", 4.2), big, bulk("MgO", "rocksalt", 4.21)])
    screen("a.extxyz")
    per_atom = table(tmp_path / "out")["energy_per_atom"]
    assert per_atom[1] == pytest.approx(per_atom[0], abs=1e-9)
