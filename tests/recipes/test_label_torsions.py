"""Labels of turned molecules: what turns, what is kept, and that the command goes on after a kill."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from qm9_tables import write_qm9

from gfmpot.data.frame import Frame
from gfmpot.data.frames import FrameSet
from gfmpot.recipes import label_torsions
from gfmpot.recipes._qm9_labels import bonds
from gfmpot.recipes.label_torsions import labelled, main, turned, turning

pytest.importorskip("tblite")


def frame(atoms: Atoms) -> Frame:
    numbers = atoms.numbers.astype(np.int64)
    return Frame(numbers, atoms.positions.copy(), np.nan, np.full((len(atoms), 3), np.nan), "1")


def test_bonds_turn_where_they_can() -> None:
    ethanol = molecule("CH3CH2OH")
    found = turning(ethanol.numbers, ethanol.positions)
    assert sorted("".join(sorted(str(ethanol.symbols[i] + ethanol.symbols[j]))) for i, j, _ in found) == ["CC", "CO"]
    assert {len(moves) for _, _, moves in found} == {9}
    for i, j, moves in found:
        assert moves[j]
        assert not moves[i]
    for name in ("C2H4", "C6H6", "H2O", "CH4"):
        assert turning(molecule(name).numbers, molecule(name).positions) == []


def test_only_dihedrals_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_torsions, "RATTLE", 0.0)
    start = molecule("trans-butane")
    angles = []
    for seed in range(10):
        positions = turned(frame(start), np.random.default_rng(seed))
        assert positions is not None
        now = Atoms(start.numbers, positions)
        assert np.array_equal(bonds(now.numbers, positions), bonds(start.numbers, start.positions))
        for i, j in bonds(start.numbers, start.positions):
            assert now.get_distance(i, j) == pytest.approx(start.get_distance(i, j), abs=1e-5)
        carbons = np.flatnonzero(now.numbers == 6)
        angles.append(now.get_distance(*carbons[[0, -1]]))
    assert np.std(angles) > 0.1
    assert turned(frame(molecule("H2O")), np.random.default_rng(0)) is None


def test_labels_are_those_of_the_calculator_of_tblite() -> None:
    from tblite.ase import TBLite

    atoms = molecule("CH3OH")
    label = labelled(atoms.numbers, atoms.positions)
    assert label is not None
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    assert label[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(label[1], atoms.get_forces(), atol=1e-5)


def test_the_command_and_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(label_torsions, "PART", 5)
    source, out = write_qm9(tmp_path / "qm9", 30), tmp_path / "turned.npz"
    command = ["label_torsions.py", "--qm9", str(source), "--out", str(out), "--structures", "12", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", command)
    label, calls = label_torsions.labelled, []

    def dies(numbers: np.ndarray, positions: np.ndarray) -> object:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return label(numbers, positions)

    monkeypatch.setattr(label_torsions, "labelled", dies)
    with pytest.raises(KeyboardInterrupt):
        main()
    assert not out.exists()
    main()
    assert 12 <= len(calls) - 8 + 5 <= 15  # the first five were kept
    frames = FrameSet.from_npz(out)
    assert f"{out}: {len(frames)} structures of" in capsys.readouterr().out
    assert len(frames) > 8
    assert set(tmp_path.iterdir()) == {source, out}
    meta = json.loads(str(np.load(out)["meta"]))
    assert meta["theory"].startswith("GFN2-xTB")
    for i, group in enumerate(frames.group):
        assert int(group) % 6 == 4  # methanol; ethane is held out, and nothing else can turn
        assert len(frames.graph(i, 5.0).atomic_numbers) == 6
    assert np.isfinite(frames.energy).all()
    assert np.ptp(frames.energy) > 1e-3


def test_broken_files_are_user_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, out = tmp_path / "qm9.npz", tmp_path / "turned.npz"
    broken.write_bytes(b"PK\x03\x04")
    monkeypatch.setattr(sys, "argv", ["label_torsions.py", "--qm9", str(broken), "--out", str(out)])
    with pytest.raises(SystemExit, match=r"error: .*qm9\.npz: not a whole \.npz"):
        main()
    assert not out.exists()
