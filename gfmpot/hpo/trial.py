"""One trial, as a program: ``python -m gfmpot.hpo.trial --spec trial.json --out result.json``.

It runs by itself or on all ranks of a launcher. The result is a file; there is none if a signal has ended the trial,
which then goes on when it is started again.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gfmpot.config import from_mapping
from gfmpot.hpo.records import (
    STOP,
    Status,
    TrialResult,
    TrialSpec,
    Validation,
    add_progress,
    last_known,
    read_record,
    write_record,
)
from gfmpot.hpo.training import Ending, PartTrainer, weighted_loss
from gfmpot.ranks.launch import Launch, any_rank, session
from gfmpot.ranks.signals import Deadline
from gfmpot.telemetry import read_records
from gfmpot.training.config import TrainConfig
from gfmpot.training.metrics import Metrics

ENDED = 75
"""Exit code without a result: try again (EX_TEMPFAIL of sysexits.h)."""

GIB = 1024**3
BEGUN = time.monotonic()
LEAST = 1.0
"""s of training, so that there is something to be said of it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a trial; the exit code is 0 if there is a result, whatever it says."""
    parser = argparse.ArgumentParser(prog="python -m gfmpot.hpo.trial", description=__doc__)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%X")
    _be_the_first_to_go()
    spec = read_record(TrialSpec, given.spec)
    try:
        with session(spec.device) as (launch, device):
            result = run(spec, given.spec.parent, launch, device)
    except Exception as error:
        logging.exception("the trial failed")
        write_record(given.out, failure(spec, given.spec.parent, error))
        return 1  # so that a launcher ends the other ranks
    if result is None:
        return ENDED
    if launch.is_main:
        write_record(given.out, result)
        shutil.rmtree(given.spec.parent / "run" / "state", ignore_errors=True)  # large, and of no more use
    return 0


def run(spec: TrialSpec, folder: Path, launch: Launch, device: torch.device) -> TrialResult | None:
    """Train as ``spec`` says in ``folder/run``; None if a signal ended it. All ranks call it."""
    config = from_mapping(TrainConfig, spec.run, where=f"trial {spec.trial}")
    losses: list[float] = []

    def watch(trainer: PartTrainer, metrics: dict[str, Metrics]) -> None:
        losses.append(weighted_loss(metrics, spec.weights))
        if launch.is_main:
            add_progress(folder, Validation(trainer.epoch, losses[-1], 3600 * trainer.hours, metrics))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"epoch {trainer.epoch:.3g}: predictions are not finite")

    part, end = (spec.fraction, spec.seed), Ending(folder / STOP)
    trainer = PartTrainer(config, Path(), folder / "run", *part, watch, launch, device)
    with trainer, end:
        before, spent = trainer.epoch, time.process_time()
        complete = trainer.fit(deadline=_remaining(spec.minutes, trainer), end=end)
        stopped, signalled = any_rank(end.stopped, device), any_rank(end.signalled, device)
        if signalled and not (complete or stopped):
            return None
        measured = _measured(trainer, before, spent, folder, device)
    status: Status = "completed" if complete else "stopped" if stopped else "timeout"
    reasons = {"stopped": "by the stopper", "timeout": f"not done within {spec.minutes} minutes"}
    return replace(last_known(spec, folder, status, reasons.get(status, "")), **measured)


def _remaining(minutes: float | None, trainer: PartTrainer) -> Deadline:
    """What is left of the time limit: since this process began, and of training before a restart."""
    spent = time.monotonic() - BEGUN + 3600 * trainer.hours
    return Deadline(None if minutes is None else max(LEAST, 60 * minutes - spent) / 3600)


def failure(spec: TrialSpec, folder: Path, error: Exception) -> TrialResult:
    """The result of a trial that an error ended."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    no_room = isinstance(error, RuntimeError) and "alloc" in text.lower() and "memory" in text.lower()
    full = no_room or isinstance(error, MemoryError | torch.OutOfMemoryError)
    return last_known(spec, folder, "out_of_memory" if full else "failed", text[:500])


def _measured(trainer: PartTrainer, before: float, begun: float, folder: Path, device: torch.device) -> dict[str, Any]:
    """Times, memory and energy; collective.

    Before this process trained, so many epochs were done, and so many seconds of its processor time had gone by.
    """
    own = [_peak_gib(), torch.cuda.max_memory_allocated(device) / GIB if device.type == "cuda" else 0.0]
    peaks, spent = torch.tensor([*own, 0.0]), torch.tensor([time.process_time() - begun])
    if torch.distributed.is_initialized():
        peaks, spent = peaks.to(device), spent.to(device)
        torch.distributed.all_reduce(peaks, op=torch.distributed.ReduceOp.MAX)
        torch.distributed.all_reduce(spent)
    seconds = 3600 * trainer.hours
    return {
        "epochs": trainer.epoch,
        "seconds_per_epoch": seconds / trainer.epoch if trainer.epoch else None,
        "structures_per_second": trainer.structures / seconds if seconds else None,
        "peak_memory_gib": float(peaks[0]),
        "peak_gpu_memory_gib": float(peaks[1]) if device.type == "cuda" else None,
        "parameters": sum(p.numel() for p in trainer.potential.parameters()),
        "joules": _joules(folder / "run" / "log.jsonl"),
        "core_seconds": _of_all_epochs(float(spent[0]), before, trainer.epoch),
        "ranks": trainer.launch.world,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def _of_all_epochs(spent: float, before: float, after: float) -> float | None:
    """What this process has spent on some of the epochs, for all of them; None if it did none."""
    return spent * after / (after - before) if after > before else None


def _peak_gib() -> float:
    """Largest resident memory of this process.

    Not by getrusage: on Linux that starts from what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = (line.split() for line in status.read_text().splitlines())
        return next(int(line[1]) * 1024 / GIB for line in lines if line[:1] == ["VmHWM:"])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB  # bytes on macOS


def _joules(log: Path) -> float | None:
    """Of all that has a counter; None without any."""
    records = [r for r in read_records(log)[0] if r.get("kind") == "telemetry"] if log.is_file() else []
    found = [r.get("cpu_energy_j") for r in records]
    found += [gpu.get("energy_j") for r in records for gpu in r.get("gpu") or []]
    known = [float(value) for value in found if value is not None]
    return sum(known) if known else None


def _be_the_first_to_go() -> None:
    """When memory runs out, the kernel should end trials, not the campaign beside them."""
    file = Path("/proc/self/oom_score_adj")
    if file.is_file() and os.access(file, os.W_OK):
        file.write_text("500")


if __name__ == "__main__":
    sys.exit(main())
