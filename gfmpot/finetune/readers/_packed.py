"""Packed ``.npz`` files of ``docs/data.md`` with a column ``target_<name>`` for each property."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Rejected
from gfmpot.data.sources._npz import Arrays, load_arrays
from gfmpot.data.sources._packed import Packed
from gfmpot.data.sources._scale import ASE_UNITS
from gfmpot.finetune.reader import Example

PREFIX = "target_"
STRUCTURES = ("natoms", "numbers", "positions")


class PackedExamples:
    """The structures of a packed file with their properties.

    Args:
        path: the file.
        suffix: of the arrays ``energy<suffix>`` and ``forces<suffix>`` that are the labels.

    Raises:
        ValueError: not a packed file, without the labels, or with columns of another length.
    """

    def __init__(self, path: Path, suffix: str = "") -> None:
        self.path = path
        self.arrays = _with_labels(load_arrays(path), suffix, path)
        self._packed = Packed(self.arrays, path.stem, path.name, needed=STRUCTURES)
        self._columns = _columns(self.arrays, len(self._packed), path)
        self._keys = _keys(self.arrays, len(self._packed), path.stem)

    def __len__(self) -> int:
        return len(self._packed)

    def units(self) -> Mapping[str, str]:
        """Of the properties, as the file's ``meta`` states them."""
        stated = _metadata(self.arrays, self.path).get("target_units", {})
        return {
            name: "" if column.dtype == bool else stated if isinstance(stated, str) else stated.get(PREFIX + name, "")
            for name, column in self._columns.items()
        }

    def read(self, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The structures at ``indices``."""
        for i in indices:
            for frame in self._packed.frames(i, i + 1, ASE_UNITS):
                if isinstance(frame, Rejected):
                    yield frame
                else:
                    yield Example(frame, self._keys[i], {name: float(c[i]) for name, c in self._columns.items()})


def _with_labels(arrays: Arrays, suffix: str, path: Path) -> Arrays:
    chosen = {name: arrays[name + suffix] for name in ("energy", "forces") if name + suffix in arrays}
    if suffix and not chosen:
        raise ValueError(f"{path}: no labels energy{suffix} and forces{suffix}; it has {', '.join(sorted(arrays))}")
    return {**{name: a for name, a in arrays.items() if name not in ("energy", "forces")}, **chosen}


def _columns(arrays: Arrays, size: int, path: Path) -> Arrays:
    columns = {name.removeprefix(PREFIX): a for name, a in arrays.items() if name.startswith(PREFIX)}
    for name, column in columns.items():
        if column.shape != (size,) or column.dtype.kind not in "fiub":
            raise ValueError(
                f"{path}: expected {PREFIX}{name} to be a number for each of {size} structures, got {column.dtype} of "
                f"shape {column.shape}"
            )
    return columns


def _keys(arrays: Arrays, size: int, name: str) -> Sequence[str]:
    """What ``key``, or else the first array called ``..._id``, says; else the file's name and the number."""
    found = [a for key, a in arrays.items() if (key == "key" or key.endswith("_id")) and a.shape == (size,)]
    if not found:
        return [f"{name}:{i}" for i in range(size)]
    return [_text(value) for value in arrays.get("key", found[0])]


def _text(value: NDArray[np.generic]) -> str:
    whole = np.issubdtype(np.asarray(value).dtype, np.floating) and float(value) == int(value)
    return str(int(value)) if whole else str(value)


def _metadata(arrays: Arrays, path: Path) -> Mapping[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON in the array meta, got {str(arrays['meta'])[:60]!r}") from error
    return loaded
