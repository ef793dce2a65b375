"""From atoms to graphs: what is kept, and what is refused with which words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gfmpot.graph import UNSPECIFIED_SPIN, InvalidStructureError, build_graph, graph_from_atoms, neighbour_list
from gfmpot.graph.build import charge_and_spin

WATER: Mapping[str, Any] = {
    "numbers": [8, 1, 1],
    "positions": [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]],
    "cutoff": 3.0,
}
NAN, INF = float("nan"), float("inf")


def with_position(index: int, position: list[float]) -> list[list[float]]:
    positions = [list(p) for p in WATER["positions"]]
    positions[index] = position
    return positions


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({"numbers": [], "positions": np.zeros((0, 3))}, "no atoms"),
    "dummy element": ({"numbers": [8, 0, 1]}, "atom 1 has atomic number 0, which is no element"),
    "negative element": ({"numbers": [8, 1, -1]}, "atom 2 has atomic number -1"),
    "element beyond the table": ({"numbers": [119, 1, 1]}, "atom 0 has atomic number 119"),
    "NaN": ({"positions": with_position(1, [0, NAN, 0])}, "atom 1 has a position that is not finite"),
    "infinite": ({"positions": with_position(2, [INF, 0, 0])}, "atom 2 has a position that is not finite"),
    "cell not finite": ({"cell": np.full((3, 3), NAN), "pbc": True}, "the cell is not finite"),
    "wrong number of positions": ({"positions": np.zeros((2, 3))}, "expected positions (3, 3) for 3 atoms"),
    "wrong shape of cell": ({"cell": np.ones(3)}, "got (3, 3) and (3,)"),
    "coincident": ({"positions": with_position(2, [0.96, 0, 0.05])}, "atoms 1 (Z=1) and 2 (Z=1) are 0.05 Å apart"),
    "same place": ({"positions": with_position(2, [0, 0, 0])}, "atoms 0 (Z=8) and 2 (Z=1) are 0 Å apart"),
    "zero periodic vector": (
        {"cell": np.diag([5.0, 5, 0]), "pbc": True},
        "periodic along c, but that cell vector is zero",
    ),
    "flat cell": ({"cell": [[5, 0, 0], [0, 5, 0], [5, 5, 0]], "pbc": True}, "linearly dependent"),
    "even multiplicity": ({"spin": 2}, "multiplicity 2 is impossible with 10 electrons: it must be odd"),
    "odd multiplicity": ({"spin": 3, "charge": 1}, "multiplicity 3 is impossible with 9 electrons: it must be even"),
    "multiplicity zero": ({"spin": 0}, "multiplicity 0 is impossible"),
    "more unpaired than there are": ({"spin": 13}, "at most 11"),
    "too few electrons": ({"charge": 11}, "charge +11 removes more electrons than the 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_culprit(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(InvalidStructureError, match=re.escape(message)):
        build_graph(**{**WATER, **changes})


def test_refusals_are_value_errors() -> None:
    assert issubclass(InvalidStructureError, ValueError)


def test_coincidence_across_a_boundary_is_found() -> None:
    atoms = Atoms("Cu2", [[0.02, 0, 0], [2.97, 0, 0]], cell=[3, 8, 8], pbc=True)
    with pytest.raises(InvalidStructureError, match=r"atoms 0 \(Z=29\) and 1 \(Z=29\) are 0.05 Å apart"):
        graph_from_atoms(atoms, cutoff=5.0)


def test_an_atom_on_its_own_image_is_refused() -> None:
    with pytest.raises(InvalidStructureError, match=r"atoms 0 \(Z=29\) and 0 \(Z=29\) are 0.05 Å apart"):
        build_graph([29], [[0, 0, 0]], np.diag([0.05, 5, 5]), True, cutoff=3.0)


@pytest.mark.parametrize(
    ("charge", "spin"), [(0, None), (0, 1), (0, 3), (1, 2), (-1, 2), (2, 1), (10, 1), (-3, None), (0, 11)]
)
def test_possible_states_are_accepted(charge: int, spin: int | None) -> None:
    graph = build_graph(**WATER, charge=charge, spin=spin)
    assert graph.charge.tolist() == [charge]
    assert graph.spin.tolist() == [UNSPECIFIED_SPIN if spin is None else spin]


def test_types_and_shapes() -> None:
    graph = build_graph(**WATER)
    assert (graph.n_structures, graph.n_atoms, graph.n_edges) == (1, 3, 6)
    for name in ("positions", "cell"):
        assert getattr(graph, name).dtype == torch.float64
    for name in ("atomic_numbers", "edge_index", "cell_shifts", "structure_of_atom", "charge", "spin"):
        assert getattr(graph, name).dtype == torch.int64
    assert graph.pbc.tolist() == [[False, False, False]]
    assert graph.branch is None


def test_single_precision_input_is_kept_as_it_is_in_double() -> None:
    positions = np.array(WATER["positions"], dtype=np.float32)
    graph = build_graph(WATER["numbers"], positions, cutoff=3.0)
    np.testing.assert_array_equal(graph.positions.numpy(), positions.astype(np.float64))


def test_graph_is_independent_of_the_arrays_it_came_from() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    graph = graph_from_atoms(atoms, cutoff=4.0)
    before = graph.positions.clone(), graph.cell.clone(), graph.atomic_numbers.clone()
    atoms.positions += 1.0
    atoms.cell[:] *= 2.0
    atoms.numbers[:] = 6
    for kept, now in zip(before, (graph.positions, graph.cell, graph.atomic_numbers), strict=True):
        assert torch.equal(kept, now)


def test_atoms_are_not_changed() -> None:
    atoms = molecule("H2O")
    before = atoms.copy()
    graph_from_atoms(atoms, cutoff=3.0, charge=1, spin=2)
    assert atoms == before
    assert atoms.info == {}


def test_info_takes_precedence_over_arguments() -> None:
    atoms = molecule("H2O")
    atoms.info.update(charge=-1, spin=2)
    graph = graph_from_atoms(atoms, cutoff=3.0, charge=2, spin=1)
    assert (graph.charge.item(), graph.spin.item()) == (-1, 2)


def test_spin_none_in_info_means_unspecified() -> None:
    atoms = molecule("H2O")
    atoms.info["spin"] = None
    assert graph_from_atoms(atoms, cutoff=3.0, spin=1).spin.item() == UNSPECIFIED_SPIN


@pytest.mark.parametrize("charge", [1, 1.0, np.int64(1), np.float32(1.0), "1", np.array(1)])
def test_whole_numbers_of_any_type(charge: object) -> None:
    atoms = Atoms("Na", info={"charge": charge})
    assert charge_and_spin(atoms) == (1, None)


@pytest.mark.parametrize("value", [0.5, "plus", NAN, INF, [1, 2]])
@pytest.mark.parametrize("name", ["charge", "spin"])
def test_other_values_in_info_are_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidStructureError, match=f"{name} must be a whole number, got"):
        graph_from_atoms(Atoms("Na", info={name: value}), cutoff=3.0)


def test_one_flag_or_three_for_pbc() -> None:
    cell = np.eye(3) * 6.0
    assert build_graph(**WATER, cell=cell, pbc=True).pbc.tolist() == [[True] * 3]
    assert build_graph(**WATER, cell=cell, pbc=[True, False, True]).pbc.tolist() == [[True, False, True]]


def test_search_is_used() -> None:
    calls = []

    def search(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> Any:
        calls.append(len(positions))
        return neighbour_list(positions, cell, pbc, 1.0)

    assert build_graph(**WATER, search=search).n_edges == 4
    assert calls == [3]


def test_max_neighbours_keeps_shells() -> None:
    graph = graph_from_atoms(bulk("Cu", "fcc", a=3.6), cutoff=5.0, max_neighbours=3)
    assert graph.n_edges == 12


@pytest.mark.parametrize(
    ("positions", "cell", "pbc", "message"),
    [
        ([[0, 0, 0], [1e9, 0, 0]], None, False, "atoms 1e.09 Å apart"),
        ([[0, 0, 0], [1, 0, 0]], [[1e9, 0, 0], [0, 5, 0], [0, 0, 5]], True, "cell vector of 1e.09 Å"),
    ],
)
def test_absurd_extents_are_refused_before_they_crash_the_search(
    positions: list[list[float]], cell: list[list[float]] | None, pbc: bool, message: str
) -> None:
    with pytest.raises(InvalidStructureError, match=message):
        build_graph([1, 1], positions, cell, pbc, cutoff=3.0)


def test_unwrapped_atoms_may_be_very_far() -> None:
    graph = build_graph([1, 1], [[0, 0, 0], [1 + 5e7, 0, 0]], [[5, 0, 0], [0, 5, 0], [0, 0, 5]], True, cutoff=2.0)
    assert graph.n_edges == 2
