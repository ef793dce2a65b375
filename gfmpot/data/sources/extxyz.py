"""Any extended XYZ file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources._generic import AtomsSource, generic_info


@dataclass(frozen=True)
class ExtXyz(AtomsSource):
    """Frames of an ``.extxyz`` or ``.xyz``.

    A file is scanned once for where its frames begin, which costs one pass over its lines; a part of it is then read
    without the rest.
    """

    info = generic_info(
        "Extended XYZ files",
        format="extended XYZ",
        layout="https://wiki.fysik.dtu.dk/ase/ase/io/formatoptions.html#extxyz",
        charge_spin="'charge' (whole number) and 'spin' (multiplicity) in the comment line; else 0 and unspecified",
    )
    suffixes = (".extxyz", ".xyz")

    def count(self, path: Path) -> int:
        """Number of frames."""
        return len(_offsets(path)) - 1

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per record."""
        offsets = _offsets(path)
        stop = min(stop, len(offsets) - 1)
        yield from self.read_from(path, int(offsets[min(start, stop)]), start, start, stop)

    def read_from(self, path: Path, offset: int, first: int, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """Frames ``start`` to ``stop``, as :meth:`read` does, without a scan: frame ``first`` begins at ``offset``."""
        with path.open("rb") as file:
            file.seek(offset)
            for index in range(first, stop):
                head = file.readline()
                if not head.strip():
                    return
                lines = islice(file, _number_of_atoms(head, f"{path}: frame {index}") + 1)
                text = b"".join([head, *lines])
                if index >= start:
                    yield self.parsed(text.decode(errors="replace"), path, index)

    def parsed(self, text: str, path: Path, index: int) -> Frame | Rejected:
        """The frame in a text."""
        from ase.io.extxyz import read_xyz

        if cut := _cut(text):
            return Rejected(f"{path.name}:{index}", cut)
        try:
            atoms = next(read_xyz(StringIO(text), 0))
        except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
            return Rejected(f"{path.name}:{index}", f"not extended XYZ: {error!r}")
        return self.frame(atoms, path, index)


class Frames(NamedTuple):
    """Where the frames of a file are."""

    offsets: NDArray[np.int64]
    """(S + 1,) bytes, of each frame and of the end of the last."""

    problem: str
    """Why no frame is seen in what follows; empty at the end of the file."""


def scan(path: Path) -> Frames:
    """Where the frames of a file are, as far as they can be told apart.

    The last frame may be cut off; those before it are not lost for that.
    """
    state = path.stat()
    return _scan(path, state.st_size, state.st_mtime_ns)


def _offsets(path: Path) -> NDArray[np.int64]:
    """As :func:`scan`.

    Raises:
        ValueError: a frame that does not begin with a number of atoms.
    """
    offsets, problem = scan(path)
    if problem:
        raise ValueError(problem)
    return offsets


@lru_cache(maxsize=4)
def _scan(path: Path, size: int, modified: int) -> Frames:
    """Cached for this state of the file."""
    found, problem = [0], ""
    with path.open("rb") as file:
        for head in file:
            where = f"{path}: frame {len(found) - 1}"
            if not head.strip():
                if file.read().strip():
                    problem = f"{where} begins with an empty line, but is not the end of the file"
                break
            try:
                lines = islice(file, _number_of_atoms(head, where) + 1)
            except ValueError as error:
                problem = str(error)
                break
            found.append(found[-1] + len(head) + sum(map(len, lines)))
    return Frames(np.array(found, dtype=np.int64), problem)


def _cut(frame: str) -> str:
    """Why the text is not a whole frame; empty if it is one."""
    lines = frame.splitlines()
    atoms = int(lines[0])
    if len(lines) >= atoms + 2:
        return ""
    return f"the file is cut off: the frame of {atoms} atoms ends after {max(0, len(lines) - 2)} of them"


def _number_of_atoms(line: bytes, where: str) -> int:
    if not line.strip().isdigit() or int(line) == 0:
        raise ValueError(f"{where} should begin with a number of atoms, got {line[:40].decode(errors='replace')!r}")
    return int(line)
