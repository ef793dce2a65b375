"""Small molecules and clusters: what is drawn, how they are put together, and the command."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.collections import s22
from ase.data import covalent_radii
from ase.symbols import Symbols
from scipy.spatial.distance import cdist

from gfmpot.data.frames import FrameSet
from gfmpot.recipes import label_clusters
from gfmpot.recipes._labelling import Job
from gfmpot.recipes.label_clusters import DISTANCE, beside, drawn, is_to_be_labelled, label, main, multiplicity
from gfmpot.recipes.label_substituted import Molecule, together


def test_molecules_are_of_nonmetals_and_of_no_benchmark() -> None:
    assert [name for name in ("CO2", "H2O", "NO", "O2", "NaCl", "S2", "CH3SH", "O") if is_to_be_labelled(name)] == [
        "CO2",
        "H2O",
        "NO",
        "O2",
    ]
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


def test_complexes_of_benchmarks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = s22["Water_dimer"]
    monkeypatch.setattr(label_clusters, "drawn", lambda rng: Molecule(pair.numbers, pair.positions))
    assert label(Job(Path(), [0], 0, 0)) == []


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tblite = pytest.importorskip("tblite.ase")
    out = tmp_path / "clusters.npz"
    monkeypatch.setattr(sys, "argv", ["label_clusters.py", "--out", str(out), "--structures", "12", "--workers", "1"])
    main()
    frames = FrameSet.from_npz(out)
    assert f"{out}: {len(frames)} structures of" in capsys.readouterr().out
    assert set(frames.charge) == {0}
    last = slice(-int(frames.atoms_per_structure[-1]), None)
    atoms = Atoms(frames.numbers[last], frames.positions[last])
    atoms.calc = tblite.TBLite(method="GFN2-xTB", multiplicity=int(frames.spin[-1]), verbosity=0)
    assert frames.energy[-1] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(frames.forces[last], atoms.get_forces(), atol=2e-3)


def test_without_tblite_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfmpot.recipes._qm9_labels.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["label_clusters.py", "--out", str(tmp_path / "out.npz")])
    with pytest.raises(SystemExit, match="pip install tblite"):
        main()
