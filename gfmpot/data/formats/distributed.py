"""A dataset in the memory of many ranks: each holds a shard, any of them reads any structure by its index."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from gfmpot.config import did_you_mean
from gfmpot.data.dataset import Dataset
from gfmpot.data.formats import ddstore
from gfmpot.data.formats.rank_memory import Memory, Piece, Table, WindowMemory, mpi_lock, progress
from gfmpot.data.formats.ranks import (
    check_memory,
    check_same,
    failure_of_any,
    group_of,
    launched_world,
    node_of,
    split,
    warn_of_little_shared_memory,
)
from gfmpot.data.formats.records import HEAD, WORD_BYTES, WORDS, decode, encode, pack, record_offsets, unpack
from gfmpot.data.frames import FrameSet

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Backend = Literal["ddstore", "shared", "windows"]

BLOCK = 4096
"""Structures read from the dataset at a time while loading."""


class _Run(NamedTuple):
    """Consecutive structures in the memory of one rank: places ``first`` to ``last`` of what is wanted."""

    owner: int
    first: int
    last: int


class DistributedStore:
    """A :class:`~gfmpot.data.dataset.Dataset` held by groups of ``width`` consecutive ranks, one copy per group.

    Every rank of ``comm`` constructs it together, from the same dataset, of which it reads only its own shard: a
    contiguous run of structures, all shards of about equal size in bytes. :meth:`subset` is one-sided and may be
    called by any thread at any time until :meth:`close`, which is collective again. Loader *processes* cannot use it:
    MPI does not survive a fork.

    Args:
        dataset: what to hold.
        width: ranks in a group, a divisor of the number of ranks; all of them if not given.
        comm: the ranks that take part; all by default.
        backend: ``"shared"`` reads ranks of the same node directly and others through MPI; ``"windows"`` reads all
            through MPI, for nodes without room in ``/dev/shm``; ``"ddstore"`` is ORNL's. By default DDStore if
            ``pyddstore`` is installed, else ``"shared"``.

    Raises:
        ImportError: mpi4py, MPI or the DDStore that was asked for is missing.
        ValueError: ``width`` does not divide the number of ranks, or ranks were given different datasets, or there
            is no such backend.
        OSError: the processes were not started by an MPI launcher, or another rank failed to read its shard.
        MemoryError: the shards of a node are larger than its free memory; nothing was allocated.
        RuntimeError: MPI takes calls from one thread only.
    """

    def __init__(
        self,
        dataset: Dataset,
        width: int | None = None,
        *,
        comm: MPI.Intracomm | None = None,
        backend: Backend | None = None,
    ) -> None:
        with mpi_lock():
            comm = comm or launched_world(width)
            self._offsets = record_offsets(dataset.atoms_per_structure)
            check_same(comm, self._offsets)
            self._group = group_of(comm, width)
            self._bounds = shard_bounds(self._offsets, self._group.size)
            needed = self._shard_rows * WORDS * WORD_BYTES
            check_memory(comm, needed)
            self._memory = _memory(self._group, backend, needed)
            self._rows, self._groups = self._load(dataset, comm)
            self._memory.publish()
        if self._memory.needs_progress:
            progress.acquire()
        self._open = True

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def atoms_per_structure(self) -> Ints:
        """(S,)."""
        return np.diff(self._offsets) - HEAD

    @property
    def shard(self) -> range:
        """The structures that this rank holds."""
        rank = self._group.rank
        return range(int(self._bounds[rank]), int(self._bounds[rank + 1]))

    def subset(self, indices: Sequence[int] | Ints) -> FrameSet:
        """The structures at ``indices``, in that order, wherever they are; from any thread.

        Raises:
            IndexError: an index is outside 0 ... S - 1.
            ValueError: the store is closed.
        """
        if not self._open:
            raise ValueError("the store is closed: its memory has been given back")
        wanted = self._checked(indices)
        offsets = np.concatenate([[0], np.cumsum(self._offsets[wanted + 1] - self._offsets[wanted])])
        rows = np.empty((offsets[-1], WORDS), dtype=np.int64)
        groups = np.empty((len(wanted), self._group_words), dtype=np.int64)
        runs = self._runs(wanted)
        self._rows.read([self._records(run, wanted, rows[offsets[run.first] : offsets[run.last + 1]]) for run in runs])
        self._groups.read([self._labels(run, wanted, groups[run.first : run.last + 1]) for run in runs])
        return unpack(self._name, rows, offsets, decode(groups))

    def close(self) -> None:
        """Give the memory back; collective, after the last read of every rank. A second call does nothing."""
        if not self._open:
            return
        self._open = False
        with mpi_lock():
            self._group.Barrier()  # nobody still reads here
            self._memory.free()
            self._group.Free()
        if self._memory.needs_progress:
            progress.release()

    def __enter__(self) -> DistributedStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:  # after an error the other ranks may never close: waiting for them would hide it
            self.close()

    @property
    def _shard_rows(self) -> int:
        return int(self._offsets[self.shard.stop] - self._offsets[self.shard.start])

    def _checked(self, indices: Sequence[int] | Ints) -> Ints:
        wanted = np.asarray(indices, dtype=np.int64)
        outside = (wanted < 0) | (wanted >= len(self))
        if outside.any():
            raise IndexError(f"no structure {wanted[outside][0]}; expected 0 to {len(self) - 1}")
        return wanted

    def _runs(self, wanted: Ints) -> list[_Run]:
        """A block of structures is read in one piece per rank, not one by one."""
        if not len(wanted):
            return []
        owners = np.searchsorted(self._bounds, wanted, side="right") - 1
        breaks = np.flatnonzero((np.diff(wanted) != 1) | (np.diff(owners) != 0))
        first = np.concatenate([[0], breaks + 1]).tolist()
        last = [*breaks.tolist(), len(wanted) - 1]
        return [_Run(int(owners[i]), i, j) for i, j in zip(first, last, strict=True)]

    def _records(self, run: _Run, wanted: Ints, out: Ints) -> Piece:
        start = self._offsets[wanted[run.first]] - self._offsets[self._bounds[run.owner]]
        return Piece(run.owner, int(start), out)

    def _labels(self, run: _Run, wanted: Ints, out: Ints) -> Piece:
        return Piece(run.owner, int(wanted[run.first] - self._bounds[run.owner]), out)

    def _load(self, dataset: Dataset, comm: MPI.Intracomm) -> tuple[Table, Table]:
        """This rank's shard as tables of records and of group names; how wide these are is known at the end."""
        rows = self._memory.table("records", self._shard_rows, WORDS)
        names, encoded, error = [""], [np.zeros(0, dtype=f"S{WORD_BYTES}")], None
        try:
            for start, frames in self._blocks(dataset):
                rows.write(int(self._offsets[start] - self._offsets[self.shard.start]), pack(frames))
                encoded.append(encode(frames.group))
                names.append(frames.name)
        except Exception as caught:  # of whatever kind: the other ranks are waiting and must hear of it
            error = caught
        failure = failure_of_any(comm, error)
        if failure is not None:
            self._memory.free()
            self._group.Free()
            raise failure
        labels = np.concatenate(encoded)
        # A rank without structures knows neither the name nor how long group names are.
        known = self._group.allgather((names[-1], labels.itemsize // WORD_BYTES))
        self._name, self._group_words = max(name for name, _ in known), max(words for _, words in known)
        return rows, self._labels_table(labels)

    def _labels_table(self, labels: NDArray[np.bytes_]) -> Table:
        table = self._memory.table("groups", len(labels), self._group_words)
        padded = labels.astype(f"S{self._group_words * WORD_BYTES}")
        table.write(0, padded.view(np.int64).reshape(-1, self._group_words))
        return table

    def _blocks(self, dataset: Dataset) -> Iterator[tuple[int, FrameSet]]:
        for start in range(self.shard.start, self.shard.stop, BLOCK):
            stop = min(start + BLOCK, self.shard.stop)
            frames = dataset.subset(np.arange(start, stop))
            if not np.array_equal(frames.atoms_per_structure + HEAD, np.diff(self._offsets[start : stop + 1])):
                raise ValueError(
                    f"structures {start} to {stop - 1} have other numbers of atoms than the dataset stated"
                )
            yield start, frames


def shard_bounds(offsets: Ints, shards: int) -> Ints:
    """(shards + 1,) first structure of each shard, so that all have about the same number of rows.

    Args:
        offsets: (S + 1,) first row of each structure.
        shards: how many.
    """
    targets = np.arange(1, shards) * (offsets[-1] / shards)
    return np.concatenate([[0], np.searchsorted(offsets, targets), [len(offsets) - 1]])


def _memory(group: MPI.Intracomm, backend: Backend | None, needed: int) -> Memory:
    chosen = backend or ("ddstore" if ddstore.installed() else "shared")
    if chosen not in get_args(Backend):
        raise ValueError(f"no backend {chosen!r}{did_you_mean(chosen, get_args(Backend))}")
    if group.rank == 0:
        log.info("in-memory store: %s, %d ranks a copy", chosen, group.size)
    if chosen == "ddstore":
        return ddstore.DDStoreMemory(group)
    node = node_of(group) if chosen == "shared" else split(group, group.rank)
    warn_of_little_shared_memory(node, needed)
    return WindowMemory(group, node)
