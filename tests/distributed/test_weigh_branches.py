"""Alignment, branch weights and test errors on two real ranks are those of one process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from weigh_branches import NAMES, write_data

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def found(torchrun: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each rank found, alone and with another."""
    folder = tmp_path_factory.mktemp("ranks")
    write_data(folder)
    for ranks in (1, 2):
        done = torchrun(ranks, "weigh_branches.py", str(folder))
        assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("rank*.json")}


def flat(value: Any, where: str = "") -> dict[str, Any]:
    """Leaves by their path."""
    if isinstance(value, dict):
        value = list(value.items())
    elif isinstance(value, list):
        value = list(enumerate(value))
    else:
        return {where: value}
    return {path: leaf for key, item in value for path, leaf in flat(item, f"{where}/{key}").items()}


def test_two_ranks_equal_one(found: dict[str, Any]) -> None:
    one, two = flat(found["rank0-of-1"]), flat(found["rank0-of-2"])
    assert one.keys() == two.keys()
    numbers = {path for path, value in one.items() if isinstance(value, float)}
    assert {path: two[path] for path in one.keys() - numbers} == {path: one[path] for path in one.keys() - numbers}
    assert len(numbers) > 300
    errors = {path: abs(two[path] - one[path]) / max(1.0, abs(one[path])) for path in numbers}
    worst = max(errors, key=lambda path: errors[path])
    assert errors[worst] < 1e-10, (worst, errors[worst])


def test_both_ranks_have_the_same(found: dict[str, Any]) -> None:
    assert found["rank0-of-2"] == found["rank1-of-2"]


def test_something_was_learnt(found: dict[str, Any]) -> None:
    for job in ("all", "few"):
        fit = found["rank0-of-2"]["fits"][job]["fit"]
        assert fit["after"] < fit["before"] * (1 - 1e-4)
    metrics = found["rank0-of-2"]["finished"]["metadata"]["metrics"]
    assert set(metrics["blend"]) == set(metrics["branches"]) == set(NAMES)
    assert "forces_mae" not in metrics["branches"]["one"]
    assert "forces_mae" not in metrics["blend"]["one"]
    assert metrics["blend"]["two"]["forces_mae"] > 0
