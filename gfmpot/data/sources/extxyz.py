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
        from ase.io.extxyz import read_xyz

        offsets = _offsets(path)
        stop = min(stop, len(offsets) - 1)
        with path.open("rb") as file:
            file.seek(offsets[min(start, stop)])
            for index in range(start, stop):
                text = file.read(offsets[index + 1] - offsets[index]).decode(errors="replace")
                if cut := _cut(text):
                    yield Rejected(f"{path.name}:{index}", cut)
                    continue
                try:
                    atoms = next(read_xyz(StringIO(text), 0))
                except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
                    yield Rejected(f"{path.name}:{index}", f"not extended XYZ: {error!r}")
                else:
                    yield self.frame(atoms, path, index)


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
