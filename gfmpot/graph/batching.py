"""Packing structures into batches by what they cost: edges and atoms, not their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Measured(Protocol):
    """Whatever has a number of atoms and of edges, such as an :class:`gfmpot.graph.AtomGraph`."""

    @property
    def n_atoms(self) -> int:
        """Atoms."""

    @property
    def n_edges(self) -> int:
        """Directed edges."""


T = TypeVar("T", bound=Measured)


@dataclass(frozen=True)
class BatchBudget:
    """The most that one batch may hold. Memory and time of a message-passing step grow with edges and atoms."""

    max_edges: int = 100_000
    max_atoms: int = 20_000
    max_structures: int = 4_096

    def __post_init__(self) -> None:
        for name in ("max_edges", "max_atoms", "max_structures"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def fits(self, structures: int, atoms: int, edges: int) -> bool:
        """Whether so many together stay within the budget."""
        return structures <= self.max_structures and atoms <= self.max_atoms and edges <= self.max_edges

    def pack(self, graphs: Iterable[T]) -> Iterator[list[T]]:
        """Consecutive graphs in lists that fit, in order; one that exceeds the budget by itself goes alone."""
        batch: list[T] = []
        atoms = edges = 0
        for graph in graphs:
            if batch and not self.fits(len(batch) + 1, atoms + graph.n_atoms, edges + graph.n_edges):
                yield batch
                batch, atoms, edges = [], 0, 0
            batch.append(graph)
            atoms, edges = atoms + graph.n_atoms, edges + graph.n_edges
        if batch:
            yield batch
