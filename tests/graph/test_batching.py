"""Packing by edges and atoms."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms

from gfmpot.graph import AtomGraph, BatchBudget, graph_from_atoms


def chain(atoms: int) -> AtomGraph:
    """``atoms`` atoms 1 Å apart, 2·(atoms − 1) edges."""
    positions = np.zeros((atoms, 3))
    positions[:, 0] = np.arange(atoms)
    return graph_from_atoms(Atoms("H" * atoms, positions), cutoff=1.5)


def pack(budget: BatchBudget, sizes: list[int]) -> list[list[int]]:
    return [[graph.n_atoms for graph in batch] for batch in budget.pack(map(chain, sizes))]


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (BatchBudget(max_atoms=9), [[3, 4, 2], [8, 1], [1, 5]]),
        (BatchBudget(max_edges=14), [[3, 4, 2], [8, 1, 1], [5]]),
        (BatchBudget(max_structures=2), [[3, 4], [2, 8], [1, 1], [5]]),
        (BatchBudget(), [[3, 4, 2, 8, 1, 1, 5]]),
    ],
)
def test_packs_in_order_up_to_the_budget(budget: BatchBudget, expected: list[list[int]]) -> None:
    assert pack(budget, [3, 4, 2, 8, 1, 1, 5]) == expected


def test_nothing_is_lost_and_every_batch_fits() -> None:
    sizes = np.random.default_rng(0).integers(1, 12, size=200).tolist()
    budget = BatchBudget(max_edges=40, max_atoms=30, max_structures=6)
    batches = list(budget.pack(map(chain, sizes)))
    assert [graph.n_atoms for batch in batches for graph in batch] == sizes
    for batch in batches:
        assert budget.fits(len(batch), sum(g.n_atoms for g in batch), sum(g.n_edges for g in batch))


def test_batches_are_full() -> None:
    """The first of each batch would not have fitted into the one before."""
    budget = BatchBudget(max_atoms=30)
    batches = pack(budget, np.random.default_rng(1).integers(1, 12, size=100).tolist())
    assert all(sum(before) + after[0] > 30 for before, after in pairwise(batches))


@pytest.mark.parametrize("budget", [BatchBudget(max_atoms=5), BatchBudget(max_edges=8)])
def test_oversize_goes_alone(budget: BatchBudget) -> None:
    assert pack(budget, [2, 9, 2, 2]) == [[2], [9], [2, 2]]


def test_no_graphs_no_batches() -> None:
    assert list(BatchBudget().pack([])) == []


def test_packing_is_lazy() -> None:
    """A batch is out before the whole stream is read: a million candidates need not fit into memory."""
    read = []

    def stream() -> Iterator[AtomGraph]:
        for size in (3, 3, 3, 3):
            read.append(size)
            yield chain(size)

    next(BatchBudget(max_structures=1).pack(stream()))
    assert len(read) == 2


@pytest.mark.parametrize("name", ["max_edges", "max_atoms", "max_structures"])
def test_budget_must_allow_something(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        BatchBudget(**{name: 0})
