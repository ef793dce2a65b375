"""A list with a skin gives what a fresh search gives, edge for edge, and searches seldom."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list

from gfmpot.graph import VerletList, graph_from_atoms, neighbour_list
from gfmpot.graph.ops import edge_vectors

CUTOFF = 4.0


def assert_as_fresh(verlet: VerletList, atoms: Atoms) -> None:
    args = atoms.positions, atoms.cell.array, atoms.pbc
    kept, fresh = verlet(*args), neighbour_list(*args, CUTOFF)
    np.testing.assert_array_equal(kept.edge_index, fresh.edge_index)
    np.testing.assert_array_equal(kept.cell_shifts, fresh.cell_shifts)
    np.testing.assert_allclose(kept.distances, fresh.distances, rtol=1e-14)


def test_along_a_random_walk(structure: Atoms) -> None:
    verlet, rng = VerletList(CUTOFF, skin=0.6), np.random.default_rng(0)
    for _ in range(40):
        assert_as_fresh(verlet, structure)
        structure.positions += rng.normal(scale=0.03, size=structure.positions.shape)
    assert 1 < verlet.n_searches < 30


def test_along_a_random_walk_of_the_cell(structure: Atoms) -> None:
    verlet, rng = VerletList(CUTOFF, skin=0.6), np.random.default_rng(1)
    for _ in range(30):
        assert_as_fresh(verlet, structure)
        strain = np.eye(3) + rng.normal(scale=0.004, size=(3, 3))
        structure.set_cell(structure.cell.array @ strain, scale_atoms=True)
        structure.positions += rng.normal(scale=0.01, size=structure.positions.shape)
    assert verlet.n_searches < 30


def test_sudden_changes_of_the_cell(salt: Atoms) -> None:
    verlet = VerletList(CUTOFF, skin=0.5)
    for factor in (1.0, 0.8, 1.3, 0.95, 1.0):
        changed = salt.copy()
        changed.set_cell(salt.cell.array * factor, scale_atoms=True)
        assert_as_fresh(verlet, changed)


def test_cell_changes_without_the_atoms(salt: Atoms) -> None:
    verlet = VerletList(CUTOFF, skin=0.5)
    for stretch in np.linspace(0.0, 0.2, 9):
        salt.cell[0, 0] = 5.64 + stretch
        assert_as_fresh(verlet, salt)


def test_after_wrapping(structure: Atoms) -> None:
    """Positions jump by lattice vectors, and so must the shifts of the edges."""
    verlet = VerletList(CUTOFF, skin=0.5)
    structure.positions += 0.37
    assert_as_fresh(verlet, structure)
    structure.wrap()
    assert_as_fresh(verlet, structure)


def test_after_wrapping_edge_vectors_are_the_same_set(salt: Atoms) -> None:
    verlet = VerletList(CUTOFF, skin=0.5)
    salt.positions += [3.0, -2.0, 9.0]
    before = edge_vectors(graph_from_atoms(salt, cutoff=CUTOFF, search=verlet))
    salt.wrap()
    after = edge_vectors(graph_from_atoms(salt, cutoff=CUTOFF, search=verlet))
    np.testing.assert_allclose(_as_rows(before.numpy()), _as_rows(after.numpy()), atol=1e-9)


def _as_rows(vectors: np.ndarray) -> np.ndarray:
    rounded = vectors.round(6) + 0.0
    return rounded[np.lexsort(rounded.T)]


@pytest.mark.parametrize(("moved", "searches"), [(0.249, 1), (0.251, 2)])
def test_searches_again_when_half_the_skin_is_used(salt: Atoms, moved: float, searches: int) -> None:
    verlet = VerletList(CUTOFF, skin=0.5)
    assert_as_fresh(verlet, salt)
    salt.positions[3, 1] += moved
    assert_as_fresh(verlet, salt)
    assert verlet.n_searches == searches


def test_displacements_count_from_the_last_search(salt: Atoms) -> None:
    """Steps of 0.1 Å: the third is the first beyond 0.25 Å, and so on."""
    verlet, counts = VerletList(CUTOFF, skin=0.5), []
    for _ in range(7):
        assert_as_fresh(verlet, salt)
        counts.append(verlet.n_searches)
        salt.positions[0, 2] += 0.1
    assert counts == [1, 1, 1, 2, 2, 2, 3]


def test_without_skin_every_move_is_a_search(salt: Atoms) -> None:
    verlet = VerletList(CUTOFF, skin=0.0)
    for expected in (1, 2, 3):
        assert_as_fresh(verlet, salt)
        assert verlet.n_searches == expected
        salt.positions[0, 0] += 0.01


def test_affine_strain_alone_uses_little_of_the_skin(salt: Atoms) -> None:
    verlet = VerletList(CUTOFF, skin=0.5)
    for _ in range(10):
        assert_as_fresh(verlet, salt)
        salt.set_cell(salt.cell.array * 0.99, scale_atoms=True)
    assert verlet.n_searches == 1


def test_another_structure_is_noticed(salt: Atoms, slab: Atoms) -> None:
    verlet = VerletList(CUTOFF, skin=0.5)
    for atoms in (salt, slab, salt[:4], salt):
        assert_as_fresh(verlet, atoms)
    assert verlet.n_searches == 4


def test_another_periodicity_is_noticed(salt: Atoms) -> None:
    verlet = VerletList(CUTOFF, skin=0.5)
    assert_as_fresh(verlet, salt)
    salt.pbc = (True, True, False)
    assert_as_fresh(verlet, salt)
    assert verlet.n_searches == 2


def test_caller_may_reuse_its_arrays(salt: Atoms) -> None:
    """The reference geometry is a copy: moving atoms in place is a move."""
    verlet = VerletList(CUTOFF, skin=0.5)
    verlet(salt.positions, salt.cell.array, salt.pbc)
    salt.positions[:] += np.random.default_rng(2).normal(scale=0.5, size=salt.positions.shape)
    found = verlet(salt.positions, salt.cell.array, salt.pbc)
    assert len(found.distances) == len(neighbor_list("i", salt, CUTOFF))


def test_negative_skin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"skin must not be negative, got -0.1"):
        VerletList(CUTOFF, skin=-0.1)
