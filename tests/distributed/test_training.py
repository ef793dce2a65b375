"""Training on real ranks: the same gradients as one process, the same run, and resuming on other numbers of ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

Run = Callable[..., subprocess.CompletedProcess[str]]
BRANCHES = ("hydrocarbons", "oxides", "metals")


@pytest.mark.parametrize("ranks", [2, 4])
def test_gradients_equal_one_process_with_all_structures(torchrun: Run, ranks: int) -> None:
    done = torchrun(ranks, "gradients.py")
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert len(errors) == 4 * 2 * 3
    by_differences = {key: errors.pop(key) for key in list(errors) if "differences" in key}
    assert max(by_differences.values()) < 5e-3, by_differences
    assert max(error for key, error in by_differences.items() if "fp32" not in key) < 1e-4, by_differences
    double = {key: error for key, error in errors.items() if "fp32" not in key}
    assert max(double.values()) < 1e-13, double
    assert max(errors.values()) < 1e-5, errors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sets of random structures, labelled by a sum of squares of distances."""
    folder = tmp_path_factory.mktemp("packed")
    for seed, name in enumerate(BRANCHES):
        rng = np.random.default_rng(seed)
        natoms = rng.integers(2, 7, 40 * (seed + 1))
        positions = 3 * rng.random((natoms.sum(), 3))
        offsets = np.concatenate([[0], np.cumsum(natoms)])
        energy, forces = zip(*(_spring(positions[a:b]) for a, b in pairwise(offsets)), strict=True)
        numbers = rng.choice([1, 6 + seed], natoms.sum())
        np.savez(
            folder / f"{name}.npz",
            natoms=natoms,
            numbers=numbers,
            positions=positions,
            energy=energy,
            forces=np.concatenate(forces),
        )
    return folder


def _spring(positions: np.ndarray) -> tuple[float, np.ndarray]:
    away = positions - positions.mean(axis=0)
    return float((away**2).sum()), -2 * away


def config(structures: int, **changes: Any) -> dict[str, Any]:
    files = [
        {"name": name, "files": [f"{name}.npz"], "min_structures_per_element": 1, "theory": "springs"}
        for name in BRANCHES
    ]
    return {
        "model": {"backbone": {"name": "painn", "hidden": 8, "layers": 2, "radial_basis": 4, "cutoff": 4.0}},
        "branches": files,
        "steps": 8,
        "batch": {"structures": structures, "max_edges": 60},
        "sampling": {"balance": "oversample"},
        "optim": {"warmup_steps": 2, "ema": 0.9},
        "split": {"valid": 0.15, "test": 0.15},
        "precision": "fp64",
        "validate_every": 4,
        "validation_structures": 5,
        **changes,
    }


def train(run: Run, ranks: int, data: Path, folder: Path, stop: int | None = None, **settings: Any) -> dict[str, Any]:
    job = {"config": config(**settings), "data": str(data), "folder": str(folder), "stop": stop}
    done = run(ranks, "train.py", json.dumps(job))
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def largest_difference(a: Path, b: Path) -> float:
    first, second = (load_file(folder / "model.safetensors") for folder in (a, b))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(scope="module")
def alone(torchrun: Run, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with batches of eight."""
    folder = tmp_path_factory.mktemp("alone")
    result = train(torchrun, 1, data, folder, structures=8)
    assert result["complete"]
    assert result["epoch"] == pytest.approx(8 * 8 / _epoch(folder), abs=1e-9)
    return folder


def _epoch(folder: Path) -> int:
    facts = json.loads(next(folder.glob("state/*/facts.json")).read_text())
    return int(facts["streams"][0]["length"])


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_two_ranks_make_the_run_of_one(torchrun: Run, data: Path, alone: Path, tmp_path: Path, mode: str) -> None:
    assert train(torchrun, 2, data, tmp_path, structures=4, parallel=mode)["complete"]
    assert largest_difference(tmp_path, alone) < 1e-10


@pytest.mark.parametrize(("before", "after"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_a_run_goes_on_in_another_mode_and_number_of_ranks(
    torchrun: Run, data: Path, alone: Path, tmp_path: Path, before: str, after: str
) -> None:
    first = train(torchrun, 2, data, tmp_path, stop=3, structures=4, parallel=before)
    assert (first["step"], first["complete"]) == (3, False)
    second = train(
        torchrun, 4 if after == "fsdp" else 1, data, tmp_path, structures=2 if after == "fsdp" else 8, parallel=after
    )
    assert (second["begun"], second["step"], second["complete"]) == (3, 8, True)
    assert largest_difference(tmp_path, alone) < 1e-10


def test_structures_in_the_memory_of_ranks_make_the_same_run(
    mpiexec: Run, data: Path, alone: Path, tmp_path: Path
) -> None:
    """Started by mpiexec, whose ranks get structures from each other by MPI."""
    reading = {"memory": "ranks", "width": 2}
    assert train(mpiexec, 2, data, tmp_path, structures=4, reading=reading)["complete"]
    assert largest_difference(tmp_path, alone) < 1e-10


def test_task_parallel_stops_and_resumes(torchrun: Run, data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(torchrun, 2, data, whole, structures=4, parallel="task")
    train(torchrun, 2, data, parts, stop=5, structures=4, parallel="task")
    assert train(torchrun, 2, data, parts, structures=4, parallel="task")["begun"] == 5
    assert largest_difference(whole, parts) < 1e-14
    metrics = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert set(next(m for m in metrics if m["kind"] == "valid")["branches"]) == set(BRANCHES)


def test_after_kill_9_the_same_command_makes_the_same_model(data: Path, tmp_path: Path) -> None:
    """The real entry point, killed as soon as there is a state."""
    settings = config(8, checkpoint_minutes=1e-9, steps=25)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    pretrain = Path(sys.executable).with_name("gfmpot-pretrain")
    command = [pretrain, "--config", tmp_path / "run.yaml", "--data", data, "--device", "cpu", "--folder"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([*command, tmp_path / "killed"], env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: any((tmp_path / "killed" / "state").glob("step-*")), killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    for folder in ("killed", "whole"):
        done = subprocess.run(
            [*command, tmp_path / folder], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert (
        "resumed at step"
        in subprocess.run(
            [*command, tmp_path / "killed"], env=environment, capture_output=True, text=True, check=False
        ).stderr
    )
    assert largest_difference(tmp_path / "killed", tmp_path / "whole") == 0.0
    assert torch.isfinite(
        torch.cat([t.flatten() for t in load_file(tmp_path / "whole" / "pretrained.safetensors").values()])
    ).all()


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < limit, "no state was written"
        time.sleep(0.01)
