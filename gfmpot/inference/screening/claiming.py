"""Which process does which block, without communication."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from time import monotonic

from gfmpot.inference.screening.folder import Folder
from gfmpot.inference.screening.inputs import Block, Blocks
from gfmpot.inference.screening.locks import Locks

LISTING = 30.0
"""s, after which the folder is looked through again for what others have done."""


class Claims:
    """The blocks that fall to this process, one after another.

    A rank begins with its own stretch and goes on with what others have not taken yet: fast ranks do more, and what a
    dead one left undone is done by those that live. A block belongs to whoever locked it until it is released.

    Args:
        blocks: all of them.
        folder: in which tables say that blocks are done.
        locks: shared with the other processes.
        rank: whose, of ``world`` that start together.
        world: number of ranks.
    """

    def __init__(self, blocks: Blocks, folder: Folder, locks: Locks, rank: int = 0, world: int = 1) -> None:
        self._blocks, self._folder, self._locks = blocks, folder, locks
        self._first = rank * len(blocks) // world
        self._done, self._listed = folder.done(), monotonic()
        self._mine: set[int] = set()
        self.released = 0
        """Blocks that this process has done."""

    def __iter__(self) -> Iterator[Block]:
        """Until all that is left is being done by others: what one of them lost meanwhile is found in another pass."""
        found = True
        while found:
            found = False
            for block in self._free():
                found = True
                yield block

    def _free(self) -> Iterator[Block]:
        for number in chain(range(self._first, len(self._blocks)), range(self._first)):
            if number in self._listing() or number in self._mine or not self._locks.take(number):
                continue
            if self._folder.table(number).exists():
                self._locks.release(number)
            else:
                self._mine.add(number)
                yield self._blocks[number]

    def release(self, block: int) -> None:
        """A block is done."""
        self.released += 1
        self._done.add(block)
        self._locks.release(block)

    def _listing(self) -> set[int]:
        if monotonic() - self._listed > LISTING:
            self._done, self._listed = self._folder.done(), monotonic()
        return self._done
