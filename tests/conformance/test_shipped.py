"""Every checkpoint that comes with the package: the blend against the whole list, each head against its core."""

from __future__ import annotations

from pathlib import Path

import pytest

import gfmpot
from gfmpot.models import load
from gfmpot.testing import run_conformance

CORE = ("rotation", "reflection", "forces = differences", "stress = differences", "smooth at cutoff", "two copies")
SHIPPED = sorted((Path(gfmpot.__file__).parent / "pretrained").glob("*.safetensors"))
NONE = pytest.param(None, marks=pytest.mark.skip(reason="no checkpoint in gfmpot/pretrained"), id="none")


@pytest.mark.parametrize("path", SHIPPED or [NONE], ids=lambda path: path.stem)
def test_blend(path: Path) -> None:
    report = run_conformance(load(path))
    assert report.passed, report.table()
    assert report.skipped == []


@pytest.mark.parametrize("path", SHIPPED or [NONE], ids=lambda path: path.stem)
def test_heads(path: Path) -> None:
    potential = load(path)
    reports = [run_conformance(potential, head=head, only=CORE) for head in potential.branch_names]
    assert all(report.passed for report in reports), "\n".join(report.table() for report in reports)
