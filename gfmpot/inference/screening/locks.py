"""Who works at what, among processes that share nothing but a folder."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

_TAKEN = (errno.EACCES, errno.EAGAIN)
_FIRST_OF_ALL = 1 << 60
"""Byte that stands for what is not a block."""


class Locks:
    """Numbered locks in one file, one byte each. The system releases them when a process ends, however it ends.

    They only save work: what two processes do twice is written under the same name, whole, and once; the content is
    the same but for what the order of sums on a GPU changes. Where a file system has no locks, everybody gets every
    lock. They are POSIX locks: of the process, so that two objects of one process do not exclude each other.
    """

    def __init__(self, path: Path) -> None:
        self.work = True
        """Whether the file system has locks, as far as was seen."""

        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def take(self, number: int) -> bool:
        """Take a lock; False if another process has it."""
        return self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)

    def release(self, number: int) -> None:
        """Give a lock back."""
        self._lock(fcntl.LOCK_UN, 1, number)

    def alone(self) -> bool:
        """Whether no other process has any lock."""
        alone = self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB, 0, 0)
        self._lock(fcntl.LOCK_UN, 0, 0)
        return alone

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """What must not be done by two at once; waits for the other."""
        self._lock(fcntl.LOCK_EX, 1, _FIRST_OF_ALL)
        try:
            yield
        finally:
            self._lock(fcntl.LOCK_UN, 1, _FIRST_OF_ALL)

    def _lock(self, how: int, length: int, start: int) -> bool:
        try:
            fcntl.lockf(self._file, how, length, start)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            self.work = False
        return True

    def __enter__(self) -> Locks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
