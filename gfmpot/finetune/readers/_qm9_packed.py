"""QM9 in a packed ``.npz`` (``docs/data.md``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gfmpot.data.frame import Rejected
from gfmpot.finetune.reader import Example
from gfmpot.finetune.readers._packed import PackedExamples
from gfmpot.finetune.readers._qm9 import UNITS, Form


class PackedForm(Form):
    """Columns are called as here, in upper or lower case, after ``target_``; ``qm9_index`` has the numbers in GDB-9."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises:
            ValueError: not a packed file, or columns that are missing or in other units.
        """
        self.path = path
        self._examples = PackedExamples(path)
        units = {name.lower(): unit for name, unit in self._examples.units().items()}
        wrong = [f"{name} in {units.get(name, 'no column')}" for name in UNITS if _differ(units.get(name), UNITS[name])]
        if wrong or "qm9_index" not in self._examples.arrays:
            raise ValueError(
                f"{path}: expected an array qm9_index and columns target_<name> in the units "
                f"{', '.join(f'{name}: {unit}' for name, unit in UNITS.items())}; got {', '.join(wrong) or 'no index'}"
            )
        self.indices = self._examples.arrays["qm9_index"].astype(np.int64)

    def read(self, rows: Sequence[int]) -> Iterator[Example | Rejected]:
        """Those molecules."""
        for row, found in zip(rows, self._examples.read(rows), strict=True):
            if isinstance(found, Rejected):
                yield found
            else:
                number = str(self.indices[row])
                targets = {name.lower(): value for name, value in found.targets.items()}
                frame = dataclasses.replace(found.frame, group=number)
                yield Example(frame, f"gdb_{number}", {name: targets[name] for name in UNITS})


def _differ(stated: str | None, expected: str) -> bool:
    return stated is None or stated.lower() != expected.lower()
