"""Tables in the memory of many ranks through ORNL's DDStore, where it is installed.

Reference: Choi et al., "DDStore: Distributed data store for scalable training of graph neural networks on large
atomistic modeling datasets", SC'23 Workshops, 941; API as in docs/api-pyddstore.md of
https://github.com/ORNL/DDStore (``init``, ``update``, ``get``, ``epoch_begin``, ``epoch_end``, ``free``).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.formats.rank_memory import Piece, mpi_lock
from gfmpot.data.formats.records import WORD_BYTES

if TYPE_CHECKING:
    from mpi4py import MPI

Ints = NDArray[np.int64]

LONGEST_READ = 2**30
"""Bytes: DDStore passes the size of a read to MPI as a 32-bit number."""

_one_at_a_time = threading.Lock()
"""A read locks MPI's window for its target; a second thread must not do so meanwhile."""


def installed() -> bool:
    """Whether ``pyddstore`` can be imported."""
    return importlib.util.find_spec("pyddstore") is not None


class DDStoreMemory:
    """See :class:`gfmpot.data.formats.rank_memory.Memory`.

    The way of transfer is chosen by DDStore's own variable DDSTORE_METHOD: 0 (default) MPI, 1 libfabric.
    """

    needs_progress = True

    def __init__(self, group: MPI.Intracomm) -> None:
        mpi_lock()  # refuses an MPI that only one thread may call
        self.group = group
        if not installed():
            raise ImportError(
                "backend 'ddstore' needs pyddstore, which is built from https://github.com/ORNL/DDStore; "
                "leave the backend out to do without"
            )
        pyddstore = importlib.import_module("pyddstore")
        self.store: Any = pyddstore.PyDDStore(group, method=int(os.environ.get("DDSTORE_METHOD", "0")))
        self._readable = False

    def table(self, name: str, rows: int, words: int) -> DDStoreTable:
        """See :class:`Memory`."""
        return DDStoreTable(self, name, max(rows, 1), words)

    def publish(self) -> None:
        """See :class:`Memory`; opens the one epoch in which everything is read."""
        self.store.epoch_begin()
        self._readable = True
        self.group.Barrier()

    def free(self) -> None:
        """See :class:`Memory`."""
        if self._readable:
            self.store.epoch_end()
        self.store.free()


class DDStoreTable:
    """See :class:`gfmpot.data.formats.rank_memory.Table`.

    Filled through ``init`` and ``update``: ``add`` would need a second copy of the part.
    """

    def __init__(self, memory: DDStoreMemory, name: str, rows: int, words: int) -> None:
        self._store, self._name = memory.store, name
        counts = memory.group.allgather(rows)
        self._first = np.concatenate([[0], np.cumsum(counts)]).tolist()
        self._longest = max(1, LONGEST_READ // (words * WORD_BYTES))
        self._store.init(name, rows, words, WORD_BYTES)

    def write(self, start: int, rows: Ints) -> None:
        """See :class:`Table`."""
        self._store.update(self._name, np.ascontiguousarray(rows), start)

    def read(self, pieces: Sequence[Piece]) -> None:
        """See :class:`Table`."""
        with _one_at_a_time, mpi_lock():
            for owner, start, out in pieces:
                for done in range(0, len(out), self._longest):
                    self._store.get(self._name, out[done : done + self._longest], self._first[owner] + start + done)
