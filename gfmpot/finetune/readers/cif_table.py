"""Tables of properties whose structures are CIF files, as perovskites of OQMD and Materials Project are published."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from gfmpot.data.frame import Floats, Rejected
from gfmpot.finetune.reader import Example, Reader
from gfmpot.finetune.readers._cifs import Cifs
from gfmpot.finetune.readers._packed import PackedExamples

TRUTH = {"true": 1.0, "false": 0.0}
WITH_UNIT = re.compile(r"(?P<name>.*\S)\s*\((?P<unit>[^()]*)\)")


class CifTable(Reader):
    """Targets are the columns of numbers or truth values, called as in the table without a unit in brackets.

    The column that names the files is found by its content; frames are grouped by reduced formula.
    """

    title = "CIF table"
    forms = (
        "a .csv with a column of ids or names of CIF files, which are beside it: in folders or in a .zip "
        "(Liu-Group-UF/Perovskite-ML: oqmd_fm.csv with id, formation_energy and CIF_files/OQMD/*.cif)",
        "abc3_data.csv or oqmd_data.csv (chenebuah/ML_abx3_dataset) with <mp_id>.cif or <entry_id>.cif, as downloaded "
        "from Materials Project or OQMD, beside it",
        "id_prop.csv without a header (CGCNN): an id and properties, which are called column_2 and so on",
        "NumPy .npz with the packed layout of docs/data.md and columns target_<name>",
        "a folder with one such .csv in it",
    )
    where = (
        "https://github.com/chenebuah/ML_abx3_dataset (Chenebuah et al., arXiv:2312.11335), "
        "https://github.com/Liu-Group-UF/Perovskite-ML, https://oqmd.org (Saal et al., JOM 65, 1501 (2013))"
    )

    def units(self, path: Path) -> Mapping[str, str]:
        """Of the columns of numbers, as far as their names state it."""
        return self._table(path).units()

    def count(self, path: Path) -> int:
        """Number of rows."""
        return len(self._table(path))

    def read(self, path: Path, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The structures of those rows; only these are parsed."""
        yield from self._table(path).read(indices)

    def _table(self, path: Path) -> _Table | PackedExamples:
        file = self.single(path, "*.csv")
        if file.suffix == ".npz":
            return PackedExamples(file)
        state = file.stat()
        return _opened(file, state.st_size, state.st_mtime_ns)


class _Table:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._cifs = Cifs(path.parent)
        columns = _columns(path)
        column = _column_of_names(columns, self._cifs, path)
        self._names = [_stem(value) for value in columns[column]]
        numbers = {name: _numbers(values) for name, values in columns.items() if name not in ("", column)}
        self._stated = {name: values for name, values in numbers.items() if values is not None}
        self._called = _called(list(self._stated))
        if not self._stated:
            raise ValueError(f"{path}: expected a column of numbers beside {column!r}, got {', '.join(columns)}")

    def __len__(self) -> int:
        return len(self._names)

    def units(self) -> Mapping[str, str]:
        """Of the properties."""
        return dict(self._called.values())

    def read(self, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The structures of those rows."""
        for i in indices:
            name = self._names[i]
            targets = {self._called[column][0]: float(values[i]) for column, values in self._stated.items()}
            try:
                yield Example(self._cifs.frame(name), name, targets)
            except ValueError as error:
                yield Rejected(f"{self._path.name}:{name}", str(error))


@lru_cache(maxsize=2)
def _opened(path: Path, size: int, modified: int) -> _Table:
    """Cached for this state of the table; files beside it that appear later are not seen."""
    return _Table(path)


def _columns(path: Path) -> dict[str, list[str]]:
    """The cells of a table by column."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a table of comma-separated values: {error}") from error
    if not rows:
        raise ValueError(f"{path} is empty; expected a table of comma-separated values")
    without_header = any(_number(cell) is not None for cell in rows[0][1:] if cell)
    header = [f"column_{i + 1}" for i in range(len(rows[0]))] if without_header else [name.strip() for name in rows[0]]
    body = rows if without_header else rows[1:]
    for number, row in enumerate(body, 1):
        if len(row) != len(header):
            raise ValueError(
                f"{path}: row {number} has {len(row)} cells, the first line has {len(header)}: it is damaged or cut off"
            )
    return {name: [row[i].strip() for row in body] for i, name in enumerate(header)}


def _column_of_names(columns: Mapping[str, Sequence[str]], cifs: Cifs, path: Path) -> str:
    """The column that names most files."""
    if not cifs:
        raise FileNotFoundError(f"no CIF files in {path.parent}, its folders and its .zip archives, beside {path.name}")
    found = {name: sum(_stem(value) in cifs for value in values) for name, values in columns.items()}
    best = max(found, key=lambda name: found[name])
    if found[best] == 0:
        examples = ", ".join(f"{name}: {values[0]}" for name, values in columns.items() if values)
        raise ValueError(f"{path}: no column names any of {len(cifs)} CIF files beside it; the first row is {examples}")
    return best


def _stem(value: str) -> str:
    return value.removesuffix(".cif")


def _numbers(values: Sequence[str]) -> Floats | None:
    """Cells as numbers, empty ones as NaN; None if that is not what they are, or nothing is there."""
    numbers = [_number(value) for value in values]
    if None in numbers or not any(values):
        return None
    return np.array(numbers, dtype=np.float64)


def _number(value: str) -> float | None:
    try:
        return TRUTH.get(value.lower(), float(value) if value and value.lower() not in TRUTH else np.nan)
    except ValueError:
        return None


def _called(columns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name and unit by column: ``bulk_modulus (GPa)`` is bulk_modulus, unless another column would be called so too."""
    found = {column: match for column in columns if (match := WITH_UNIT.fullmatch(column))}
    names = [found[column]["name"] if column in found else column for column in columns]
    return {
        column: (name if names.count(name) == 1 else column, found[column]["unit"] if column in found else "")
        for column, name in zip(columns, names, strict=True)
    }
