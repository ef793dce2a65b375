"""Tables of 8-byte words of which every rank of a group holds a part and any rank reads any row.

Here in MPI windows, with direct loads where ranks share a node; :mod:`gfmpot.data.formats.ddstore` is the other
implementation. Reads are one-sided: the owner of the rows takes no part. Reference: MPI standard 4.1, chapter 12,
"One-Sided Communications" (passive target, windows of shared memory).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.formats.records import WORD_BYTES

if TYPE_CHECKING:
    from mpi4py import MPI

Ints = NDArray[np.int64]

_one_at_a_time = threading.RLock()


class Piece(NamedTuple):
    """Consecutive rows of one rank, and where they are wanted."""

    owner: int
    start: int
    out: Ints  # (rows, words), contiguous


class Table(Protocol):
    """Rows of ``words`` words in the memory of many ranks."""

    def write(self, start: int, rows: Ints) -> None:
        """Fill rows of this rank's part, before :meth:`Memory.publish`."""

    def read(self, pieces: Sequence[Piece]) -> None:
        """Fill the pieces, after :meth:`Memory.publish`; from any thread."""


class Memory(Protocol):
    """Makes the tables of one store."""

    needs_progress: bool
    """Whether owners must call MPI now and then for others to be able to read; see :class:`Progress`."""

    def table(self, name: str, rows: int, words: int) -> Table:
        """A table to which this rank contributes ``rows`` rows; collective."""

    def publish(self) -> None:
        """Make what was written readable; collective."""

    def free(self) -> None:
        """Give all memory back; collective."""


def load_mpi() -> Any:
    """``mpi4py.MPI``.

    Raises:
        ImportError: mpi4py or the MPI library is missing; says how to get them.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, libmpi is not
        raise ImportError(
            'the distributed store needs mpi4py, pip install "gfmpot[mpi]", and an MPI library: the machine\'s, or '
            f"pip install mpich; got: {error}"
        ) from error
    return MPI


def mpi_lock() -> contextlib.AbstractContextManager[Any]:
    """What to hold while calling MPI: nothing if MPI takes calls of many threads at once, else one lock per process.

    Raises:
        RuntimeError: MPI was started so that only one thread may call it; a loader reads from another.
    """
    MPI = load_mpi()
    level = MPI.Query_thread()
    if level < MPI.THREAD_SERIALIZED:
        raise RuntimeError(
            "MPI was started to take calls from one thread only, but structures are read by loader threads; expected "
            "MPI_THREAD_MULTIPLE, which mpi4py asks for unless mpi4py.rc.thread_level or mpi4py.rc.threads was changed"
        )
    return contextlib.nullcontext() if level >= MPI.THREAD_MULTIPLE else _one_at_a_time


class Progress:
    """One thread per process that gives MPI a chance to answer other ranks' reads while this process computes.

    Where the network cannot read remote memory by itself (TCP, for one), MPI answers a read only inside some call of
    the owner. Two ranks may then wait for each other for ever: one for a structure, the other in a reduction for the
    first. Polling takes about 3 % of a core; MPICH's own remedy, MPICH_ASYNC_PROGRESS, spins on a whole one.
    """

    PERIOD = 1e-3  # s
    CALLS = 16  # per period: MPICH deals with one message in each

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._users = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Poll from now on; the first user starts the thread."""
        with self._guard:
            self._users += 1
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._poll, name="gfmpot-mpi-progress", daemon=True)
                self._thread.start()

    def release(self) -> None:
        """The last user stops the thread; must not hold :func:`mpi_lock`, for which the thread may be waiting."""
        with self._guard:
            self._users -= 1
            if self._users == 0 and self._thread is not None:
                self._stop.set()
                self._thread.join()
                self._thread = None

    def _poll(self) -> None:
        MPI, lock = load_mpi(), mpi_lock()
        while not self._stop.wait(self.PERIOD):
            with lock:
                for _ in range(self.CALLS):
                    MPI.COMM_WORLD.Iprobe()  # takes no message; one on COMM_SELF drives nothing in MPICH


progress = Progress()


class WindowMemory:
    """Tables in MPI windows: direct loads inside a node, gets between nodes.

    Args:
        group: the ranks that share the tables.
        node: those of them whose memory this rank can address; alone in it, a rank gets everything through MPI.
    """

    def __init__(self, group: MPI.Intracomm, node: MPI.Intracomm) -> None:
        self.group, self.node = group, node
        self.needs_progress = group.allreduce(int(node.size < group.size), load_mpi().MAX) > 0
        self._tables: list[WindowTable] = []

    def table(self, name: str, rows: int, words: int) -> WindowTable:
        """See :class:`Memory`; MPI needs no names."""
        self._tables.append(WindowTable(self, rows, words))
        return self._tables[-1]

    def publish(self) -> None:
        """See :class:`Memory`."""
        for table in self._tables:
            table.publish()

    def free(self) -> None:
        """See :class:`Memory`."""
        for table in self._tables:
            table.free()
        self.node.Free()


class WindowTable:
    """See :class:`Table`."""

    def __init__(self, memory: WindowMemory, rows: int, words: int) -> None:
        self._memory, self._words, self._lock = memory, words, mpi_lock()
        mpi = load_mpi()
        size = max(rows, 1) * words * WORD_BYTES  # MPI does not say where an empty part is
        info = mpi.Info.Create({"alloc_shared_noncontig": "true"})  # each part on pages of its own, near its rank
        self._shared = mpi.Win.Allocate_shared(size, WORD_BYTES, info, memory.node)
        info.Free()
        self._near = {rank: self._part(i) for i, rank in enumerate(memory.node.allgather(memory.group.rank))}
        self._window: MPI.Win | None = None
        if memory.needs_progress:
            mine = self._shared.Shared_query(memory.node.rank)[0]
            self._window = mpi.Win.Create(mine, words * WORD_BYTES, comm=memory.group)
        for window in self._windows():
            window.Lock_all(mpi.MODE_NOCHECK)  # one epoch from here to the end: nobody writes while others read

    def _part(self, node_rank: int) -> Ints:
        return np.frombuffer(self._shared.Shared_query(node_rank)[0], dtype=np.int64).reshape(-1, self._words)

    def write(self, start: int, rows: Ints) -> None:
        """See :class:`Table`."""
        self._near[self._memory.group.rank][start : start + len(rows)] = rows

    def publish(self) -> None:
        """See :class:`Memory`."""
        self._shared.Sync()
        self._memory.group.Barrier()
        self._shared.Sync()  # what others stored before the barrier is seen after it

    def read(self, pieces: Sequence[Piece]) -> None:
        """See :class:`Table`."""
        for owner, start, out in pieces:
            if owner in self._near:
                out[:] = self._near[owner][start : start + len(out)]
        far = [piece for piece in pieces if piece.owner not in self._near]
        if far:
            self._get(far)

    def _get(self, pieces: Sequence[Piece]) -> None:
        """All gets are under way before the first is waited for."""
        assert self._window is not None, "every rank of the group is on this node"
        with self._lock:
            for owner, start, out in pieces:
                self._window.Get(out, owner, start)
            for owner in {piece.owner for piece in pieces}:
                self._window.Flush(owner)

    def free(self) -> None:
        """See :class:`Memory`."""
        self._near = {}  # the addresses are about to become invalid
        for window in self._windows():
            window.Unlock_all()
            window.Free()

    def _windows(self) -> list[MPI.Win]:
        return [self._shared] if self._window is None else [self._window, self._shared]
