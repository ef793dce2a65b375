"""Frames of extended XYZ files by their number, plain or compressed with xz."""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from functools import lru_cache
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms

UNREADABLE = (ValueError, KeyError, IndexError, TypeError, OSError)
"""What ASE raises on text that is not extended XYZ."""


def count_frames(path: Path) -> int:
    """Number of frames.

    Raises:
        ValueError: cut off, or a frame does not begin with a number of atoms.
    """
    return len(_offsets(path)) - 1


def read_frames(path: Path, start: int, stop: int) -> Iterator[Atoms | ValueError]:
    """Frames ``start`` to ``stop``; one that cannot be parsed comes as the error.

    Raises:
        ValueError: as :func:`count_frames`.
    """
    from ase.io.extxyz import read_xyz

    offsets = _offsets(path)
    with _open(path) as file:
        file.seek(offsets[min(start, len(offsets) - 1)])
        for index in range(start, min(stop, len(offsets) - 1)):
            text = file.read(offsets[index + 1] - offsets[index]).decode(errors="replace")
            try:
                yield next(read_xyz(StringIO(text), 0))
            except UNREADABLE as error:
                yield ValueError(f"not extended XYZ: {error!r}")


def _open(path: Path) -> IO[bytes]:
    return lzma.open(path) if path.suffix == ".xz" else path.open("rb")


def _offsets(path: Path) -> NDArray[np.int64]:
    state = path.stat()
    return _scan(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _scan(path: Path, size: int, modified: int) -> NDArray[np.int64]:
    """(S + 1,) offsets of the frames in the uncompressed text, and of its end; cached for this state of the file."""
    found = [0]
    try:
        with _open(path) as file:
            for head in file:
                if not head.strip():
                    break
                found.append(found[-1] + len(head) + _rest(file, head, f"{path}: frame {len(found) - 1}"))
    except (EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{path}: damaged or cut off after frame {len(found) - 2} ({error})") from error
    return np.array(found, dtype=np.int64)


def _rest(file: IO[bytes], head: bytes, frame: str) -> int:
    """Bytes of the frame after its first line, which is ``head``."""
    atoms = int(head) if head.strip().isdigit() else 0
    if atoms == 0:
        raise ValueError(f"{frame} should begin with a number of atoms, got {head[:40].decode(errors='replace')!r}")
    lines = [len(line) for line in islice(file, atoms + 1)]
    if len(lines) < atoms + 1:
        raise ValueError(f"{frame} of {atoms} atoms ends after {len(lines)} of {atoms + 1} lines: the file is cut off")
    return sum(lines)
