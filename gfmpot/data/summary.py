"""Counts and distributions of any labelled structures, for people to look at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.frames import FrameSet
from gfmpot.data.source import Source
from gfmpot.data.statistics import NOTHING, SplitStatistics

FORCE_BINS = np.logspace(-4, 3, 29)
"""eV/Å; four per decade. Forces outside count in the first and last bin."""

ENERGY_BINS = 24
CHUNK = 1024


@dataclass
class Summary:
    """What :func:`summarise` found."""

    statistics: SplitStatistics = NOTHING
    energy_per_atom: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """eV, of all labelled structures."""

    forces: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(FORCE_BINS) - 1, dtype=np.int64))
    """Atoms by the norm of their force, in FORCE_BINS."""

    def energies(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Structures by energy per atom, and the edges of the bins in eV.

        The bins span all but the outermost permille on either side, whose structures count in the first and last bin.
        """
        low, high = np.quantile(self.energy_per_atom, [0.001, 0.999])
        edges = np.linspace(low, max(high, low + 1e-6), ENERGY_BINS + 1)
        return np.histogram(np.clip(self.energy_per_atom, edges[0], edges[-1]), edges)[0], edges


def summarise(sets: Iterable[FrameSet]) -> Summary:
    """Counts and distributions over sets of structures, each in memory for a moment only."""
    summary, energies = Summary(), [np.zeros(0)]
    for frames in sets:
        summary.statistics += SplitStatistics.of(frames)
        per_atom = frames.energy / frames.atoms_per_structure
        energies.append(per_atom[np.isfinite(per_atom)])
        norms = np.linalg.norm(frames.forces, axis=1)
        inside = np.clip(norms[np.isfinite(norms)], FORCE_BINS[0], FORCE_BINS[-1])
        summary.forces += np.histogram(inside, FORCE_BINS)[0]
    summary.energy_per_atom = np.concatenate(energies)
    return summary


def frames_of(source: Source, files: Iterable[Path]) -> Iterator[Frame | Rejected]:
    """All frames of a dataset's files; those that cannot be trained on come as :class:`Rejected`."""
    for path in files:
        for number, entry in enumerate(source.read(path, 0, source.count(path))):
            problem = entry.problem() if isinstance(entry, Frame) else None
            yield entry if problem is None else Rejected(f"{path}, structure {number}", problem)


def sets_of(
    entries: Iterable[Frame | Rejected], rejected: list[Rejected], limit: int | None = None
) -> Iterator[FrameSet]:
    """At most ``limit`` frames as sets; those that are left out are put into ``rejected``."""
    wanted = islice(entries, limit)
    while batch := list(islice(wanted, CHUNK)):
        rejected += [entry for entry in batch if isinstance(entry, Rejected)]
        frames = [entry for entry in batch if isinstance(entry, Frame)]
        if frames:
            yield FrameSet.from_frames(frames)
