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
