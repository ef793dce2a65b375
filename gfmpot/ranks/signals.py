"""The end of a job, foreseen: schedulers' signals and a fixed number of hours."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What schedulers send. SIGTERM: the time is up, or the job was cancelled; SIGKILL follows, under SLURM after KillWait
(30 s by default), from ``torchrun`` after 30 s. SIGUSR1, SIGUSR2: what ``sbatch --signal=USR1@300`` asks for, 300 to
360 s before the end, to every process of every job step, not to the batch script
(https://slurm.schedmd.com/sbatch.html, ``--signal``). ``torchrun`` passes SIGTERM on, but not these."""


class EndOfJob:
    """Notes that the scheduler wants the job to end, instead of dying of its signal.

    ::

        with EndOfJob() as end:
            while not end.requested:
                train()
            save()

    A signal may reach some ranks earlier than others: ranks must agree before they act on it
    (:func:`gfmpot.ranks.launch.any_rank`). Handlers are installed on entry, by the main thread (Python allows no
    other), and what was there before is put back on exit.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = SIGNALS) -> None:
        self._signals = signals
        self._before: dict[signal.Signals, Any] = {}
        self._received: str | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._received is not None

    @property
    def signal(self) -> str | None:
        """Name of the first signal that came, e.g. ``"SIGUSR1"``."""
        return self._received

    def __enter__(self) -> EndOfJob:
        for number in self._signals:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that was not installed from Python, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number).name


class Deadline:
    """A number of hours from now (``--max-hours``); ``None`` for no limit.

    Raises:
        ValueError: hours that are not positive.
    """

    def __init__(self, hours: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        if hours is not None and not hours > 0:
            raise ValueError(f"expected a positive number of hours, got {hours}")
        self._clock = clock
        self._end = math.inf if hours is None else clock() + 3600 * hours

    @property
    def seconds_left(self) -> float:
        """Seconds until then, never negative; infinite without a limit."""
        return max(0.0, self._end - self._clock())

    @property
    def reached(self) -> bool:
        """Whether the time is up."""
        return self.seconds_left == 0.0
