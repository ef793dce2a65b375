"""Processes that read files and find neighbours while this one evaluates.

Processes, not threads: what they do holds Python's lock for most of its time, and the evaluation would wait for it
(``benchmarks/screening.py`` measures both).
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import get_context, parent_process
from types import TracebackType
from typing import Any

from gfmpot.inference.screening.inputs import Block
from gfmpot.inference.screening.preparing import Piece, Preparation
from gfmpot.ranks.signals import SIGNALS

AHEAD = 4
"""Pieces per process that wait to be evaluated."""

ALIVE = 1.0
"""s, how often to see whether the processes still live while nothing comes from them."""


class Readers:
    """A number of processes, each of which prepares one block at a time; with none, this process does.

    ::

        with Readers(preparation, workers=2) as readers:
            for piece in readers.pieces(blocks):
                evaluate(piece)

    They end with this process, however it ends, and leave signals to it.
    """

    def __init__(self, preparation: Preparation, workers: int) -> None:
        self._preparation, self._workers = preparation, workers
        self._processes: list[Any] = []

    def __enter__(self) -> Readers:
        if self._workers == 0:
            return self
        context = get_context("spawn")  # a fork of a process that has used several threads may hang
        self._tasks: Any = context.Queue()  # its own thread writes: a large block does not fit into a pipe at once
        self._tasks.cancel_join_thread()  # what nobody takes any more need not be written in the end
        self._pieces: Any = context.Queue(maxsize=AHEAD * self._workers)
        for _ in range(self._workers):
            arguments = (self._preparation, self._tasks, self._pieces)
            self._processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self._processes[-1].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()  # they hold nothing that would have to be saved
        for process in self._processes:
            process.join()

    def pieces(self, blocks: Iterable[Block], stopping: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
        """Pieces of all blocks: those of one block in order, those of different blocks as they come.

        Args:
            blocks: one is taken when a process can begin with it.
            stopping: whether to give up, if nothing comes for a while.

        Raises:
            ValueError, OSError: a file that changed or is gone.
            ChildProcessError: a process died.
        """
        if self._workers == 0:
            for block in blocks:
                yield from self._preparation.pieces(block)
            return
        stream, given = iter(blocks), {}
        for block in islice(stream, self._workers + 1):  # one waits, so that nobody else has to
            given[block.number] = block
            self._tasks.put(block)
        while given:
            piece = self._next(stopping)
            if piece is None:
                return
            yield piece
            if piece.is_last:  # after it was written: another process sees that the block is done
                del given[piece.block]
                for block in islice(stream, 1):
                    given[block.number] = block
                    self._tasks.put(block)

    def _next(self, stopping: Callable[[], bool]) -> Piece | None:
        while True:
            try:
                found = self._pieces.get(timeout=ALIVE)
            except queue.Empty:
                self._check()
                if stopping():
                    return None
                continue
            if isinstance(found, Exception):
                raise found
            return found  # type: ignore[no-any-return]

    def _check(self) -> None:
        died = [process.exitcode for process in self._processes if process.exitcode is not None]
        if died:
            raise ChildProcessError(
                f"a process that reads ahead died (exit code {died[0]}), perhaps for want of memory; what is done is "
                "kept: run again, with fewer --workers, or with 0 to see what is wrong"
            )


def _work(preparation: Preparation, tasks: Any, pieces: Any) -> None:
    """What each process does, until it is killed."""
    import torch

    for number in (*SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # vesin asks for it at each call
    warnings.simplefilter("ignore")  # readers of formats warn of single files, of which there may be a million
    try:
        while True:
            for piece in preparation.pieces(tasks.get()):
                pieces.put(piece)
    except Exception as error:  # it is raised where the piece is due
        pieces.put(_told(error))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _told(error: Exception) -> Exception:
    """The error in a form that can be sent: mistakes of users with their message, others with where they happened."""
    if isinstance(error, ValueError | ImportError):
        return ValueError(str(error))
    if isinstance(error, OSError):
        return OSError(str(error))
    return ChildProcessError("".join(traceback.format_exception(error)))
