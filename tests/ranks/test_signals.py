"""Signals that end a job, and deadlines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from gfmpot.ranks.signals import SIGNALS, Deadline, EndOfJob


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    with EndOfJob() as end:
        assert not end.requested
        assert end.signal is None
        os.kill(os.getpid(), number)
        assert end.requested
        assert end.signal == number.name
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert end.requested, "still known afterwards"


def test_first_signal_counts() -> None:
    with EndOfJob() as end:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert end.signal == "SIGUSR1"


def test_handlers_come_back_after_an_error() -> None:
    previous = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    mine = signal.getsignal(signal.SIGUSR2)
    try:
        with pytest.raises(RuntimeError, match="boom"), EndOfJob():
            raise RuntimeError("boom")
        assert signal.getsignal(signal.SIGUSR2) is mine
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_work_is_finished_before_the_process_ends() -> None:
    program = (
        "import time\nfrom gfmpot.ranks.signals import EndOfJob\n"
        "with EndOfJob() as end:\n    print('ready', flush=True)\n"
        "    while not end.requested: time.sleep(0.01)\n    print('saved after', end.signal)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "saved after SIGTERM\n"
    assert process.returncode == 0


def test_deadline() -> None:
    now = 100.0
    deadline = Deadline(0.5, lambda: now)
    assert deadline.seconds_left == 1800
    assert not deadline.reached
    now += 1799
    assert not deadline.reached
    now += 1
    assert deadline.reached
    now += 1000
    assert deadline.seconds_left == 0


def test_no_deadline() -> None:
    assert Deadline(None).seconds_left == float("inf")
    assert not Deadline(None).reached


def test_deadline_by_the_real_clock() -> None:
    deadline = Deadline(0.02 / 3600)
    time.sleep(0.03)
    assert deadline.reached


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan")])
def test_hours_that_are_none(hours: float) -> None:
    with pytest.raises(ValueError, match="expected a positive number of hours"):
        Deadline(hours)
