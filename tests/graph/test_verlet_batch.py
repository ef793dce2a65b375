"""Lists of many structures at once are those of each alone, edge for edge, and are searched as seldom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from ase import Atoms

from gfmpot.graph import AtomGraph, BatchError, VerletBatch, VerletList, graph_from_atoms
from gfmpot.graph.verlet_batch import BatchEdges

CUTOFF = 4.0


def lists_of(structures: Sequence[Atoms], skin: float = 0.6) -> list[VerletList]:
    lists = [VerletList(CUTOFF, skin) for _ in structures]
    for verlet, atoms in zip(lists, structures, strict=True):
        verlet.search(atoms.positions, atoms.cell.array, atoms.pbc)
    return lists


def tensors(structures: Sequence[Atoms]) -> tuple[torch.Tensor, torch.Tensor]:
    positions = np.concatenate([atoms.positions for atoms in structures])
    return torch.from_numpy(positions), torch.from_numpy(np.stack([atoms.cell.array for atoms in structures]))


def edges_of(batch: VerletBatch, structures: Sequence[Atoms]) -> BatchEdges:
    return batch(*tensors(structures))


def assert_as_fresh(batch: VerletBatch, structures: Sequence[Atoms]) -> None:
    found = edges_of(batch, structures)
    fresh = AtomGraph.batch([graph_from_atoms(atoms, cutoff=CUTOFF) for atoms in structures])
    assert torch.equal(found.edge_index, fresh.edge_index)
    assert torch.equal(found.cell_shifts, fresh.cell_shifts)
    assert torch.equal(found.structure_of_edge, fresh.structure_of_edge)


def test_along_a_random_walk(structures: list[Atoms]) -> None:
    lists, rng = lists_of(structures), np.random.default_rng(0)
    batch = VerletBatch()
    batch.arrange(lists)
    alone = lists_of(structures)
    for _ in range(25):
        assert_as_fresh(batch, structures)
        for verlet, atoms in zip(alone, structures, strict=True):
            verlet(atoms.positions, atoms.cell.array, atoms.pbc)
        for atoms in structures:
            atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
    assert [verlet.n_searches for verlet in lists] == [verlet.n_searches for verlet in alone]
    assert max(verlet.n_searches for verlet in lists) < 20


def test_along_a_random_walk_of_the_cell(structures: list[Atoms]) -> None:
    batch, rng = VerletBatch(), np.random.default_rng(1)
    batch.arrange(lists_of(structures))
    for _ in range(15):
        assert_as_fresh(batch, structures)
        for atoms in structures:
            strain = np.eye(3) + rng.normal(scale=0.004, size=(3, 3))
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            atoms.positions += rng.normal(scale=0.01, size=atoms.positions.shape)


def test_lengths_are_those_of_the_edges(structures: list[Atoms]) -> None:
    batch = VerletBatch()
    batch.arrange(lists_of(structures))
    found = edges_of(batch, structures)
    graph = AtomGraph.batch([graph_from_atoms(atoms, cutoff=CUTOFF) for atoms in structures])
    shifts = torch.einsum("ei,eij->ej", found.cell_shifts.double(), graph.cell[found.structure_of_edge])
    senders, receivers = found.edge_index
    vectors = graph.positions[receivers] - graph.positions[senders] + shifts
    assert torch.allclose(found.lengths, vectors.norm(dim=1), rtol=1e-14)


def test_structures_come_and_go(structures: list[Atoms]) -> None:
    """Lists of the structures that stay are not searched again."""
    lists, batch = lists_of(structures), VerletBatch()
    batch.arrange(lists)
    assert_as_fresh(batch, structures)
    order = [7, 0, 3, 1]
    staying, arriving = [structures[i] for i in order], structures[5].copy()
    (newcomer,) = lists_of([arriving])
    batch.arrange([*(lists[i] for i in order), newcomer])
    assert_as_fresh(batch, [*staying, arriving])
    assert all(verlet.n_searches == 1 for verlet in batch.lists)


def test_a_list_of_another_structure_is_searched(salt: Atoms) -> None:
    (verlet,), batch = lists_of([salt]), VerletBatch()
    batch.arrange([verlet])
    other = salt.copy()
    other.set_cell(salt.cell.array * 1.1, scale_atoms=True)
    other.positions[3] += 1.0
    assert_as_fresh(batch, [other])
    assert verlet.n_searches == 2


def test_wrapped_positions_are_unwrapped(structures: list[Atoms]) -> None:
    lists, batch, rng = lists_of(structures), VerletBatch(), np.random.default_rng(2)
    batch.arrange(lists)
    for atoms in structures:
        atoms.set_cell(atoms.cell.array * 1.01, scale_atoms=True)
        atoms.positions += rng.normal(scale=0.01, size=atoms.positions.shape)
    want, cell = tensors(structures)
    for atoms in structures:
        turns = rng.integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc
        atoms.positions += turns @ atoms.cell.array
    wrapped, _ = tensors(structures)
    assert (wrapped - want).abs().max() > 5
    assert torch.allclose(batch.unwrapped(wrapped, cell), want, atol=1e-10)


def test_bad_structures_are_named_and_the_others_go_on(salt: Atoms, slab: Atoms) -> None:
    structures = [salt, slab, salt.copy()]
    batch = VerletBatch()
    batch.arrange(lists_of(structures))
    salt.positions[0] += 1.0
    slab.cell[1] = 0.0
    structures[2].positions[0] += 1.0
    with pytest.raises(BatchError, match="structure 1: periodic along b, but that cell vector is zero") as caught:
        edges_of(batch, structures)
    assert list(caught.value.reasons) == [1]
    batch.arrange([batch.lists[0], batch.lists[2]])
    assert_as_fresh(batch, [salt, structures[2]])


def test_absurd_extents_are_refused_before_the_search(salt: Atoms) -> None:
    batch = VerletBatch()
    batch.arrange(lists_of([salt, salt]))
    positions, cell = tensors([salt, salt])
    cell[1] *= 1e7
    with pytest.raises(BatchError, match=r"structure 1: a cell vector of 5\.64e\+07 Å"):
        batch(positions, cell)


def test_a_list_without_a_search_is_refused() -> None:
    with pytest.raises(ValueError, match="has not searched yet"):
        VerletBatch().arrange([VerletList(CUTOFF)])
