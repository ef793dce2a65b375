"""Graphs of many structures at once, against single ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms

from gfmpot.graph import AtomGraph, InvalidStructureError, build_graph
from gfmpot.graph.joint import Searched, join, search
from gfmpot.graph.neighbours import FEW, order

CUTOFF = 5.0


def searched(atoms: Atoms, **options: int) -> Searched:
    return search(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff=CUTOFF, **options)


def single(atoms: Atoms, **options: int) -> AtomGraph:
    return build_graph(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff=CUTOFF, **options)


def assert_same(found: AtomGraph | None, expected: AtomGraph) -> None:
    assert found is not None
    for field in dataclasses.fields(AtomGraph):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_equal_to_single_graphs_bit_by_bit(structures: list[Atoms]) -> None:
    graph, wrong = join([searched(atoms) for atoms in structures], CUTOFF)
    assert_same(graph, AtomGraph.batch([single(atoms) for atoms in structures]))
    assert wrong == {}


def test_one_alone(structure: Atoms) -> None:
    assert_same(join([searched(structure)], CUTOFF)[0], single(structure))


def test_charge_and_spin(salt: Atoms) -> None:
    graph, _ = join([searched(salt, charge=1, spin=2), searched(salt)], CUTOFF)
    assert_same(graph, AtomGraph.batch([single(salt, charge=1, spin=2), single(salt)]))


def test_cap_on_neighbours(structures: list[Atoms]) -> None:
    graph, _ = join([searched(atoms) for atoms in structures], CUTOFF, max_neighbours=6)
    assert_same(graph, AtomGraph.batch([single(atoms, max_neighbours=6) for atoms in structures]))


def test_coincident_atoms_are_left_out(structures: list[Atoms]) -> None:
    bad = Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 0, 1.05]])
    many = [*structures[:3], bad, *structures[3:], bad]
    graph, wrong = join([searched(atoms) for atoms in many], CUTOFF)
    assert_same(graph, AtomGraph.batch([single(atoms) for atoms in structures]))
    assert list(wrong) == [3, len(many) - 1]
    with pytest.raises(InvalidStructureError) as error:
        single(bad)
    assert wrong[3] == str(error.value)
    assert join([searched(bad)], CUTOFF) == (None, {0: str(error.value)})


def test_other_mistakes_are_refused_at_once() -> None:
    with pytest.raises(InvalidStructureError, match="no atoms"):
        searched(Atoms())
    with pytest.raises(InvalidStructureError, match="periodic along c, but that cell vector is zero"):
        searched(Atoms("Cu", cell=[3, 3, 0], pbc=True))
    with pytest.raises(InvalidStructureError, match="multiplicity 2 is impossible"):
        searched(Atoms("He"), spin=2)


def test_nothing() -> None:
    assert join([], CUTOFF) == (None, {})


@pytest.mark.parametrize("far", [1, 10**6])
def test_order_is_that_of_five_keys(far: int) -> None:
    """Also where the possible edges are too many for one number."""
    rng = np.random.default_rng(0)
    index, shifts = rng.integers(0, 40, size=(2, 5000)) * far, rng.integers(-3, 4, size=(5000, 3)) * far
    rows = np.unique(np.column_stack([index.T, shifts]), axis=0)
    assert len(rows) > FEW
    rng.shuffle(rows)
    index, shifts = rows[:, :2].T, rows[:, 2:]
    expected = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], index[0], index[1]))
    np.testing.assert_array_equal(order(index, shifts), expected)
