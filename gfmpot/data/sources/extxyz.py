"""Any extended XYZ file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from itertools import islice
from pathlib import Path

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

    def marks(self, path: Path, every: int) -> list[int]:
        """Byte offsets of frames 0, ``every``, 2 ``every`` and so on, from which :meth:`read_from` can start."""
        return _offsets(path)[:-1:every].tolist()  # type: ignore[no-any-return]

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


def _offsets(path: Path) -> NDArray[np.int64]:
    state = path.stat()
    return _scan(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4)
def _scan(path: Path, size: int, modified: int) -> NDArray[np.int64]:
    """(S + 1,) byte offsets of the frames, and of the end; cached for this state of the file.

    The last frame may be cut off; those before it are not lost for that.

    Raises:
        ValueError: a frame that does not begin with a number of atoms.
    """
    found = [0]
    with path.open("rb") as file:
        for head in file:
            where = f"{path}: frame {len(found) - 1}"
            if not head.strip():
                if file.read().strip():
                    raise ValueError(f"{where} begins with an empty line, but is not the end of the file")
                break
            lines = [len(line) for line in islice(file, _number_of_atoms(head, where) + 1)]
            found.append(found[-1] + len(head) + sum(lines))
    return np.array(found, dtype=np.int64)


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
