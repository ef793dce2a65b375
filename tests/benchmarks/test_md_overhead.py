"""Shares and growths of benchmarks/md_overhead.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def overhead(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("md_overhead")


def test_network_is_within_calculator_within_step(overhead: ModuleType) -> None:
    given = argparse.Namespace(crystal="Si", atoms=64, precision="fp32", warm_up=1, steps=4, block=2, clock="cpu")
    measured = overhead.run(given)
    step, inside, network = (np.array(measured[name]) for name in ("step", "calculator", "network"))
    assert len(step) == 4
    assert (network > 0).all()
    assert (inside > network).all()
    assert (step > inside).all()
    assert len(measured["memory"]) == 2
    assert min(measured["memory"]) > 50  # MiB: PyTorch alone takes more


def test_growth_is_seen_and_steadiness_too(overhead: ModuleType) -> None:
    steady = {"step": [10.0, 90.0, 10.0, 10.0] * 20, "memory": [100.0] * 8}
    steady |= {"calculator": [9.0] * 80, "network": [8.1] * 80}
    found = overhead.summary(steady, 10)
    assert found["growth of time"] == pytest.approx(0.0)  # other programs' interruptions do not count
    assert found["growth of memory (MiB)"] == 0.0
    assert found["calculator outside the network"] == pytest.approx(0.1)
    growing = steady | {"step": np.linspace(10.0, 20.0, 80).tolist(), "memory": [100.0 + 2 * i for i in range(8)]}
    found = overhead.summary(growing, 10)
    assert found["growth of time"] == pytest.approx(0.5, abs=0.1)
    assert found["growth of memory (MiB)"] == pytest.approx(12.0)
