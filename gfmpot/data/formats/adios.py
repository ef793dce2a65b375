"""Reads stores: structures of ADIOS2 BP5 directories, by index and by block.

A store is a folder with one BP5 directory per split and a manifest; ``docs/data.md`` describes it, and
:func:`gfmpot.data.conversion.convert` makes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gfmpot.data.formats.adios_reader import Ints, SplitReader
from gfmpot.data.formats.manifest import Manifest
from gfmpot.data.frames import FrameSet
from gfmpot.data.prefetch import prefetch
from gfmpot.data.statistics import SplitStatistics

HELD = 1 << 30
"""Bytes of one split that may be held in memory, besides the offsets of atoms (8 bytes per structure)."""


class AdiosStore:
    """The splits of a converted dataset.

    Args:
        path: the store's folder.
        hold: bytes per split and process that may be held in memory: energies, stresses, cells, charges, group names.
            What needs more than this is read when it is asked for, which is slower per structure.

    Raises:
        FileNotFoundError: not a store, or one with missing files.
        ValueError: a damaged manifest, or files of other sizes than it says.
    """

    def __init__(self, path: str | Path, *, hold: int = HELD) -> None:
        self.path, self.hold = Path(path), hold
        self.manifest = Manifest.read(self.path)
        for name, expected in self.manifest.files.items():
            _check_size(self.path / name, expected.size)

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that the store has, of train, valid and test."""
        return tuple(self.manifest.counts)

    def split(self, name: str) -> AdiosSplit:
        """The structures of one split.

        Raises:
            ValueError: a split that the store does not have.
        """
        if name not in self.splits:
            raise ValueError(f"{self.path} has no {name} split; it has {', '.join(self.splits)}")
        reader = SplitReader(self.path / f"{name}.bp", self.hold)
        return AdiosSplit(reader, range(self.manifest.counts[name]), f"{self.manifest.branch} {name}")

    def statistics(self, name: str) -> SplitStatistics:
        """Counts and sums over one split, without reading it."""
        return self.manifest.split_statistics(name)


class AdiosSplit:
    """S structures of a split: a :class:`~gfmpot.data.dataset.Dataset`.

    Threads may share it; pickled or inherited by a fork, it opens its files again where it is used.
    """

    def __init__(self, reader: SplitReader, rows: range, name: str) -> None:
        self._reader, self.rows, self.name = reader, rows, name

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def atoms_per_structure(self) -> Ints:
        """(S,)."""
        counts: Ints = np.diff(self._reader.atom_offsets)[self.rows.start : self.rows.stop : self.rows.step]
        return counts

    def subset(self, indices: Sequence[int] | Ints) -> FrameSet:
        """The structures at ``indices``, in that order; runs of consecutive ones are read at once.

        Raises:
            IndexError: an index that is not in 0 … S−1.
            OSError: what is on disk cannot be read.
        """
        wanted = np.asarray(indices, dtype=np.int64).tolist()
        low, high = min(wanted, default=0), max(wanted, default=0)
        if low < 0 or high >= max(len(self), 1):
            raise IndexError(f"{self.name}: no structure {low if low < 0 else high} among {len(self)}")
        return self._reader.frames([self.rows[i] for i in wanted], self.name)

    def block(self, start: int, stop: int) -> FrameSet:
        """The structures ``start`` to ``stop``."""
        return self.subset(np.arange(start, stop))

    def blocks(self, size: int = 1024) -> Iterator[FrameSet]:
        """All structures in order, ``size`` at a time."""
        return (self.block(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def select(self, rank: int, world: int, *, strided: bool = False) -> AdiosSplit:
        """The share of one of ``world`` ranks, which together have every structure once.

        Args:
            rank: whose.
            world: number of ranks.
            strided: every ``world``-th structure, instead of a stretch of consecutive ones.

        Raises:
            ValueError: a rank that is not in 0 … world−1.
        """
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0 … {world - 1} with {world} ranks, got {rank}")
        n = len(self)
        share = self.rows[rank::world] if strided else self.rows[n * rank // world : n * (rank + 1) // world]
        return AdiosSplit(self._reader, share, self.name)

    def prefetch(self, batches: Iterable[Sequence[int] | Ints], depth: int = 2) -> Iterator[FrameSet]:
        """The structures of each batch of indices, read in the background up to ``depth`` batches ahead."""
        return prefetch(self, batches, depth)


def _check_size(path: Path, expected: int) -> None:
    """Before ADIOS2 opens it: it waits forever for the rest of a truncated file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the store is incomplete; copy or convert it again")
    size = path.stat().st_size
    if size != expected:
        raise ValueError(f"{path} is damaged: it has {size} bytes, not {expected}; copy or convert the store again")
