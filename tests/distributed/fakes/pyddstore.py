"""Stands in for ORNL's DDStore, which has no wheel: the methods of its docs/api-pyddstore.md, with MPI windows.

As there, a read locks the target's window, must lie within one rank's rows, and is allowed in an epoch only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI


class PyDDStore:
    """Rows of named variables; the global index is over the ranks' parts in order."""

    made = 0

    def __init__(self, comm: Any, method: int = 0) -> None:
        assert method == 0
        self.comm, self.windows, self.epoch = comm, {}, False
        self.variables: dict[str, tuple[Any, Any, Any]] = {}
        PyDDStore.made += 1

    def init(self, name: str, nrows: int, disp: int, itemsize: int = 1) -> None:
        assert nrows > 0, "the real one divides by the number of rows"
        part = np.zeros((nrows, disp), dtype={8: np.int64}[itemsize])
        window = MPI.Win.Create(part, disp * itemsize, comm=self.comm)
        self.variables[name] = (part, window, np.concatenate([[0], np.cumsum(self.comm.allgather(nrows))]))

    def update(self, name: str, arr: Any, offset: int) -> None:
        assert arr.flags.c_contiguous
        self.variables[name][0][offset : offset + len(arr)] = arr

    def epoch_begin(self) -> None:
        assert not self.epoch
        self.epoch = True
        for _, window, _ in self.variables.values():
            window.Fence()

    def epoch_end(self) -> None:
        assert self.epoch
        self.epoch = False
        for _, window, _ in self.variables.values():
            window.Fence()

    def get(self, name: str, arr: Any, start: int = 0) -> None:
        assert self.epoch
        assert arr.flags.c_contiguous
        _, window, first = self.variables[name]
        target = int(np.searchsorted(first, start, side="right")) - 1
        assert start + len(arr) <= first[target + 1], "a read within one rank's rows"
        window.Lock(target, MPI.LOCK_SHARED)
        window.Get(arr, target, int(start - first[target]))
        window.Unlock(target)

    def free(self) -> None:
        for _, window, _ in self.variables.values():
            window.Free()
        self.variables = {}
