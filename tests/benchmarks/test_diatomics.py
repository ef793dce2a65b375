"""Numbers, references and pictures of benchmarks/diatomics.py, on curves whose numbers are known."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from ase import Atoms

from gfmpot.calculators import GFMCalculator
from gfmpot.inference import Predictor
from gfmpot.models import BranchInfo, Potential, preset, save
from gfmpot.models.presets import untrained

O2 = ("O", "O")
BOND, DEPTH, RATE = 1.2, 5.0, 2.5


@pytest.fixture(scope="module")
def diatomics(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("diatomics")


@pytest.fixture(scope="module")
def measures(diatomics: ModuleType) -> ModuleType:
    return importlib.import_module("diatomics_measures")


@pytest.fixture(scope="module")
def potential() -> Potential:
    """Untrained, with the repulsion of nuclei."""
    e0 = {"H": -1.0, "O": -2.0, "Fe": -3.0}
    branches = [BranchInfo("a-pbe", "PBE", e0=e0), BranchInfo("b-pbe0", "PBE0", e0={"He": 0.0, "O": -2.0})]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return untrained(preset("small"), branches)


def morse(measures: ModuleType, start: float = 0.5, add: Callable[[np.ndarray], np.ndarray] | None = None):
    """A curve of Morse's, plus another energy whose force is found by differences."""
    r = np.arange(start, 4.0, 0.01)
    decay = np.exp(-RATE * (r - BOND))
    energy, force = DEPTH * (decay**2 - 2 * decay), 2 * RATE * DEPTH * (decay**2 - decay)
    if add:
        energy, force = energy + add(r), force - (add(r + 1e-5) - add(r - 1e-5)) / 2e-5
    return measures.Curve(r, energy, force)


def test_a_good_curve(measures: ModuleType) -> None:
    found = measures.measures(morse(measures), O2)
    assert found["tortuosity"] == pytest.approx(1.0)
    assert found["force_flips"] == found["well"] == 0
    assert found["energy_jump"] < 0.02
    assert found["conservation"] < 1e-4
    assert (found["bond"], found["depth"]) == (pytest.approx(BOND), pytest.approx(DEPTH))
    assert found["largest_force"] == pytest.approx(morse(measures).force[0])
    assert found["lowest_force"] == pytest.approx(np.interp(0.6 * 1.32, *_force(measures)), abs=3)
    for verdict in ("is_repulsive", "is_smooth", "has_no_well"):
        assert found[verdict]


def _force(measures: ModuleType) -> tuple[np.ndarray, np.ndarray]:
    curve = morse(measures)
    return curve.distance, curve.force


def test_a_hole_at_short_range(measures: ModuleType) -> None:
    curve = morse(measures, add=lambda r: -60 * np.exp(-(((r - 0.7) / 0.05) ** 2)))
    found = measures.measures(curve, O2)
    inner = curve.distance < 0.9
    least = curve.energy[inner].argmin()
    outer_wall = curve.energy[inner][least:].max()
    assert found["well"] == pytest.approx(outer_wall - curve.energy[inner].min())
    assert found["force_flips"] == 2
    assert found["tortuosity"] > 1.1
    assert found["lowest_force"] == pytest.approx(curve.force[curve.distance <= 0.6 * 1.32].min())
    assert not found["is_repulsive"]
    assert not found["has_no_well"]


def test_no_way_up_at_short_range(measures: ModuleType) -> None:
    found = measures.measures(morse(measures, add=lambda r: -300 * np.exp(-((r / 0.45) ** 4))), O2)
    assert found["well"] == 0  # a fall, not a well
    assert not found["is_repulsive"]


def test_a_jump_is_no_smooth_curve(measures: ModuleType) -> None:
    curve = morse(measures)
    broken = measures.Curve(curve.distance, curve.energy + 0.5 * (curve.distance > 2.005), curve.force)
    found = measures.measures(broken, O2)
    step = int(np.searchsorted(curve.distance, 2.005))
    size = curve.force[[step - 1, step]].__abs__().max() * 0.01 + 0.01
    assert found["conservation"] == pytest.approx(0.5 / size, rel=1e-3)
    assert not found["is_smooth"]
    down = measures.Curve(curve.distance, curve.energy - 0.5 * (curve.distance > 2.005), curve.force)
    steps = np.diff(down.energy)[step - 2 : step + 1]
    expected = np.abs(steps[[0, 1, 1, 2]]).sum() + measures.energy_jump(curve)
    assert measures.energy_jump(down) == pytest.approx(expected)


def test_flat_curves_have_no_number(measures: ModuleType) -> None:
    r = np.arange(0.2, 3.0, 0.01)
    flat = measures.Curve(r, 1e-6 * np.sin(50 * r), 1e-5 * np.cos(50 * r))
    found = measures.measures(flat, ("He", "He"))
    assert np.isnan(found["tortuosity"])
    assert found["force_flips"] == found["energy_jump"] == 0


