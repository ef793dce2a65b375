"""What training reads from, wherever the structures are: memory, an ADIOS2 store, the memory of other ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frames import FrameSet

Ints = NDArray[np.int64]


class Dataset(Protocol):
    """S labelled structures, any of which can be had by its index.

    :class:`gfmpot.data.FrameSet` is one.
    """

    def __len__(self) -> int:
        """S."""

    @property
    def atoms_per_structure(self) -> Ints:
        """(S,)."""

    def subset(self, indices: Sequence[int] | Ints) -> FrameSet:
        """The structures at ``indices``, in that order, in memory; safe to call from several threads."""


class Joined:
    """Several datasets as one, one after the other."""

    def __init__(self, name: str, parts: Sequence[Dataset]) -> None:
        self.name, self.parts = name, tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def atoms_per_structure(self) -> Ints:
        """(S,)."""
        return np.concatenate([part.atoms_per_structure for part in self.parts])

    def subset(self, indices: Sequence[int] | Ints) -> FrameSet:
        """The structures at ``indices``, in that order."""
        wanted = np.asarray(indices, dtype=np.int64)
        owner = np.searchsorted(self._ends, wanted, side="right")
        order = np.argsort(owner, kind="stable")
        found = [
            part.subset(wanted[owner == p] - (self._ends[p] - len(part)))
            for p, part in enumerate(self.parts)
            if (owner == p).any()
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return FrameSet.join(self.name, found).subset(back)
