"""The study of shapes: its variants can be trained, it goes on after a kill, and its picture can be read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from matplotlib.figure import Figure


@pytest.fixture(scope="module")
def architectures(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("architectures")


def test_every_variant_is_a_run_of_its_own(architectures: ModuleType) -> None:
    runs = [architectures.run(name, 1000) for name in architectures.VARIANTS]
    assert len({str(run.model) for run in runs}) == len(runs)
    assert {run.steps for run in runs} == {1000}


def test_what_was_measured_is_kept(architectures: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    given = argparse.Namespace(json=file, minutes=3.0)
    assert architectures.earlier(given) == {"minutes": 3.0, "costs": {}, "variants": []}
    file.write_text(json.dumps({"minutes": 3.0, "costs": {"default": {}}, "variants": [], "environment": {}}))
    assert architectures.earlier(given)["costs"] == {"default": {}}
    with pytest.raises(SystemExit, match=r"is of other work \(3 minutes each\): give another file"):
        architectures.earlier(argparse.Namespace(json=file, minutes=4.0))


def test_names_do_not_cover_each_other(architectures: ModuleType) -> None:
    axis = Figure().subplots()
    points = {"one": (0.0, 0.0), "another": (0.02, 0.01), "a third one": (1.0, 1.0)}
    for at in points.values():
        axis.plot(*at, "o")
    architectures.name_points(axis, points)
    boxes = [text.get_window_extent() for text in axis.texts]
    assert [text.get_text() for text in axis.texts] == list(points)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