def test_a_short_bond_of_the_reference_is_no_spurious_well(measures: ModuleType) -> None:
    short = morse(measures, start=0.9)
    pair = ("V", "V")  # whose bond is 0.4 of the covalent sum here
    assert measures.measures(short, pair)["well"] > 1
    found = measures.measures(short, pair, short)
    assert found["well"] == 0
    assert found["is_repulsive"]
    assert [found[name] for name in ("energy_mae", "force_mae", "bond_error", "depth_error")] == pytest.approx([0] * 4)


def packed(path: Path, curve, numbers: tuple[int, int], axis: np.ndarray) -> Path:
    """The curve as a packed file, its farthest point first, along any axis."""
    r, force = curve.distance[::-1, None], curve.force[::-1, None]
    positions = np.stack([0 * r * axis, r * axis], axis=1).reshape(-1, 3) + 7.0
    forces = np.stack([-force * axis, force * axis], axis=1).reshape(-1, 3)
    count = len(r)
    arrays = {"natoms": np.full(count, 2), "numbers": np.tile(numbers, count), "energy": curve.energy[::-1] - 99.0}
    np.savez(path, positions=positions, forces=forces, **arrays)
    return path


def test_references_are_read(measures: ModuleType, tmp_path: Path) -> None:
    curve = morse(measures)
    path = packed(tmp_path / "a.npz", curve, (8, 1), np.array([0.6, 0.0, -0.8]))
    (pair,), (found,) = zip(*measures.read_reference(path).items(), strict=True)
    assert pair == ("H", "O")
    np.testing.assert_allclose(found.distance, curve.distance, atol=1e-12)
    np.testing.assert_allclose(found.energy, curve.energy - curve.energy[-1], atol=1e-12)
    np.testing.assert_allclose(found.force, curve.force, atol=1e-10)


def test_other_structures_are_no_reference(measures: ModuleType, tmp_path: Path) -> None:
    zeros = np.zeros((3, 3))
    np.savez(tmp_path / "a.npz", natoms=[3], numbers=[1, 1, 8], positions=zeros, forces=zeros, energy=[0.0])
    with pytest.raises(ValueError, match="expected pairs, got structures of 3 atoms"):
        measures.read_reference(tmp_path / "a.npz")


def test_pairs_are_those_that_a_head_covers(diatomics: ModuleType, potential: Potential) -> None:
    same = [("H", "H"), ("He", "He"), ("O", "O"), ("Fe", "Fe")]
    assert diatomics.pairs_of(Predictor(potential), None) == [*same, ("H", "O"), ("H", "Fe"), ("O", "Fe")]
    of_head = diatomics.pairs_of(Predictor(potential, head="b-pbe0"), ["O", "He"])
    assert of_head == [("He", "He"), ("O", "O"), ("He", "O")]
    with pytest.raises(ValueError, match="Fe: not covered; the model or head has He O"):
        diatomics.pairs_of(Predictor(potential, head="b-pbe0"), ["Fe", "O"])


def test_curves_are_what_the_calculator_says(diatomics: ModuleType, measures: ModuleType, potential: Potential) -> None:
    predictor = Predictor(potential, head="a-pbe", precision="fp64")
    curve = diatomics.curve_of(predictor, ("O", "Fe"), 0.05)
    calculator = GFMCalculator(potential, head="a-pbe", precision="fp64")
    apart = Atoms("OFe", [[0, 0, 0], [0, 0, 50]], calculator=calculator).get_potential_energy()
    for i in (0, 20, 60):
        atoms = Atoms("OFe", [[0, 0, 0], [0, 0, curve.distance[i]]], calculator=calculator)
        assert curve.energy[i] == pytest.approx(atoms.get_potential_energy() - apart, abs=1e-9)
        assert curve.force[i] == pytest.approx(atoms.get_forces()[1, 2], abs=1e-9)
    assert measures.measures(curve, ("O", "Fe"))["is_repulsive"]  # by the nuclei, whatever the network says


def test_all_of_it(
    diatomics: ModuleType,
    measures: ModuleType,
    potential: Potential,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, picture = save(potential, tmp_path / "m.safetensors"), tmp_path / "p.png"
    reference = packed(tmp_path / "r.npz", morse(measures), (8, 8), np.array([1.0, 0.0, 0.0]))
    options = {"--model": model, "--json": tmp_path / "o.json", "--plot": picture, "--reference": reference}
    words = [str(word) for pair in options.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["diatomics.py", *words, "--step", "0.02", "--elements", "H", "O"])
    diatomics.main()
    said = capsys.readouterr().out
    assert "2 elements with themselves" in said
    assert "1 pairs of elements" in said
    rows = {row["pair"]: row for row in json.loads((tmp_path / "o.json").read_text())["diatomics"]}
    assert list(rows) == ["H-H", "O-O", "H-O"]
    assert "energy_mae" in rows["O-O"]
    assert "energy_mae" not in rows["H-O"]
    for path in (picture, tmp_path / "p-pairs.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
