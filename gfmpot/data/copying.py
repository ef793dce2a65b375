"""Copies of files and folders, in several threads, with checksums; a copy that was cut off is taken up again."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

CHUNK = 64 * 2**20
"""Bytes that one thread copies at a time, and that one checksum covers."""

PIECE = 4 * 2**20
"""Bytes in memory at a time, per thread."""

UNFINISHED = ".unfinished"
"""Ending of a file that is being copied."""


class Stamp(NamedTuple):
    """What tells, without reading it, that a file is not as it was."""

    size: int
    mtime_ns: int


def stamps(path: Path, *, follow: bool = True) -> dict[str, Stamp]:
    """Every file at or below ``path``, by its name relative to the parent of ``path``.

    Args:
        path: a file or folder.
        follow: whether links count as what they point to; otherwise they are left out.

    Raises:
        FileNotFoundError: ``path`` does not exist.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    found = {}
    for file in _files(path, follow):
        if follow or not file.is_symlink():
            stat = file.stat()
            found[file.relative_to(path.parent).as_posix()] = Stamp(stat.st_size, stat.st_mtime_ns)
    return found


def _files(path: Path, follow: bool) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, folders, files in os.walk(path, followlinks=follow):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(files))


def checksums(file: Path) -> list[int]:
    """CRC-32 of each chunk of a file."""
    size = file.stat().st_size
    return [crc32_of(file, start, min(CHUNK, size - start)) for start in range(0, max(size, 1), CHUNK)]


def crc32_of(file: Path, start: int, length: int) -> int:
    """CRC-32 of ``length`` bytes from ``start``."""
    crc = 0
    with file.open("rb") as handle:
        handle.seek(start)
        while length > 0 and (piece := handle.read(min(PIECE, length))):
            crc = zlib.crc32(piece, crc)
            length -= len(piece)
    return crc


def copy(source: Path, folder: Path, threads: int) -> dict[str, list[int]]:
    """Copy a file or folder into ``folder`` and return the checksums of each file by its relative name.

    A file appears under its own name only when it is complete, with the time stamp of the original; such a file,
    left by a copy that was cut off, is not copied again.

    Raises:
        OSError: reading or writing failed.
    """
    jobs = [_Job(source.parent / name, folder / name, stamp) for name, stamp in stamps(source).items()]
    with ThreadPoolExecutor(threads, thread_name_prefix="gfmpot-copy") as pool:
        try:
            done = [pool.submit(job.chunk, i) for job in jobs for i in range(len(job.sums))]
            for future in done:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {job.source.relative_to(source.parent).as_posix(): job.sums for job in jobs}


@dataclass
class _Job:
    """One file on its way."""

    source: Path
    target: Path
    stamp: Stamp
    sums: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.sums = [0] * max(1, -(-self.stamp.size // CHUNK))
        self._left = len(self.sums)
        self._lock = threading.Lock()
        self._part = self.target.with_name(self.target.name + UNFINISHED)
        self.complete = self.target.exists() and stamps(self.target)[self.target.name] == self.stamp
        if not self.complete:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            with self._part.open("wb") as handle:
                handle.truncate(self.stamp.size)  # chunks are written in any order

    def chunk(self, i: int) -> None:
        """Copy chunk ``i``; the last one to be done finishes the file."""
        start = i * CHUNK
        length = min(CHUNK, self.stamp.size - start)
        if self.complete:
            self.sums[i] = crc32_of(self.target, start, length)
            return
        self.sums[i] = self._transfer(start, length)
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            os.utime(self._part, ns=(self.stamp.mtime_ns, self.stamp.mtime_ns))
            self._part.replace(self.target)

    def _transfer(self, start: int, length: int) -> int:
        crc = 0
        with self.source.open("rb") as read, self._part.open("r+b") as write:
            read.seek(start)
            write.seek(start)
            while length > 0:
                piece = read.read(min(PIECE, length))
                if not piece:
                    raise OSError(f"{self.source} became shorter while it was copied")
                crc = zlib.crc32(piece, crc)
                write.write(piece)
                length -= len(piece)
        return crc
