"""What is screened: files, how many records they have, and the blocks in which the work is divided."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from gfmpot.config import similar_name
from gfmpot.data.formats.adios import AdiosStore
from gfmpot.data.formats.manifest import NAME as MANIFEST
from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources.extxyz import scan
from gfmpot.inference.screening.formats import KINDS, WHOLE, BareExtXyz, Defaults, format_of

RESULTS = "results.parquet"
"""A folder that has one is the output of a screening."""

UNREADABLE = (ValueError, OSError)
"""What readers raise on files that are not what their names say."""

HIDDEN = "hidden"
"""Stands for the ending of files and folders whose names begin with a dot."""

GONE = (-1, -1)
"""State of what is not there: a link that leads nowhere, a store without its manifest."""


@dataclass(frozen=True)
class Input:
    """A file, as it was when the run was planned."""

    path: str
    """As the user wrote it, or below the folder that the user wrote."""

    kind: str
    size: int
    modified: int
    """Bytes and time in ns, by which a change is noticed."""

    records: int = 0
    marks: tuple[int, ...] = ()
    """Byte offsets of every :attr:`every`-th record, where they are not found without a scan."""

    every: int = 1
    problem: str = ""
    """Why nothing of it can be read, or nothing after its ``records``."""

    def check(self) -> None:
        """Whether the file is still what was planned with.

        Raises:
            ValueError: it changed.
            FileNotFoundError: it is gone.
        """
        then = self.size, self.modified
        try:
            now = _state(Path(self.path), self.kind)
        except OSError:
            if then != GONE:
                raise
            now = GONE
        if now != then:
            raise ValueError(f"{self.path} has changed since this run was planned: begin anew with --overwrite")


@dataclass(frozen=True)
class Span:
    """Records ``start`` to ``stop`` of input number ``input``."""

    input: int
    start: int
    stop: int


@dataclass(frozen=True)
class Block:
    """Work that is done at once and written as one file."""

    number: int
    spans: tuple[Span, ...]

    @property
    def records(self) -> int:
        """How many there are."""
        return sum(span.stop - span.start for span in self.spans)


class Blocks:
    """Records of all inputs one after another, ``size`` to a block; a :class:`Block` is made when it is asked for."""

    def __init__(self, inputs: Sequence[Input], size: int) -> None:
        self.size = size
        self._ends = np.cumsum([item.records for item in inputs])
        self.records = int(self._ends[-1]) if len(inputs) else 0

    def __len__(self) -> int:
        return -(-self.records // self.size)

    def __getitem__(self, number: int) -> Block:
        first, last = number * self.size, min((number + 1) * self.size, self.records)
        low = int(np.searchsorted(self._ends, first, side="right"))
        high = int(np.searchsorted(self._ends, last, side="left"))
        cuts = [first, *self._ends[low:high].tolist(), last]
        starts = np.concatenate([[0], self._ends])
        spans = (Span(i, a - int(starts[i]), b - int(starts[i])) for i, (a, b) in enumerate(pairwise(cuts), low))
        return Block(number, tuple(span for span in spans if span.stop > span.start))

    def number_of(self, item: int, record: int) -> int:
        """The block in which a record of an input is."""
        before = int(self._ends[item - 1]) if item else 0
        return (before + record) // self.size


def find(paths: Iterable[Path]) -> tuple[list[tuple[Path, str]], dict[str, int]]:
    """The files to read with their kinds, each once, and by ending how many files in folders are of no known kind.

    Folders are searched to any depth, links included, in order of name; a store stands for its splits.

    Raises:
        FileNotFoundError: a path that does not exist, or a folder without anything to screen.
    """
    found: dict[str, tuple[Path, str]] = {}
    others: Counter[str] = Counter()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}{similar_name(path)}")
        inside = list(_files(path, others)) if path.is_dir() and path.suffix != ".bp" else [path]
        if not inside:
            raise FileNotFoundError(f"{path}: no structures in it; looked for {', '.join(KINDS)}")
        for file in (split for entry in inside for split in _splits(entry)):
            found.setdefault(os.path.realpath(file), (file, KINDS.get(file.suffix, WHOLE)))
    return list(found.values()), dict(others)


def survey(path: Path, kind: str, defaults: Defaults, every: int) -> Input:
    """Count a file's records. What cannot be read has a :attr:`Input.problem`.

    Args:
        path: the file.
        kind: of :data:`KINDS`.
        defaults: as for reading.
        every: distance of marks.
    """
    size, modified = GONE
    try:
        size, modified = _state(path, kind)
        records, marks, problem = _counted(path, kind, defaults, every)
    except UNREADABLE as error:
        return Input(str(path), kind, size, modified, problem=str(error))
    problem = problem if records or problem else f"{path}: there is no structure in it"
    return Input(str(path), kind, size, modified, records, marks, every, problem)


def _counted(path: Path, kind: str, defaults: Defaults, every: int) -> tuple[int, tuple[int, ...], str]:
    """Number of records, marks, and what is wrong with the rest of the file."""
    if kind == "store" and (path / MANIFEST).is_file():
        AdiosStore(path)  # a damaged one, whose splits are not known: raises
    if kind != "extxyz":
        return format_of(kind, defaults).count(path), (), ""
    offsets, problem = scan(path)
    return len(offsets) - 1, tuple(offsets[:-1:every].tolist()), problem


def structures(item: Input, start: int, stop: int, defaults: Defaults) -> Iterator[tuple[int, Frame | str]]:
    """The structures of records ``start`` to ``stop`` with their indices; for what cannot be read, the reason.

    An index is that of the record, or of the structure in a file that is one record. Each record comes, whatever
    happens: a file that breaks off gives a reason for each of those that are missing.

    Raises:
        ValueError, FileNotFoundError: the file changed since the run was planned.
    """
    item.check()
    following, reason = start, ""
    nothing = "there is no structure in it" if item.kind == WHOLE else "the file ends before it"
    try:
        for entry in _read(item, start, stop, defaults):
            yield following, entry if isinstance(entry, Frame) else entry.reason
            following += 1
    except UNREADABLE as error:
        reason = f"it and what follows could not be read: {error}"
    if item.kind == WHOLE:
        missing = range(following, following + (bool(reason) or following == 0))
    else:
        missing = range(following, stop)
    for index in missing:
        yield index, reason or nothing


def _read(item: Input, start: int, stop: int, defaults: Defaults) -> Iterator[Frame | Rejected]:
    path = Path(item.path)
    if item.marks:
        mark = start // item.every
        return BareExtXyz(defaults=defaults).read_from(path, item.marks[mark], mark * item.every, start, stop)
    return format_of(item.kind, defaults).read(path, start, stop)


def _state(path: Path, kind: str) -> tuple[int, int]:
    if kind == "store":
        path = path if (path / MANIFEST).is_file() else path.parent
        path /= MANIFEST
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _files(folder: Path, others: Counter[str]) -> Iterator[Path]:
    """What can be screened in a folder; neither stores nor results of screenings are looked into."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if RESULTS in folders or here in seen:  # links may lead in circles
            folders.clear()
            continue
        seen.add(here)
        shown = [name for name in folders if not name.startswith(".")]
        stores = [name for name in shown if name.endswith(".bp")]
        entries = sorted([*(name for name in names if not name.startswith(".")), *stores])
        if hidden := len(folders) - len(shown) + len(names) + len(stores) - len(entries):
            others[HIDDEN] += hidden
        folders[:] = sorted(set(shown) - set(stores))
        for path in (Path(place, name) for name in entries):
            if path.suffix in KINDS or path.name.startswith(("POSCAR", "CONTCAR")):
                yield path
            else:
                others[path.suffix or path.name] += 1


def _splits(path: Path) -> list[Path]:
    """The directories of a store that hold structures; any other path as it is, a damaged store's too."""
    if path.suffix != ".bp" or not (path / MANIFEST).is_file():
        return [path]
    try:
        return [path / f"{name}.bp" for name in AdiosStore(path).splits]
    except UNREADABLE:
        return [path]
