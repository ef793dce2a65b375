"""Records of a run, and the JSONL file that keeps them.

A record is a mapping with a ``kind`` ("start", "train", "valid", "telemetry", "parity") and mostly a ``step``; its
numbers may be nested in mappings and lists.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]


class JsonLines:
    """Appends each record as one line of JSON, ``time``, ``step`` and ``kind`` first; NaN and infinity become null.

    A line is one write to a file in append mode, so that a reader never meets half of one; a line that an earlier
    process was killed in is ended, and :func:`read_records` passes over it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def write(self, record: Record) -> None:
        """Append it.

        Raises:
            OSError: the disk is full.
        """
        first = {key: record[key] for key in ("time", "step", "kind") if key in record}
        text = json.dumps(_finite(plain({**first, **record})), separators=(",", ":"), allow_nan=False)
        line = text.encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self._path}: only part of a record was written; is the disk full?")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a JSONL log, and how many lines are none: torn by a kill, or being written right now."""
    records, torn = [], 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in filter(str.strip, file):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                torn += 1
                continue
            records.append(record)
    return [record for record in records if isinstance(record, dict)], torn


def scalars(record: Record, prefix: str = "") -> Iterator[tuple[str, float]]:
    """The finite numbers of a record with their paths, e.g. ``("energy/mptrj-pbe-u", 0.012)``; lists are numbered."""
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{key}/")
        elif isinstance(value, list | tuple):
            yield from scalars(dict(enumerate(value)), f"{prefix}{key}/")  # type: ignore[arg-type]
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{key}", float(value)


def plain(value: Any) -> Any:
    """In Python's own types; arrays, tensors and NumPy's numbers too."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value) if isinstance(value, Path) else value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
