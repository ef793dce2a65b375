"""Structures with a value of a property each, and batches of them: as graphs, or as features of a frozen network."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from ase.symbols import Symbols
from numpy.typing import NDArray
from torch import Tensor

from gfmpot.data import FrameSet
from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import PropertyConfig, Target
from gfmpot.models.property_head import Features
from gfmpot.models.property_model import without_singlets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Inputs = AtomGraph | Features
Part = tuple[Inputs, Tensor]
"""Some structures of a batch, and their values (n,) float64."""


@dataclass(frozen=True)
class PropertyData:
    """S structures and the value of a property of each.

    Raises:
        ValueError: another number of values than of structures, or a value that is not finite; names the structure.
    """

    frames: FrameSet
    """Their energies and forces play no part."""

    values: Floats
    """(S,) in the target's unit; 0 or 1 for classes."""

    keys: Sequence[str] = ()
    """The dataset's own names of the structures, for messages."""

    def __post_init__(self) -> None:
        size = len(self.frames)
        if self.values.shape != (size,) or len(self.keys) not in (0, size):
            raise ValueError(
                f"{self.frames.name}: expected a value for each of {size} structures, got {self.values.shape} values "
                f"and {len(self.keys)} keys"
            )
        bad = np.flatnonzero(~np.isfinite(self.values))
        if len(bad):
            raise ValueError(
                f"{self.name(int(bad[0]))} has the value {self.values[bad[0]]}, and {len(bad) - 1} others are not "
                "finite either; leave out structures without a label"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def name(self, i: int) -> str:
        """What a message calls structure ``i``."""
        atoms = slice(self.frames.offsets[i], self.frames.offsets[i + 1])
        formula = Symbols(self.frames.numbers[atoms]).get_chemical_formula()
        return f"{self.frames.name}, {self.keys[i] if self.keys else f'structure {i}'} ({formula})"

    def subset(self, indices: Sequence[int] | Ints) -> PropertyData:
        """The structures at ``indices``, in that order."""
        keys = [self.keys[i] for i in indices] if self.keys else ()
        return PropertyData(self.frames.subset(indices), self.values[np.asarray(indices, dtype=np.int64)], keys)

    def check(self, target: Target) -> None:
        """Refuse values that are no values of ``target``.

        Raises:
            ValueError: none at all, or of a class something beside 0 and 1; names the structure.
        """
        if not len(self):
            raise ValueError(f"{self.frames.name}: no structures")
        bad = np.flatnonzero(~np.isin(self.values, (0.0, 1.0)))
        if target.is_class and len(bad):
            raise ValueError(
                f"{self.name(int(bad[0]))} has the value {self.values[bad[0]]:g}; {target.name} is a class, whose "
                "values are 0 and 1"
            )

    @cached_property
    def sha256(self) -> str:
        """Of structures and values."""
        digest = hashlib.sha256()
        frames = self.frames
        for array in (frames.numbers, frames.positions, frames.offsets, frames.cell, frames.pbc, self.values):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(np.stack([frames.charge, frames.spin]).tobytes())
        return digest.hexdigest()


class Batches(Protocol):
    """What a loop takes batches from."""

    def batches(self, order: Ints, size: int) -> Iterator[list[Part]]:
        """The structures at ``order``, ``size`` at a time; a batch is in parts, whose gradients add up."""


class GraphBatches:
    """Batches of graphs, made in background threads a few batches ahead and kept while there is room.

    Args:
        data: structures.
        config: of the model, whose cutoff and neighbour cap graphs have.
        max_edges: of a part.
        kept_bytes: memory for graphs; others are made anew when they are due.
        threads: how many make graphs; neighbours are found outside Python's lock.
        ahead: batches.
    """

    def __init__(
        self,
        data: PropertyData,
        config: PropertyConfig,
        *,
        max_edges: int = 50_000,
        kept_bytes: float = 0.0,
        threads: int = 2,
        ahead: int = 4,
    ) -> None:
        self._data, self._config = data, config
        self._budget = BatchBudget(max_edges=max_edges, max_atoms=2**31, max_structures=2**31)
        self._kept: dict[int, AtomGraph] = {}
        self._room, self._threads, self._ahead = kept_bytes, threads, ahead

    def batches(self, order: Ints, size: int) -> Iterator[list[Part]]:
        """See :class:`Batches`."""
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="graphs")
        waiting: deque[Future[list[Part]]] = deque()
        try:
            for start in range(0, len(order), size):
                waiting.append(pool.submit(self._batch, order[start : start + size].tolist()))
                if len(waiting) > self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, indices: list[int]) -> list[Part]:
        packed = list(self._budget.pack(map(self._graph, indices)))
        values = torch.split(torch.from_numpy(self._data.values[indices]), [len(part) for part in packed])
        return [(AtomGraph.batch(part), own) for part, own in zip(packed, values, strict=True)]

    def _graph(self, i: int) -> AtomGraph:
        kept = self._kept.get(i)
        if kept is None:
            graph = self._data.frames.graph(i, self._config.backbone.cutoff, max_neighbours=self._config.max_neighbours)
            # Labels of the potential energy surface play no part, and would only be carried about.
            kept = without_singlets(graph.replace(branch=None, energy=None, forces=None, stress=None))
            size = 40 * (kept.n_edges + kept.n_atoms)
            if size <= self._room:
                self._room -= size
                self._kept[i] = kept
        return kept.replace()  # a copy: what is cached on it in training is not for keeping


class FeatureBatches:
    """Batches of features that a frozen backbone gave once."""

    def __init__(self, features: Features, values: Floats) -> None:
        self.features, self._values = features, torch.from_numpy(values)

    def batches(self, order: Ints, size: int) -> Iterator[list[Part]]:
        """See :class:`Batches`; there is one part."""
        for start in range(0, len(order), size):
            chosen = torch.from_numpy(order[start : start + size])
            yield [(self.features.subset(chosen.to(self.features.counts.device)), self._values[chosen])]
