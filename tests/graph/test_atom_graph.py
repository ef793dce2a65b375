"""The container: batches, volumes, the way to PyTorch Geometric and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gfmpot.graph import AtomGraph, build_graph, edge_vectors, graph_from_atoms, sum_over_neighbours, sum_per_structure
from gfmpot.graph.ops import forces_from_edge_gradients, stress_from_edge_gradients


def graph(atoms: Atoms, *, labels: bool = False, branch: int | None = None) -> AtomGraph:
    plain = graph_from_atoms(atoms, cutoff=4.0)
    changes: dict[str, torch.Tensor] = {}
    if branch is not None:
        changes["branch"] = torch.tensor([branch])
    if labels:
        n = len(atoms)
        changes |= {"energy": torch.tensor([-1.5]), "forces": torch.ones(n, 3), "stress": torch.full((1, 6), torch.nan)}
    return plain.replace(**changes)


def fields(of: AtomGraph) -> dict[str, torch.Tensor]:
    return {f.name: getattr(of, f.name) for f in dataclasses.fields(of) if getattr(of, f.name) is not None}


def assert_same(a: AtomGraph, b: AtomGraph) -> None:
    assert fields(a).keys() == fields(b).keys()
    for name, value in fields(a).items():
        assert value.dtype == fields(b)[name].dtype
        torch.testing.assert_close(value, fields(b)[name], rtol=0, atol=0, equal_nan=True)


# PyTorch Geometric compiles a few functions with TorchScript when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

WATER, SALT, ATOM = molecule("H2O"), bulk("NaCl", "rocksalt", a=5.64), Atoms("Cu")


def test_batch_shifts_indices_and_keeps_the_rest() -> None:
    parts = [graph(WATER), graph(ATOM), graph(SALT)]
    batch = AtomGraph.batch(parts)
    assert batch.atoms_per_structure.tolist() == [3, 1, 2]
    assert batch.structure_of_atom.tolist() == [0, 0, 0, 1, 2, 2]
    np.testing.assert_array_equal(
        edge_vectors(batch).numpy(), np.concatenate([edge_vectors(part).numpy() for part in parts])
    )
    edges = torch.bincount(batch.structure_of_edge, minlength=3)
    assert edges.tolist() == [part.n_edges for part in parts]


@pytest.mark.parametrize("labels", [False, True])
def test_part_of_a_batch_is_the_batch_of_its_part(labels: bool) -> None:
    parts = [graph(atoms, labels=labels, branch=1) for atoms in (WATER, ATOM, SALT, WATER)]
    batch = AtomGraph.batch(parts)
    for start, stop in ((0, 4), (0, 1), (1, 2), (1, 3), (3, 4)):
        assert_same(batch.part(start, stop), AtomGraph.batch(parts[start:stop]))


def test_receivers_of_a_batch_ascend() -> None:
    batch = AtomGraph.batch([graph(SALT), graph(WATER), graph(SALT)])
    assert bool((batch.receivers.diff() >= 0).all())


def test_batches_of_batches() -> None:
    inner = AtomGraph.batch([graph(WATER), graph(SALT)])
    assert_same(AtomGraph.batch([inner, graph(ATOM)]), AtomGraph.batch([graph(WATER), graph(SALT), graph(ATOM)]))


def test_batch_of_one_is_itself() -> None:
    single = graph(WATER)
    assert AtomGraph.batch([single]) is single


def test_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="empty list"):
        AtomGraph.batch([])


@pytest.mark.parametrize("name", ["energy", "forces", "stress", "branch"])
def test_partly_labelled_batch_is_refused(name: str) -> None:
    full = graph(WATER, labels=True, branch=0)
    with pytest.raises(ValueError, match=f"cannot batch: 2 of 3 graphs have '{name}'; give it to all or none"):
        AtomGraph.batch([full, full.replace(**{name: None}), full])


def test_missing_labels_as_nan_make_a_batch() -> None:
    batch = AtomGraph.batch([graph(WATER, labels=True), graph(SALT, labels=True)])
    assert batch.energy is not None
    assert batch.forces is not None
    assert batch.stress is not None
    assert batch.energy.tolist() == [-1.5, -1.5]
    assert batch.forces.shape == (5, 3)
    assert batch.stress.shape == (2, 6)


@pytest.mark.parametrize("labels", [True, False])
def test_pyg_round_trip(labels: bool) -> None:
    original = AtomGraph.batch([graph(WATER, labels=labels, branch=1), graph(SALT, labels=labels, branch=0)])
    assert_same(AtomGraph.from_pyg(original.to_pyg()), original)


def test_pyg_batches_are_ours() -> None:
    from torch_geometric.data import Batch

    parts = [graph(WATER), graph(ATOM), graph(SALT)]
    joined = Batch.from_data_list([part.to_pyg() for part in parts])
    assert_same(AtomGraph.from_pyg(joined), AtomGraph.batch(parts))


def test_pyg_names() -> None:
    single = graph(WATER)
    data = single.to_pyg()
    assert data.num_nodes == 3
    assert data.num_edges == single.n_edges
    assert torch.equal(data.pos, single.positions)
    assert torch.equal(data.z, single.atomic_numbers)
    assert torch.equal(data.batch, torch.zeros(3, dtype=torch.int64))


def test_pyg_data_may_carry_more() -> None:
    data = graph(WATER).to_pyg()
    data.note = "kept elsewhere"
    assert_same(AtomGraph.from_pyg(data), graph(WATER))


def test_volume_of_either_handedness() -> None:
    right = bulk("Cu", "fcc", a=3.6)
    left = right.copy()
    left.set_cell(right.cell.array[[1, 0, 2]], scale_atoms=False)
    assert graph(right).volume.item() == pytest.approx(3.6**3 / 4)
    assert graph(left).volume.item() == pytest.approx(3.6**3 / 4)


@pytest.mark.parametrize(
    ("cell", "pbc"), [(np.eye(3), (False,) * 3), (np.diag([5.0, 5, 0]), (True, True, False)), (np.zeros((3, 3)), False)]
)
def test_no_volume_without_periodicity_or_with_a_zero_vector(cell: np.ndarray, pbc: object) -> None:
    assert graph(Atoms("Cu", cell=cell, pbc=pbc)).volume.isnan().all()


def test_slab_with_three_vectors_has_a_volume() -> None:
    assert graph(Atoms("Cu", cell=[4, 4, 9], pbc=(True, True, False))).volume.item() == pytest.approx(144.0)


def test_to_moves_every_tensor() -> None:
    moved = graph(WATER, labels=True, branch=0).to("meta")
    assert {value.device.type for value in fields(moved).values()} == {"meta"}


def test_replace_leaves_the_original() -> None:
    original = graph(WATER)
    changed = original.replace(charge=torch.tensor([1]))
    assert (original.charge.item(), changed.charge.item()) == (0, 1)
    assert changed.positions is original.positions


def test_sum_over_neighbours_counts_at_the_receiver() -> None:
    batch = AtomGraph.batch([graph(SALT), graph(ATOM)])
    counted = sum_over_neighbours(torch.ones(batch.n_edges), batch)
    assert counted.tolist() == torch.bincount(batch.receivers, minlength=3).tolist()
    assert counted[2] == 0


def test_sum_per_structure() -> None:
    batch = AtomGraph.batch([graph(WATER), graph(ATOM)])
    sums = sum_per_structure(batch.atomic_numbers.double().unsqueeze(1), batch)
    assert sums.tolist() == [[10.0], [29.0]]


def test_forces_and_stress_of_a_pair_energy() -> None:
    """E = ½ Σ_edges |r|² has −∂E/∂r and ∂E/∂strain that autograd knows."""
    batch = AtomGraph.batch([graph(SALT), graph(WATER)])
    vectors = edge_vectors(batch)
    positions, strain = batch.positions.clone().requires_grad_(True), torch.zeros(2, 3, 3, dtype=torch.float64)
    strain.requires_grad_(True)
    frame = torch.eye(3, dtype=torch.float64) + strain
    moved = torch.einsum("ni,nij->nj", positions, frame[batch.structure_of_atom])
    cell = batch.cell @ frame
    energy = 0.5 * (edge_vectors(batch.replace(positions=moved, cell=cell)) ** 2).sum()
    force, virial = torch.autograd.grad(energy, (positions, strain))
    torch.testing.assert_close(forces_from_edge_gradients(vectors, batch), -force)
    stress = stress_from_edge_gradients(vectors, vectors, batch)
    symmetric = (0.5 * (virial + virial.mT))[0] / batch.volume[0]
    torch.testing.assert_close(stress[0], symmetric[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]])
    assert stress[1].isnan().all()


def test_kinds_tell_apart_what_enters_a_network_differently() -> None:
    water = [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]
    neutral = build_graph([8, 1, 1], water, cutoff=3.0)
    cation = build_graph([8, 1, 1], water, cutoff=3.0, charge=1, spin=2)
    hydroxyl = build_graph([8, 1], water[:2], cutoff=3.0, charge=1, spin=1)
    batch = AtomGraph.batch([neutral, neutral, cation, hydroxyl])
    first, kind = batch.kinds
    assert len(first) == 6
    assert kind[:3].tolist() == kind[3:6].tolist()  # neutral, nothing stated: the size plays no part
    assert kind[1] == kind[2]
    assert len({*kind[:2].tolist(), *kind[6:8].tolist(), *kind[9:].tolist()}) == 6
    assert all(kind[atom] == k for k, atom in enumerate(first.tolist()))
