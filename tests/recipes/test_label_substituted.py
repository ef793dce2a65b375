"""Halogenated molecules and ions: what is made of a molecule, and what is kept of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from qm9_tables import write_qm9

from gfmpot.data.frame import Frame
from gfmpot.data.frames import FrameSet
from gfmpot.recipes import label_substituted
from gfmpot.recipes._labelling import Job
from gfmpot.recipes._qm9_labels import bonds
from gfmpot.recipes.label_substituted import (
    Molecule,
    deprotonated,
    halogenated,
    label,
    main,
    protonated,
    structures_of,
    together,
)

pytest.importorskip("tblite")


def frame(name: str) -> Frame:
    atoms = molecule(name)
    return Frame(atoms.numbers.astype(np.int64), atoms.positions.copy(), np.nan, np.full((len(atoms), 3), np.nan), "1")


def formula(made: Molecule | None) -> str:
    assert made is not None
    return Atoms(made.numbers).get_chemical_formula()


def test_hydrogens_of_carbon_become_halogens() -> None:
    rng, seen = np.random.default_rng(0), set()
    for _ in range(40):
        made = halogenated(frame("CH3OH"), rng)
        assert made is not None
        assert made.charge == 0
        assert sorted(made.numbers[[0, 1]]) == [6, 8]
        assert {tuple(pair) for pair in bonds(made.numbers, made.positions)} >= {(0, 1)}
        assert set(together(made.numbers, made.positions)) == {0}
        assert np.count_nonzero(made.numbers == 1) >= 1  # that of oxygen
        seen.add(formula(made))
    assert {"CHF3O", "CH3ClO"} <= seen
    assert halogenated(frame("H2O"), rng) is None


@pytest.mark.parametrize(("name", "cation", "anion"), [("NH3", "H4N", "H2N"), ("H2O", "H3O", "HO")])
def test_protons_come_and_go(name: str, cation: str, anion: str) -> None:
    rng = np.random.default_rng(0)
    more, less = protonated(frame(name), rng), deprotonated(frame(name), rng)
    assert (formula(more), formula(less)) == (cation, anion)
    assert more is not None
    assert less is not None
    assert (more.charge, less.charge) == (1, -1)
    added = np.linalg.norm(more.positions[:-1] - more.positions[-1], axis=1)
    assert added[0] < 1.1  # at the heavy atom, which is the first
    assert added[1:].min() > 1.2  # and away from the others


def test_acids_give_away_the_proton_of_oxygen() -> None:
    for seed in range(5):
        left = deprotonated(frame("CH3OH"), np.random.default_rng(seed))
        assert left is not None
        assert not (np.linalg.norm(left.positions - frame("CH3OH").positions[3], axis=1) < 0.1).any()
    assert formula(deprotonated(frame("CH4"), np.random.default_rng(0))) == "CH3"
    assert protonated(frame("CH4"), np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    "made",
    [protonated(frame("H2O"), np.random.default_rng(0)), Molecule(frame("O2").numbers, frame("O2").positions, 0, 3)],
    ids=["hydronium", "triplet oxygen"],
)
def test_structures_have_the_labels_of_their_own_charge_and_multiplicity(made: Molecule) -> None:
    from tblite.ase import TBLite

    found = structures_of(made, np.random.default_rng(1))
    assert len(found) == 6
    atoms = Atoms(made.numbers)
    atoms.calc = TBLite(method="GFN2-xTB", charge=made.charge, multiplicity=made.multiplicity, verbosity=0)
    for positions, energy, forces in found:
        atoms.positions = positions
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-4)
        np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-3)
    energies = [energy for _, energy, _ in found]
    assert min(energies) == min(energies[:3])  # relaxed


def test_violent_structures_and_those_of_benchmarks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Molecule(frame("CH4").numbers, frame("CH4").positions * 0.85, 0)
    forces = [np.linalg.norm(found, axis=1).max() for _, _, found in structures_of(made, np.random.default_rng(0))]
    monkeypatch.setattr(label_substituted, "MAX_FORCE", 0.99 * max(forces))
    calmer = structures_of(made, np.random.default_rng(0))
    assert len(calmer) == len(forces) - 1
    monkeypatch.setattr(label_substituted, "CHANGES", (halogenated,))
    monkeypatch.setattr(label_substituted, "HALOGENS", np.array([17, 17, 17]))
    methane = frame("CH4")
    rows = label(Job(Path(), [methane] * 12, 0, 0))
    found = {Atoms(row["numbers"]).get_chemical_formula() for row in rows}
    assert "CCl4" in found
    assert "CH3Cl" not in found


def test_what_falls_apart_or_grows_together_is_left_out() -> None:
    rng = np.random.default_rng(0)
    far = Molecule(np.array([1, 17]), np.array([[0.0, 0, 0], [0, 0, 1.8]]))
    assert together(far.numbers, far.positions) == [0, 1]
    assert structures_of(far, rng) == []  # a molecule
    repelling = Molecule(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 0.7]]), multiplicity=3)
    assert together(repelling.numbers, repelling.positions) == [0, 0]
    assert structures_of(repelling, rng) == []


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_qm9(tmp_path / "qm9", 12)
    out = tmp_path / "more.npz"
    options = ["--qm9", str(source), "--out", str(out), "--structures", "16", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["label_substituted.py", *options])
    main()
    frames = FrameSet.from_npz(out)
    assert {spin for _, spin in frames.states()} == {1}
    assert {charge for charge, _ in frames.states()} == {-1, 0, 1}
    assert np.isfinite(frames.energy).all()
    assert frames.largest_force().max() < 15
