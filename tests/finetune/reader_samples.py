"""What tests of readers share."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from gfmpot.data.frame import Rejected
from gfmpot.finetune.reader import Example, Reader


def everything(reader: Reader, path: Path) -> list[Example | Rejected]:
    """All of a file, read at once and one by one, which must be the same."""
    size = reader.count(path)
    found = list(reader.read(path, range(size)))
    assert len(found) == size
    assert [plain(item) for i in range(size) for item in reader.read(path, [i])] == [plain(item) for item in found]
    assert [plain(item) for item in reader.read(path, range(0, size, 2))] == [plain(item) for item in found[::2]]
    return found


def plain(item: Example | Rejected) -> str:
    return repr({key: np.asarray(value, dtype=object).tolist() for key, value in _fields(item).items()})


def _fields(item: Example | Rejected) -> dict[str, Any]:
    if isinstance(item, Rejected):
        return dataclasses.asdict(item)
    return {**dataclasses.asdict(item.frame), "key": item.key, "targets": dict(item.targets)}


def examples(items: list[Example | Rejected]) -> list[Example]:
    """All, none of which may be refused; with structures that graphs can be made of."""
    good = [item for item in items if isinstance(item, Example)]
    assert len(good) == len(items), [item for item in items if isinstance(item, Rejected)]
    for item in good:
        assert item.frame.problem() in (None, "neither energy nor forces")
        assert np.isfinite(item.frame.positions).all()
        assert item.frame.positions.shape == item.frame.forces.shape == (len(item.frame.numbers), 3)
    return good


def refused(items: list[Example | Rejected]) -> list[Rejected]:
    return [item for item in items if isinstance(item, Rejected)]
