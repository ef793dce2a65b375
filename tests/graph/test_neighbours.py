"""Neighbour lists against ASE's, and the neighbour cap."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc100, molecule
from ase.neighborlist import neighbor_list

from gfmpot.graph import NeighbourList, graph_from_atoms, neighbour_list
from gfmpot.graph.neighbours import completed_cell, nearest_only
from gfmpot.graph.ops import edge_vectors


def ours(atoms: Atoms, cutoff: float) -> NeighbourList:
    return neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def table(senders: np.ndarray, receivers: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """(E, 5) rows in the order that ours have: receiver, sender, shift."""
    order = np.lexsort((*shifts.T[::-1], senders, receivers))
    return np.column_stack([receivers, senders, shifts])[order]


@pytest.mark.parametrize("cutoff", [2.9, 5.0])
def test_equals_ase(structure: Atoms, cutoff: float) -> None:
    edges = ours(structure, cutoff)
    senders, receivers, shifts, distances = neighbor_list("ijSd", structure, cutoff)
    expected = table(senders, receivers, shifts)
    np.testing.assert_array_equal(table(*edges.edge_index, edges.cell_shifts), expected)
    np.testing.assert_allclose(np.sort(edges.distances), np.sort(distances), atol=1e-12)


def test_sorted_by_receiver_then_sender_then_shift(structure: Atoms) -> None:
    edges = ours(structure, 5.0)
    rows = np.column_stack([edges.edge_index[1], edges.edge_index[0], edges.cell_shifts])
    assert rows.tolist() == sorted(rows.tolist())


def test_edge_vectors_have_the_lengths_found(structure: Atoms) -> None:
    graph = graph_from_atoms(structure, cutoff=5.0)
    edges = ours(structure, 5.0)
    np.testing.assert_allclose(edge_vectors(graph).norm(dim=1).numpy(), edges.distances, atol=1e-12)


def test_each_pair_is_listed_in_both_directions(structure: Atoms) -> None:
    edges = ours(structure, 5.0)
    senders, receivers = edges.edge_index
    np.testing.assert_array_equal(
        table(senders, receivers, edges.cell_shifts), table(receivers, senders, -edges.cell_shifts)
    )


@pytest.mark.parametrize(
    ("atoms", "count"),
    [(bulk("Cu", "fcc", a=3.615), 42), (bulk("Fe", "bcc", a=2.87), 58), (bulk("C", "diamond", a=3.567), 86)],
)
def test_no_neighbour_within_the_cutoff_is_left_out(atoms: Atoms, count: int) -> None:
    per_atom = np.bincount(ours(atoms, 5.0).edge_index[1], minlength=len(atoms))
    assert per_atom.tolist() == [count] * len(atoms)


def test_cell_vectors_of_open_directions_mean_nothing() -> None:
    free = molecule("CH3CH2OH")
    boxed = free.copy()
    boxed.cell = np.diag([1.0, -0.5, 3.0])
    for a, b in zip(ours(free, 5.0), ours(boxed, 5.0), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (np.diag([3.0, 0.0, 3.0]), "periodic along b, but that cell vector is zero"),
        (np.array([[3.0, 0, 0], [0, 3.0, 0], [3.0, 3.0, 0]]), "linearly dependent"),
    ],
)
def test_unusable_cells_are_refused(cell: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbour_list(np.zeros((1, 3)), cell, np.ones(3, dtype=bool), 3.0)


def test_completed_cell_adds_unit_normals() -> None:
    cell = np.array([[2.0, 1.0, 0.0], [9.0, 9.0, 9.0], [0.0, 1.0, 3.0]])
    box = completed_cell(cell, np.array([True, False, True]))
    np.testing.assert_array_equal(box[[0, 2]], cell[[0, 2]])
    np.testing.assert_allclose(box @ box[1], [0.0, 1.0, 0.0], atol=1e-12)


def test_cap_keeps_the_nearest_of_each_receiver(salt: Atoms) -> None:
    edges = ours(salt, 6.0)
    capped = nearest_only(edges, 7)
    for atom in range(len(salt)):
        mine = np.sort(edges.distances[edges.edge_index[1] == atom])
        np.testing.assert_array_equal(np.sort(capped.distances[capped.edge_index[1] == atom]), mine[:7])


def test_cap_keeps_ties_whole() -> None:
    """In perfect fcc, 13 would cut the second shell of 6: all 12 + 6 stay, for every atom alike."""
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
    capped = nearest_only(ours(atoms, 5.0), 13)
    assert np.bincount(capped.edge_index[1]).tolist() == [18] * 4


def test_cap_beyond_the_number_of_neighbours_changes_nothing() -> None:
    atoms = fcc100("Al", (1, 1, 2), vacuum=4.0)
    edges = ours(atoms, 4.0)
    np.testing.assert_array_equal(nearest_only(edges, 1000).edge_index, edges.edge_index)


def test_cap_of_no_edges() -> None:
    assert nearest_only(ours(Atoms("Cu"), 5.0), 20).edge_index.shape == (2, 0)


@pytest.mark.parametrize("cutoff", [2.5, 5.0])
@pytest.mark.parametrize("thickness", [0.0, 1e-14, 3.0])
def test_vast_flat_structures(cutoff: float, thickness: float) -> None:
    """vesin alone ends the program with a division by zero here."""
    flat = np.array([[0, 14.8, 39.2], [thickness, -981.9, -218.8], [0, 747.3, -402.1], [0, 747.3, -400.1]])
    for scale in (1.0, 30.0):
        positions = flat * [1.0, scale, scale]
        positions[3] = positions[2] + [0.0, 0.0, 2.0]
        edges = neighbour_list(positions, np.zeros((3, 3)), np.zeros(3, bool), cutoff)
        assert edges.edge_index.T.tolist() == [[3, 2], [2, 3]]


def test_vast_flat_cells() -> None:
    positions = np.array([[1.0, 1.0, 1.0], [2999.0, 1.0, 1.0]])
    edges = neighbour_list(positions, np.diag([3000.0, 3000.0, 4.0]), np.ones(3, bool), 5.0)
    assert edges.edge_index.shape[1] == 2 * 2 + 2 * 3  # own images above and below; the other, thrice
    assert edges.distances.min() == pytest.approx(2.0)
