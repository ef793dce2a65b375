"""Several files that count as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path


class Parts:
    """Files whose structures are numbered on from one to the next.

    Args:
        files: in their order.
        count: number of structures of a file.
    """

    def __init__(self, files: Sequence[Path], count: Callable[[Path], int]) -> None:
        self._files = tuple(files)
        self._ends: list[int] = []
        for file in files:
            self._ends.append(len(self) + count(file))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def of(self, indices: Sequence[int]) -> Iterator[tuple[Path, list[int]]]:
        """The files of ``indices``, which ascend, each with the numbers within it."""
        rest, begin = list(indices), 0
        for file, end in zip(self._files, self._ends, strict=True):
            inside = [i - begin for i in rest if i < end]
            if inside:
                yield file, inside
            rest, begin = rest[len(inside) :], end


def runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """``start`` and ``stop`` of the runs of neighbours in ``indices``, which ascend."""
    for _, members in groupby(enumerate(indices), lambda item: item[1] - item[0]):
        run = [index for _, index in members]
        yield run[0], run[-1] + 1
