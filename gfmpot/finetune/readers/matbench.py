"""Matbench's tasks on crystal structures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gfmpot.data.frame import Rejected
from gfmpot.data.sources._json_members import JsonMembers, beginning
from gfmpot.data.sources._pymatgen import crystal, reason
from gfmpot.finetune.reader import Example, Reader
from gfmpot.finetune.readers._compounds import grouped_by_formula

UNITS = {
    "matbench_dielectric": {"n": ""},
    "matbench_jdft2d": {"exfoliation_en": "meV/atom"},
    "matbench_log_gvrh": {"log10(G_VRH)": "log10(GPa)"},
    "matbench_log_kvrh": {"log10(K_VRH)": "log10(GPa)"},
    "matbench_mp_e_form": {"e_form": "eV/atom"},
    "matbench_mp_gap": {"gap pbe": "eV"},
    "matbench_mp_is_metal": {"is_metal": ""},
    "matbench_perovskites": {"e_form": "eV/unit cell"},
    "matbench_phonons": {"last phdos peak": "cm^-1"},
}
"""By task: what its column is called, and in which unit it is (``matbench_v0.1_dataset_metadata.json``)."""

HEAD = 1 << 23
"""Bytes: what precedes the data, an index of at most 132,752 numbers, is shorter."""


class Matbench(Reader):
    """Structures are keyed as the package ``matbench`` does, by their place: mb-jdft2d-001, mb-mp-is-metal-000001.

    Frames are grouped by reduced formula; the official folds do not keep such groups together.
    """

    title = "Matbench"
    forms = tuple(f"{task}.json.gz ({', '.join(columns)})" for task, columns in UNITS.items())
    where = (
        "https://matbench.materialsproject.org; Dunn et al., npj Comput. Mater. 6, 138 (2020), "
        "doi:10.1038/s41524-020-00406-3"
    )

    def units(self, path: Path) -> Mapping[str, str]:
        """Of the task that the file is named for."""
        return self._table(path).units

    def count(self, path: Path) -> int:
        """Number of structures."""
        return len(self._table(path).rows)

    def read(self, path: Path, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The structures at ``indices``; only these are decoded."""
        table = self._table(path)
        for i in indices:
            yield table.example(i)

    def _table(self, path: Path) -> _Table:
        state = self.existing(path).stat()
        return _opened(path, state.st_size, state.st_mtime_ns)


class _Table:
    """The JSON of a data frame: ``index``, ``columns`` and ``data``, a row for each structure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns, container = _head(path)
        task = re.sub(r"\.json(\.gz|\.bz2)?$", "", path.name)
        targets = [name for name in self._columns if name != "structure"]
        if "structure" not in self._columns or not targets:
            raise ValueError(
                f"{path}: expected the columns of a task on structures, structure and a property; got "
                f"{', '.join(self._columns)}. Tasks on compositions have no structures to learn from"
            )
        self.units = {name: UNITS.get(task, {}).get(name, "") for name in targets}
        self.rows = JsonMembers(path, depth=2, container=container)
        self._prefix = task.replace("matbench", "mb").replace("_", "-")

    def example(self, index: int) -> Example | Rejected:
        """The structure in row ``index`` with its properties."""
        where, key = f"{self._path.name}:{index}", f"{self._prefix}-{index + 1:0{len(str(len(self.rows)))}d}"
        try:
            row = dict(zip(self._columns, self.rows.value(index), strict=True))
            frame = grouped_by_formula(crystal(row["structure"], None, None, None, ""))
            return Example(frame, key, {name: _number(row[name]) for name in self.units})
        except (ValueError, TypeError, KeyError) as error:
            return Rejected(where, reason(error))


@lru_cache(maxsize=2)
def _opened(path: Path, size: int, modified: int) -> _Table:
    """Cached for this state of the file, which is scanned once."""
    return _Table(path)


def _number(value: Any) -> float:
    if value is None:
        return np.nan
    if not isinstance(value, bool | int | float):
        raise ValueError(f"expected a number or a boolean as target, got {str(value)[:60]!r}")
    return float(value)


def _head(path: Path) -> tuple[list[str], int]:
    """The columns, and how many containers precede the data.

    Raises:
        ValueError: not the JSON of a data frame.
    """
    text = beginning(path, HEAD).decode(errors="replace")
    found: dict[str, list[Any]] = {}
    decoder, position = json.JSONDecoder(), 1
    try:
        while match := re.compile(r'[\s,]*"(index|columns)"\s*:\s*').match(text, position):
            found[match[1]], position = decoder.raw_decode(text, match.end())
    except ValueError as error:
        raise ValueError(f"{path}: the JSON is damaged or cut off: {error}") from error
    if "columns" not in found or not re.compile(r'[\s,]*"data"\s*:').match(text, position):
        raise ValueError(
            f"{path}: expected the JSON of a data frame, an object of index, columns and data, got {text[:60]!r}"
        )
    return [str(name) for name in found["columns"]], len(found)
