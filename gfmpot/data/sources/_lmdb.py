"""LMDB files, opened for reading."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any


class Lmdb:
    """One LMDB file, read-only and without a lock file, so that any number of processes can read it.

    :meth:`open` gives the same object for the same path while somebody holds it, because the library refuses to map a
    file twice in a process; it closes itself when nobody does. Safe to use from several threads and after a fork.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._environment = _environment(path)

    @classmethod
    def open(cls, path: Path) -> Lmdb:
        """The file at ``path``.

        Raises:
            ImportError: the package ``lmdb`` is not installed.
            ValueError: not an LMDB file, or shorter than its own header says.
        """
        key = path.resolve()
        with _OPENING:
            found = _OPEN.get(key)
            if found is None:
                found = _OPEN[key] = cls(path)
            return found

    def get(self, key: str) -> bytes | None:
        """The value stored under ``key``, or None."""
        with self._environment.begin() as transaction:
            value: bytes | None = transaction.get(key.encode("ascii"))
            return value

    def entries(self) -> int:
        """Number of keys."""
        return int(self._environment.stat()["entries"])


_OPEN: weakref.WeakValueDictionary[Path, Lmdb] = weakref.WeakValueDictionary()
_OPENING = threading.Lock()


def _environment(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(f'reading {path.name} needs the package lmdb: pip install "gfmpot[lmdb]"') from error
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, create=False, max_readers=1)
    except lmdb.Error as error:
        raise ValueError(f"{path}: cannot be opened as an LMDB file ({error})") from error
    # The file is mapped into memory: reading past its end would kill the process rather than raise.
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = path.stat().st_size
    if size < needed:
        environment.close()
        raise ValueError(
            f"{path}: truncated, {size} bytes where its header counts {needed}; download it again (if it is whole, its "
            f"last pages were never written: rewrite it with 'mdb_copy -n -c OLD NEW')"
        )
    return environment
