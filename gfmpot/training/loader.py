"""From the sampler's plan to graphs on the device, built ahead in the background."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gfmpot.data.dataset import Dataset
from gfmpot.data.sampler import BatchConfig, Draws, Sampler
from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import PotentialConfig

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What a rank computes in a step."""

    parts: list[AtomGraph]
    """Within the edge budget; their gradients add up."""

    next_position: int
    """Of the stream, after the batches of all ranks."""


@dataclass(frozen=True)
class Stream:
    """The part of the data that some ranks share, and this rank's place among them."""

    datasets: Sequence[Dataset]
    """Of the stream's branches."""

    branches: tuple[int, ...]
    """Their numbers in the model."""

    sampler: Sampler
    rank: int = 0
    ranks: int = 1


class Loader:
    """Batches of this rank from a position of the stream on, a few steps ahead of the training loop.

    Args:
        stream: where structures come from.
        model: whose cutoff and neighbour cap graphs have.
        batch: size.
        unspecified_spin: share of neutral singlets whose multiplicity is left out, so that that is a trained input.
        threads: how many build graphs; neighbour lists are found outside Python's lock.
        ahead: steps.
        kept: graphs that stay in memory for the next time that they are drawn.
    """

    def __init__(
        self,
        stream: Stream,
        model: PotentialConfig,
        batch: BatchConfig,
        *,
        unspecified_spin: float = 0.0,
        threads: int = 2,
        ahead: int = 4,
        kept: int = 0,
    ) -> None:
        self._stream, self._model, self._batch = stream, model, batch
        self._unspecified_spin, self._threads, self._ahead = unspecified_spin, threads, ahead
        self._budget = BatchBudget(max_edges=batch.max_edges, max_atoms=2**31, max_structures=2**31)
        self._kept: dict[tuple[int, int], AtomGraph] = {}
        self._room = kept
        self._atoms = [d.atoms_per_structure for d in stream.datasets] if batch.max_atoms is not None else []

    def batches(self, position: int) -> Iterator[Batch]:
        """From ``position`` of the stream on, without end."""
        with ThreadPoolExecutor(self._threads) as pool:
            ahead: list[Future[Batch]] = []
            try:
                while True:
                    while len(ahead) < self._ahead:
                        bounds = self._plan(position)
                        start, stop = (int(b) for b in bounds[self._stream.rank : self._stream.rank + 2])
                        position = int(bounds[-1])
                        ahead.append(pool.submit(self.build, start, stop, position))
                    yield ahead.pop(0).result()
            finally:
                for future in ahead:
                    future.cancel()

    def build(self, start: int, stop: int, next_position: int) -> Batch:
        """The batch of positions ``start`` to ``stop``."""
        drawn = self._stream.sampler.at(np.arange(start, stop))
        graphs: list[AtomGraph | None] = [None] * len(drawn.position)
        for own in np.unique(drawn.branch):
            rows = np.flatnonzero(drawn.branch == own)
            for row, graph in zip(rows.tolist(), self._graphs(int(own), drawn, rows), strict=True):
                graphs[row] = graph
        parts = [AtomGraph.batch(part) for part in self._budget.pack(g for g in graphs if g is not None)]
        return Batch(parts, next_position)

    def _plan(self, position: int) -> Ints:
        return self._stream.sampler.plan(position, self._stream.ranks, self._batch, self._atoms)

    def _graphs(self, own: int, drawn: Draws, rows: Ints) -> Iterator[AtomGraph]:
        indices = drawn.index[rows].tolist()
        graphs = {i: graph for i in indices if (graph := self._kept.get((own, i)))}
        new = [i for i in dict.fromkeys(indices) if i not in graphs]
        frames = self._stream.datasets[own].subset(np.array(new, dtype=np.int64)) if new else None
        cutoff, cap = self._model.backbone.cutoff, self._model.max_neighbours
        for row, i in enumerate(new):
            assert frames is not None
            graphs[i] = frames.graph(row, cutoff, self._stream.branches[own], cap)
            if len(self._kept) < self._room:
                self._kept[own, i] = graphs[i]
        for i, position in zip(indices, drawn.position[rows].tolist(), strict=True):
            # A copy: what is cached on it in training is not for keeping.
            yield self._without_spin(graphs[i].replace(), position)

    def _without_spin(self, graph: AtomGraph, position: int) -> AtomGraph:
        """Forget the multiplicity of some neutral singlets, by the position alone."""
        singlet = int(graph.charge[0]) == 0 and int(graph.spin[0]) == 1
        if not singlet or self._unspecified_spin == 0:
            return graph
        draw = np.random.default_rng((self._stream.sampler.seed, position)).random()
        return graph.replace(spin=torch.zeros_like(graph.spin)) if draw < self._unspecified_spin else graph
