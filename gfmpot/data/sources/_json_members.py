"""The members of one huge JSON array or object, each decoded on its own.

A dataset in one JSON document of 10 GB cannot be decoded whole. Where its members begin and end follows from quotes
and brackets alone, which numpy finds at the speed of reading; only the members asked for are then decoded.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
import threading
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 18
"""Bytes scanned at once: what fits into a processor's cache."""

QUOTE, BACKSLASH, OPENING, CLOSING = b'"\\{}'
DAMAGE = (OSError, EOFError, zlib.error)
"""What reading raises in files that are cut off or overwritten."""

ESCAPED_QUOTE = re.compile(rb'(?<!\\)(?:\\\\)*\\"')

Ints = NDArray[np.int64]
_NONE = np.zeros(0, dtype=np.int64)


class JsonMembers:
    """The members of the array or object at ``depth`` in a document, plain or compressed with bzip2 or gzip.

    ``depth`` 1 is the document itself, 2 the containers in it, and so on, of which that of number ``container`` is
    meant. The members are arrays or objects themselves.
    """

    def __init__(self, path: Path, depth: int, container: int = 0) -> None:
        self._path = path
        self._files: dict[tuple[int, int], IO[bytes]] = {}
        try:
            with _open(path) as file:
                self._starts, self._stops = _spans(file, depth, container)
        except (ValueError, *DAMAGE) as error:
            raise ValueError(f"{path}: {error}; if it was downloaded, do so again") from error

    def __len__(self) -> int:
        return len(self._starts)

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            file.close()

    def text(self, index: int) -> bytes:
        """Member ``index`` as it is in the file: a value, or for an object ``"key": value``."""
        # A compressed file is read on from where the thread's last reading ended, so reading in order costs one pass.
        who = (os.getpid(), threading.get_ident())
        if who not in self._files:
            self._files[who] = _open(self._path)
        file = self._files[who]
        file.seek(int(self._starts[index]))
        return file.read(int(self._stops[index] - self._starts[index])).lstrip(b", \r\n\t")

    def value(self, index: int) -> Any:
        """Member ``index`` of an array.

        Raises:
            ValueError: not JSON.
        """
        return json.loads(self.text(index))

    def item(self, index: int) -> tuple[str, Any]:
        """Key and value of member ``index`` of an object.

        Raises:
            ValueError: not JSON, or not a member of an object.
        """
        ((key, value),) = json.loads(b"{" + self.text(index) + b"}").items()
        return key, value


def json_members(path: Path, depth: int) -> JsonMembers:
    """The members at ``depth``; a file is scanned once per state and process.

    Raises:
        ValueError: cut off, damaged, or not JSON.
    """
    state = path.stat()
    return _members(path, depth, state.st_size, state.st_mtime_ns)


def beginning(path: Path, size: int = 4096) -> bytes:
    """The first bytes of the document, decompressed.

    Raises:
        ValueError: damaged.
    """
    try:
        with _open(path) as file:
            return file.read(size)
    except DAMAGE as error:
        raise ValueError(f"{path}: {error}; if it was downloaded, do so again") from error


@lru_cache(maxsize=4)
def _members(path: Path, depth: int, size: int, modified: int) -> JsonMembers:
    return JsonMembers(path, depth)


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return bz2.open(path) if path.suffix == ".bz2" else path.open("rb")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """The file in pieces none of which ends in a backslash, so that no escape sequence is cut."""
    held = b""
    while piece := file.read(CHUNK):
        piece = held + piece
        kept = piece.rstrip(b"\\")
        held = piece[len(kept) :]
        yield kept
    if held:
        raise ValueError("the JSON ends in a backslash: it is cut off")


def _spans(file: IO[bytes], depth: int, container: int) -> tuple[Ints, Ints]:
    """Offsets of the beginnings and ends of the members of a container at ``depth``.

    A member ends with its closing bracket; it begins after the one before, with a comma.
    """
    first, last, stops = [_NONE], [_NONE], [_NONE]
    offset, level, inside = 0, 0, False
    for chunk in _chunks(file):
        positions, steps, inside = _brackets(chunk, inside)
        levels = level + np.cumsum(steps, dtype=np.int64)
        ends = offset + positions + 1
        first.append(ends[(steps == 1) & (levels == depth)])
        stops.append(ends[(steps == -1) & (levels == depth)])
        last.append(ends[(steps == -1) & (levels == depth - 1)])
        level = int(levels[-1]) if len(levels) else level
        offset += len(chunk)
    begin, end = (np.concatenate(of)[container : container + 1] for of in (first, last))
    if level != 0 or inside or len(end) == 0:
        raise ValueError("the JSON is cut off" if level > 0 or inside else f"no JSON with brackets {depth} deep")
    found = np.concatenate(stops)
    found = found[(found > begin) & (found < end)]
    return np.append(begin, found[:-1])[: len(found)], found


def _brackets(chunk: bytes, inside: bool) -> tuple[Ints, NDArray[np.int8], bool]:
    """Positions of the brackets outside strings, +1 or -1 for each, and whether a string is open at the end."""
    data = np.frombuffer(chunk, dtype=np.uint8)
    folded = data | 0x20  # makes [ and { alike, and ] and }, and no other character one of them
    positions = np.flatnonzero((data == QUOTE) | (folded == OPENING) | (folded == CLOSING))
    if BACKSLASH in chunk:
        escaped = np.array([m.end() - 1 for m in ESCAPED_QUOTE.finditer(chunk)], dtype=np.int64)
        positions = positions[~np.isin(positions, escaped)]
    quotes = data[positions] == QUOTE
    open_string = (np.cumsum(quotes) + inside) % 2 == 1
    outside = positions[~quotes & ~open_string]
    steps = (folded[outside] == OPENING).astype(np.int8) * 2 - 1
    return outside, steps, bool(open_string[-1]) if len(open_string) else inside
