"""Evaluation in batches, which are halved where memory does not suffice."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import torch
from ase.symbols import Symbols

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
        """Results of each structure, evaluated in batches within the budget, in order.

        Args:
            graphs: of one structure each.

        Raises:
            ValueError: a structure without an answer; the message names its place.
            MemoryError: as for one batch.
        """
        begun = 0
        for batch in self.budget.pack(graphs):
            for part in self.budget.pack(batch):  # by a budget that may have shrunk meanwhile
                try:
                    results = self(AtomGraph.batch(part))
                except ValueError as error:
                    raise self._named(error, part, begun) from error
                yield from results
                begun += len(part)

    def _named(self, error: ValueError, part: Sequence[AtomGraph], begun: int) -> ValueError:
        """The error of the first structure that has none of its own answer, with its place among all."""
        for i, graph in enumerate(part):
            try:
                self(graph)
            except ValueError as alone:
                formula = Symbols(graph.atomic_numbers.cpu().numpy()).get_chemical_formula()
                return type(alone)(f"structure {begun + i} ({formula}): {alone}")
        return error


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether a smaller batch may succeed; also on a CPU, whose allocator has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
