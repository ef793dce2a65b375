"""Labelled frames: reading, joining, splitting, reference energies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from gfmpot.data import FrameSet, fit_reference_energies, split_of_group
from gfmpot.graph import InvalidStructureError


def labelled(symbol: str = "Cu", n: int = 3) -> list[Atoms]:
    frames = []
    for seed in range(n):
        atoms = bulk(symbol, cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        atoms.get_stress(), atoms.get_forces()
        atoms.info["group"] = f"{symbol}{seed // 2}"
        frames.append(atoms)
    return frames


def test_from_atoms_keeps_labels() -> None:
    frames = labelled()
    data = FrameSet.from_atoms(frames)
    graph = data.graph(1, cutoff=4.0, branch=2)
    assert graph.energy.item() == pytest.approx(frames[1].get_potential_energy())
    np.testing.assert_array_equal(graph.forces.numpy(), frames[1].get_forces())
    np.testing.assert_allclose(graph.stress[0].numpy(), frames[1].get_stress())
    assert graph.branch.tolist() == [2]
    assert data.group.tolist() == ["Cu0", "Cu0", "Cu1"]


def test_missing_labels_are_nan() -> None:
    data = FrameSet.from_atoms([molecule("H2O")])
    assert np.isnan(data.energy).all()
    assert np.isnan(data.forces).all()
    assert np.isnan(data.largest_force()).all()


def test_join_and_subset() -> None:
    both = FrameSet.join("both", [FrameSet.from_atoms(labelled("Cu")), FrameSet.from_atoms(labelled("Al", 2))])
    assert len(both) == 5
    picked = both.subset([4, 0])
    assert picked.composition()[0, 12] == 4
    assert picked.composition()[1, 28] == 4
    assert picked.energy.tolist() == both.energy[[4, 0]].tolist()
    np.testing.assert_array_equal(picked.forces[:4], both.forces[16:20])


def test_npz_round_trip(tmp_path: Path) -> None:
    data = FrameSet.from_atoms(labelled())
    np.savez(
        tmp_path / "cu.npz",
        natoms=data.atoms_per_structure,
        numbers=data.numbers.astype(np.uint8),
        positions=data.positions,
        energy=data.energy,
        cell=data.cell,
        pbc=data.pbc,
        group=np.array([0, 0, 1]),
        group_labels=np.array(["first", "second"]),
    )
    read = FrameSet.from_npz(tmp_path / "cu.npz")
    assert read.name == "cu"
    assert read.group.tolist() == ["first", "first", "second"]
    assert np.isnan(read.forces).all()
    assert read.graph(0, 4.0).n_edges == data.graph(0, 4.0).n_edges
    assert len(read.sha256) == 64


def test_npz_without_what_is_needed(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", natoms=np.array([2]), numbers=np.array([1, 1]))
    with pytest.raises(ValueError, match="missing positions, energy"):
        FrameSet.from_npz(tmp_path / "bad.npz")
    np.savez(tmp_path / "short.npz", natoms=[3], numbers=[1, 1], positions=np.zeros((2, 3)), energy=[0.0])
    with pytest.raises(ValueError, match="natoms sums to 3"):
        FrameSet.from_npz(tmp_path / "short.npz")


def test_bad_frame_is_named() -> None:
    data = FrameSet.from_atoms([molecule("H2O"), Atoms("H2")], name="water.db")
    with pytest.raises(InvalidStructureError, match=r"water\.db, structure 1: atoms 0"):
        data.graph(1, cutoff=4.0)


def test_split_depends_on_the_group_alone() -> None:
    names = [f"molecule-{i}" for i in range(4000)]
    sides = [split_of_group(name, valid=0.1, test=0.2) for name in names]
    assert sides.count("test") == pytest.approx(800, abs=80)
    assert sides.count("valid") == pytest.approx(400, abs=60)
    assert sides == [split_of_group(name, valid=0.1, test=0.2) for name in names]
    assert sides != [split_of_group(name, valid=0.1, test=0.2, seed=1) for name in names]
    with pytest.raises(ValueError, match="something to train on"):
        split_of_group("x", valid=0.5, test=0.5)


def composition(*formulas: dict[int, int]) -> np.ndarray:
    table = np.zeros((len(formulas), 118))
    for row, formula in enumerate(formulas):
        for z, count in formula.items():
            table[row, z - 1] = count
    return table


def test_reference_energies_are_recovered() -> None:
    rng = np.random.default_rng(0)
    counts = composition(*({1: int(a), 6: int(b), 8: int(c)} for a, b, c in rng.integers(1, 8, (200, 3))))
    energies = counts[:, [0, 5, 7]] @ np.array([-13.6, -1030.0, -2040.0])
    fitted = fit_reference_energies(counts, energies, ridge=1e-9)
    assert fitted == pytest.approx({"H": -13.6, "C": -1030.0, "O": -2040.0}, abs=1e-3)


def test_elements_that_only_occur_together_share() -> None:
    """Mg and O in a fixed ratio: a bare pseudo-inverse is free to give them opposite, enormous values."""
    counts = composition({12: 1, 8: 1}, {12: 2, 8: 2}, {12: 4, 8: 4})
    fitted = fit_reference_energies(counts, np.array([-12.0, -24.0, -48.0]))
    assert fitted == pytest.approx({"O": -6.0, "Mg": -6.0}, abs=1e-2)


def test_rare_and_absent_elements_are_unsupported() -> None:
    counts = composition(*[{1: 2}] * 5, {1: 1, 9: 1})
    fitted = fit_reference_energies(counts, np.full(6, -30.0), min_structures=2)
    assert set(fitted) == {"H"}
    with pytest.raises(ValueError, match="no structure of 1 is labelled"):
        fit_reference_energies(counts[:1], np.array([np.nan]))
