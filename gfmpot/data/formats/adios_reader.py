"""Reads one split from its ADIOS2 BP5 directory.

Of ADIOS2's two ways to get data, the immediate one is the faster for single structures: 0.2 million reads per second
against 0.03 to 0.09 million when deferred. What there is once per structure is held in memory where it
fits, so that a structure costs three reads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.formats.adios_writer import bindings
from gfmpot.data.formats.layout import FIELDS, PER_STRUCTURE
from gfmpot.data.frames import FrameSet

Ints = NDArray[np.int64]
Span = tuple[int, int]


_OPENING: dict[int, threading.Lock] = {}
"""By process."""


class SplitReader:
    """An open BP5 directory; it is opened on first use, in each process anew.

    Millions of structures pass here one by one, so that microseconds count: 3 of them are what a read costs.
    """

    def __init__(self, path: Path, hold: int) -> None:
        self.path, self._hold = path, hold
        self._process: int | None = None
        self._locks: dict[int, threading.Lock] = {}
        """By process."""

        self._offsets: Ints | None = None
        self._held: _Held | None = None

    def __getstate__(self) -> tuple[Path, int]:
        return self.path, self._hold

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @property
    def atom_offsets(self) -> Ints:
        """(S + 1,)."""
        with self._opened():
            assert self._offsets is not None
            return self._offsets

    def frames(self, rows: list[int], name: str) -> FrameSet:
        """The structures ``rows`` of the file."""
        with self._opened():
            assert self._offsets is not None
            runs, index = _runs(rows), np.array(rows, dtype=np.int64)
            spans = [(int(self._offsets[a]), int(self._offsets[b])) for a, b in runs]
            numbers, positions = self._read("numbers", spans), self._read("positions", spans)
            forces, row, groups = self._read("forces", spans), self._rows(runs, index), self._groups(runs)
            counts = (self._offsets[index + 1] - self._offsets[index]).tolist()
        return FrameSet(
            name,
            numbers=numbers.astype(np.int64),
            positions=positions,
            offsets=np.array([0, *accumulate(counts)], dtype=np.int64),
            energy=row["energy"],
            forces=forces.astype(np.float64),
            stress=row["stress"].astype(np.float64),
            cell=row["cell"],
            pbc=row["pbc"].astype(bool),
            charge=row["charge"].astype(np.int64),
            spin=row["spin"].astype(np.int64),
            group=np.array(groups, dtype=np.str_),
        )

    def values(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop`` of one global array, from the disk."""
        with self._opened():
            return self._read(name, [(start, stop)])

    def _rows(self, runs: Sequence[Span], index: Ints) -> Mapping[str, NDArray[Any]] | NDArray[Any]:
        """All fields that there are once per structure, by name; copies, since callers may change them."""
        if self._held is None:
            return {name: self._read(name, runs) for name in PER_STRUCTURE}
        records = self._held.records
        return records[slice(*runs[0])].copy() if len(runs) == 1 else records[index]

    def _groups(self, runs: Sequence[Span]) -> list[str]:
        """Decoded names of the groups."""
        names: list[str] = []
        for a, b in runs:
            if self._held:
                ends, origin, text = self._held.group_offsets[a : b + 1].tolist(), 0, self._held.groups
            else:
                ends = self._read("group_offsets", [(a, b + 1)]).tolist()
                origin, text = ends[0], self._read("group", [(ends[0], ends[-1])]).tobytes()
            names += [text[i - origin : j - origin].decode() for i, j in pairwise(ends)]
        return names

    def _read(self, name: str, spans: Sequence[Span]) -> NDArray[Any]:
        """Some stretches of a global array, one after another; ADIOS2 itself does not notice what is out of bounds."""
        dtype, zeros, shape = _SHAPES[name]
        values = np.empty((sum([b - a for a, b in spans]), *shape), dtype)
        at = 0
        for a, b in spans:
            if b > a:
                variable = self._variables[name]
                variable.SetSelection([[a, *zeros], [b - a, *shape]])
                try:
                    self._engine.Get(variable, values[at : at + b - a], self._sync)
                except RuntimeError as error:
                    raise OSError(_failure(self.path, f"{name}, rows {a} to {b}", error)) from None
                at += b - a
        return values

    def _opened(self) -> threading.Lock:
        """The lock to hold while reading; a fork inherits neither it nor the open files."""
        process = os.getpid()
        # Atomic, so that threads that come together get the same ones; opening is one at a time for all readers.
        opening = _OPENING.setdefault(process, threading.Lock())
        lock = self._locks.setdefault(process, threading.Lock())
        if self._process != process:
            with opening:
                if self._process != process:
                    self._open()
        return lock

    def _open(self) -> None:
        adios = bindings()
        self._sync = adios.Mode.Sync
        self._library = adios.ADIOS()  # owns all that follows
        io = self._library.DeclareIO("read")
        io.SetEngine("BP5")
        try:
            self._engine = io.Open(str(self.path), adios.Mode.ReadRandomAccess)
        except RuntimeError as error:
            raise OSError(_failure(self.path, "the directory", error)) from None
        self._variables = {name: io.InquireVariable(name) for name in io.AvailableVariables()}
        if self._offsets is None:
            self._load()
        self._process = os.getpid()

    def _load(self) -> None:
        rows = {name: int(variable.Shape()[0]) for name, variable in self._variables.items()}
        n, characters = rows["energy"], rows.get("group", 0)
        self._offsets = self._read("atom_offsets", [(0, n + 1)])
        if n * (RECORD.itemsize + 8) + characters > self._hold:
            return
        records = np.empty(n, RECORD)
        for name in PER_STRUCTURE:
            records[name] = self._read(name, [(0, n)])
        text = self._read("group", [(0, characters)]).tobytes()
        self._held = _Held(records, self._read("group_offsets", [(0, n + 1)]), text)


RECORD = np.dtype([(name, FIELDS[name].dtype, FIELDS[name].row) for name in PER_STRUCTURE], align=True)
"""All that there is once per structure, side by side, so that it is fetched at once."""

_SHAPES = {name: (np.dtype(f.dtype), [0] * len(f.row), list(f.row)) for name, f in FIELDS.items()}
"""Type of each field, first index and shape of its rows."""


@dataclass(frozen=True)
class _Held:
    """What there is once per structure, in memory."""

    records: NDArray[Any]  # (S,) of type RECORD
    group_offsets: Ints  # (S + 1,)
    groups: bytes


def _runs(rows: list[int]) -> list[Span]:
    """Stretches of consecutive numbers, as (first, last + 1)."""
    runs: list[Span] = []
    for row in rows:
        if runs and row == runs[-1][1]:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return runs


def _failure(path: Path, what: str, error: Exception) -> str:
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{path}: ADIOS2 cannot read {what}; `gfmpot data verify {path.parent}` tells what is damaged ({said})"
