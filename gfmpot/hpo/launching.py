"""Trials as processes: how they are started, watched, ended, and what is made of how they end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gfmpot.hpo.records import (
    END,
    OUTPUT,
    RESULT,
    SPEC,
    TrialResult,
    TrialSpec,
    last_known,
    read_record,
    write_json,
    write_record,
)

GRACE = 30.0
"""s between SIGTERM and SIGKILL: SLURM's KillWait. A trial saves its state in them."""

POLL = 0.1
PROCESS = "process.json"
"""Who runs a trial: its process and host."""


@dataclass(frozen=True)
class Launcher:
    """How trials are started."""

    prefix: str | None = None
    """Of the command, e.g. ``srun --exact -N 16 -n {ranks}`` or ``mpiexec --hostfile hosts.{slot} -n {ranks}``, where
    trials that run at the same time have slots 0, 1, ...; None starts it here, by ``torchrun`` if there are several
    ranks."""

    ranks: int = 1
    concurrent: int = 1
    minutes: float | None = None
    grace: float = GRACE

    def command(self, folder: Path, slot: int = 0) -> list[str]:
        """Program and arguments of the trial in ``folder``; ``slot`` is its place among those at the same time."""
        trial = ["-m", "gfmpot.hpo.trial", "--spec", str(folder / SPEC), "--out", str(folder / RESULT)]
        if self.prefix is not None:
            prefix = self.prefix.replace("{ranks}", str(self.ranks)).replace("{slot}", str(slot))
            return [*shlex.split(prefix), sys.executable, *trial]
        if self.ranks == 1:
            return [sys.executable, *trial]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.ranks}"]
        return [sys.executable, *torchrun, *trial]

    def environment(self, slot: int) -> dict[str, str]:
        """Of a trial in a slot.

        Trials that are started here share its cores and its GPUs. A launcher with a prefix sees to that itself.
        """
        if self.prefix is not None:
            return {}
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = {"OMP_NUM_THREADS": str(max(1, cores // (self.concurrent * self.ranks)))}
        own = {name: value for name, value in threads.items() if name not in os.environ}
        visible = _visible_gpus()
        if len(visible) > 1:
            first = slot * self.ranks
            own["CUDA_VISIBLE_DEVICES"] = ",".join(visible[(first + i) % len(visible)] for i in range(self.ranks))
        return own


def _visible_gpus() -> list[str]:
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


@dataclass(frozen=True)
class Ended:
    """How the process of a trial has ended."""

    code: int
    late: bool = False
    """It was ended since its time was up."""

    wanted: bool = False
    """It was ended since the campaign wanted it."""

    kills: int | None = None
    """Processes that the kernel has killed meanwhile because memory ran out; None where it does not say."""


def supervise(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, limit: float, grace: float
) -> Ended:
    """Run a trial's process to its end, or until ``limit`` s have passed or the file ``end`` appears in its folder."""
    before, begun = _kills(), time.monotonic()
    late = wanted = False
    with (folder / OUTPUT).open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # so that Ctrl-C reaches the campaign alone, and the whole group can be ended
        )
    write_json(folder / PROCESS, {"pid": process.pid, "host": socket.gethostname()})
    while process.poll() is None and not (late or wanted):
        time.sleep(POLL)
        late, wanted = time.monotonic() - begun > limit, (folder / END).exists()
    code = _terminate(process, grace) if process.poll() is None else process.returncode
    (folder / PROCESS).unlink(missing_ok=True)
    after = _kills()
    return Ended(code, late, wanted, None if before is None or after is None else after - before)


def _terminate(process: subprocess.Popen[bytes], grace: float) -> int:
    _signal_group(process.pid, signal.SIGTERM)
    try:
        return process.wait(grace)
    except subprocess.TimeoutExpired:
        _signal_group(process.pid, signal.SIGKILL)
        return process.wait()


def _signal_group(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        return  # it is gone already


def judge(spec: TrialSpec, folder: Path, ended: Ended) -> TrialResult | None:
    """What a trial has come to; None if it is to go on another time."""
    if (folder / RESULT).is_file():
        return read_record(TrialResult, folder / RESULT)
    if ended.wanted:
        return None
    if ended.late:
        return last_known(spec, folder, "timeout", f"did not end within {spec.minutes} minutes, and was ended")
    if ended.code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        counted = {None: "", 0: "; its count of such kills did not rise"}.get(
            ended.kills, "; its count of such kills rose"
        )
        return last_known(
            spec, folder, "out_of_memory", f"killed by SIGKILL, as the kernel does when memory runs out{counted}"
        )
    how = f"signal {signal.Signals(-ended.code).name}" if ended.code < 0 else f"exit code {ended.code}"
    return last_known(spec, folder, "failed", f"ended by {how} without a result; see {folder / OUTPUT}")


def conduct(launcher: Launcher, folder: Path, slot: int) -> None:
    """Run the trial in ``folder``; afterwards there is a result, unless the campaign wanted it to end."""
    if (folder / RESULT).is_file():
        return
    spec = read_record(TrialSpec, folder / SPEC)
    limit = float("inf") if launcher.minutes is None else 60 * launcher.minutes + launcher.grace
    try:
        ended = supervise(launcher.command(folder, slot), launcher.environment(slot), folder, limit, launcher.grace)
        result = judge(spec, folder, ended)
    except (OSError, ValueError) as error:  # no such launcher, or a damaged result
        result = TrialResult(spec.trial, "failed", f"{type(error).__name__}: {error}")
    if result is not None:
        write_record(folder / RESULT, replace(result, trial=spec.trial))


def end_orphan(folder: Path, grace: float = GRACE) -> None:
    """End the process that a campaign which was killed has left behind in a trial's folder on this host."""
    file = folder / PROCESS
    if not file.is_file():
        return
    left = json.loads(file.read_text())
    if left["host"] == socket.gethostname() and str(folder / SPEC) in _command_of(left["pid"]):
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal_group(left["pid"], number)
            deadline = time.monotonic() + grace
            while str(folder / SPEC) in _command_of(left["pid"]) and time.monotonic() < deadline:
                time.sleep(POLL)
    file.unlink()


def _command_of(pid: int) -> str:
    """The command line of a process; empty if there is none, or no way to see it."""
    file = Path(f"/proc/{pid}/cmdline")
    if file.parent.parent.joinpath("self").exists():
        return file.read_bytes().replace(b"\0", b" ").decode(errors="replace") if file.is_file() else ""
    done = subprocess.run(["ps", "-p", str(pid), "-o", "args="], capture_output=True, text=True, check=False)
    return done.stdout


def _kills() -> int | None:
    """How often the kernel has killed a process because memory ran out."""
    file = Path("/proc/vmstat")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
