"""Small molecules and clusters: what is drawn, how they are put together, and the command."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data import covalent_radii
from ase.symbols import Symbols
from qm9_tables import write_qm9
from scipy.spatial.distance import cdist

from gfmpot.data.frames import FrameSet
from gfmpot.data.split import split_of_group
from gfmpot.finetune.reader import Example
from gfmpot.finetune.readers.qm9 import QM9
from gfmpot.recipes import label_clusters
from gfmpot.recipes.label_clusters import DISTANCE, beside, drawn, held_out, is_to_be_labelled, main, multiplicity
from gfmpot.recipes.label_substituted import together


def test_molecules_are_of_nonmetals() -> None:
    names = ("CO2", "H2O", "NO", "O2", "NaCl", "S2", "O")
    assert [name for name in names if is_to_be_labelled(name)] == ["CO2", "H2O", "NO", "O2"]
    assert [multiplicity(molecule(name)) for name in ("H2O", "NO", "O2")] == [1, 2, 3]


def test_molecules_are_put_near_each_other_and_do_not_touch() -> None:
    rng = np.random.default_rng(0)
    water, benzene = molecule("H2O"), molecule("C6H6")
    both = beside(benzene, water.copy(), rng)
    assert both.numbers.tolist() == [*benzene.numbers, *water.numbers]
    radii = covalent_radii[both.numbers]
    apart = cdist(both.positions[:12], both.positions[12:]) / (radii[:12, None] + radii[12:])
    assert DISTANCE <= apart.min() < DISTANCE + 0.2
    np.testing.assert_allclose(both[12:].get_all_distances(), water.get_all_distances(), atol=1e-9)


def test_single_ones_water_and_mixtures_are_drawn() -> None:
    rng, seen = np.random.default_rng(0), Counter[str]()
    for _ in range(200):
        made = drawn(rng)
        parts = together(made.numbers, made.positions)
        count = max(parts) + 1
        kinds = {Symbols(made.numbers[np.array(parts) == k]).get_chemical_formula() for k in range(count)}
        assert len(made.numbers) <= label_clusters.MOST_ATOMS
        assert len(kinds) <= 2
        assert count == 1 or made.multiplicity == 1
        seen["single" if count == 1 else "water" if kinds == {"H2O"} else "mixed"] += 1
        seen["radicals"] += made.multiplicity == 2
    assert min(seen["single"], seen["water"], seen["mixed"]) > 30
    assert seen["radicals"] > 5


def test_what_benchmarks_and_pretraining_hold_out_is_left_out(tmp_path: Path) -> None:
    source = write_qm9(tmp_path / "qm9", 40)
    found = held_out(source)
    assert {"H4O2", "CH3Cl", "C2H6", "C2H5Cl"} <= found  # two waters, of S22
    assert {"H2O", "CO2"} & found == set()
    examples = [one for one in QM9().read(source, range(40)) if isinstance(one, Example)]
    held = {
        Symbols(one.frame.numbers).get_chemical_formula()
        for one in examples
        if split_of_group(str(one.frame.group)) != "train"
    }
    assert held
    assert held <= found


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tblite = pytest.importorskip("tblite.ase")
    source, out = write_qm9(tmp_path / "qm9", 12), tmp_path / "clusters.npz"
    options = ["--qm9", str(source), "--out", str(out), "--structures", "12", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["label_clusters.py", *options])
    main()
    frames = FrameSet.from_npz(out)
    assert f"{out}: {len(frames)} structures of" in capsys.readouterr().out
    assert set(frames.charge) == {0}
    ends = np.cumsum(frames.atoms_per_structure)
    for group, end, n in zip(frames.group, ends, frames.atoms_per_structure, strict=True):
        formula = Symbols(frames.numbers[end - n : end]).get_chemical_formula()
        assert group == f"g2/{formula}"
        assert formula not in held_out(source)
    last = slice(-int(frames.atoms_per_structure[-1]), None)
    atoms = Atoms(frames.numbers[last], frames.positions[last])
    atoms.calc = tblite.TBLite(method="GFN2-xTB", multiplicity=int(frames.spin[-1]), verbosity=0)
    assert frames.energy[-1] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(frames.forces[last], atoms.get_forces(), atol=2e-3)


def test_without_tblite_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfmpot.recipes._qm9_labels.find_spec", lambda name: None)
    source = write_qm9(tmp_path / "qm9", 3)
    monkeypatch.setattr(sys, "argv", ["label_clusters.py", "--qm9", str(source), "--out", str(tmp_path / "out.npz")])
    with pytest.raises(SystemExit, match="pip install tblite"):
        main()
