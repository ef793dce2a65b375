"""Evaluation in batches, which are halved where memory does not suffice."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import torch

from gfmpot.graph import AtomGraph, BatchBudget

R = TypeVar("R")


class InBatches(ABC, Generic[R]):
    """Graphs to one result for each structure."""

    device: torch.device
    budget: BatchBudget

    @abstractmethod
    def _results(self, graph: AtomGraph) -> list[R]:
        """Of each structure of a batch that fits into memory."""

    def __call__(self, graph: AtomGraph) -> list[R]:
        """Results of each structure in one batch, which is halved where memory does not suffice.

        Raises:
            ValueError: a structure without an answer: unknown elements, or numbers that are not finite.
            MemoryError: one structure that does not fit by itself.
        """
        try:
            return self._results(graph)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            if graph.n_structures == 1:
                raise MemoryError(
                    f"{graph.n_atoms} atoms and {graph.n_edges} edges do not fit into the memory of {self.device}: "
                    "use a lower precision, another device, or a smaller structure"
                ) from error
        edges, middle = min(self.budget.max_edges, graph.n_edges // 2), graph.n_structures // 2
        self.budget = dataclasses.replace(self.budget, max_edges=max(1, edges))
        return self(graph.part(0, middle)) + self(graph.part(middle, graph.n_structures))

    def many(self, graphs: Iterable[AtomGraph]) -> Iterator[R]:
        """Results of each structure, evaluated in batches within the budget, in order; errors as for one batch."""
        for batch in self.budget.pack(graphs):
            for part in self.budget.pack(batch):  # by a budget that may have shrunk meanwhile
                yield from self(AtomGraph.batch(part))


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether a smaller batch may succeed; also on a CPU, whose allocator has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
