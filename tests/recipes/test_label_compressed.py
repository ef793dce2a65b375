"""Labels of squeezed crystals: from a crystal at rest to the equation of state, and the command."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import GPa

from gfmpot import GFMCalculator
from gfmpot.data.frames import FrameSet
from gfmpot.data.split import split_of_group
from gfmpot.recipes._equation_of_state import STIFFENING, Rest, at_rest
from gfmpot.recipes.label_compressed import SCANNED, main, scaled

HEAD = "mptrj-pbe-u@chgnet"


def test_rest_is_where_the_energy_is_least() -> None:
    rest = at_rest(SCANNED, -3.0 + 4.0 * (SCANNED - 1.013) ** 2)
    assert rest is not None
    assert (rest.scale, rest.energy) == (pytest.approx(1.013), pytest.approx(-3.0))
    assert rest.stiffness == pytest.approx(8.0 * 1.013**2)
    assert at_rest(SCANNED, SCANNED) is None
    assert at_rest(SCANNED, -SCANNED) is None


def test_equation_of_state_has_the_bulk_modulus_and_rises() -> None:
    bulk_modulus, volume = 140 * GPa, 11.8  # copper
    rest = Rest(1.0, -3.5, 9 * bulk_modulus * volume)
    lengths = np.linspace(0.5, 1.0, 501)
    energies, volumes = rest.squeezed(lengths), volume * lengths**3
    assert energies[-1] == pytest.approx(-3.5)
    pressure = -np.gradient(energies, volumes)
    assert (np.diff(pressure) < 0).all()
    modulus = -volumes * np.gradient(pressure, volumes)
    assert modulus[-3] == pytest.approx(bulk_modulus, rel=0.03)
    stiffening = np.diff(modulus[[-30, -3]]) / np.diff(pressure[[-30, -3]])
    assert stiffening[0] == pytest.approx(STIFFENING, rel=0.1)


def test_the_command(
    crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compressed.npz"
    given = ["--crystals", str(crystals), "--head", HEAD, "--out", str(out), "--structures", "8", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["label_compressed.py", *given])
    main()
    frames = FrameSet.from_npz(out)
    assert f"{out}: {len(frames)} structures" in capsys.readouterr().out
    assert set(tmp_path.iterdir()) == {out}
    assert len(frames) >= 4
    assert {split_of_group(group) for group in frames.group} == {"train"}
    assert np.isnan(frames.forces).all()
    assert np.isnan(frames.stress).all()
    calculator = GFMCalculator(head=HEAD)
    ends = np.cumsum(frames.atoms_per_structure)
    for i, (end, n) in enumerate(zip(ends, frames.atoms_per_structure, strict=True)):
        part = slice(end - n, end)
        atoms = Atoms(frames.numbers[part], frames.positions[part], cell=frames.cell[i], pbc=True)
        found = calculator.evaluate_many([scaled(atoms, s) for s in np.linspace(1.0, 2.0, 51)])
        least = min(result["energy"] for result in found)
        assert frames.energy[i] > least - 0.01 * len(atoms)  # squeezing costs energy


def test_heads_that_do_not_know_the_elements(crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["label_compressed.py", "--crystals", str(crystals), "--out", str(tmp_path / "out.npz"), "--head"]
    monkeypatch.setattr(sys, "argv", [*given, "rmd17-pbe"])
    with pytest.raises(SystemExit, match="no crystals of the elements of rmd17-pbe"):
        main()
    monkeypatch.setattr(sys, "argv", [*given, "mptrj"])
    with pytest.raises(SystemExit, match="no head 'mptrj'"):
        main()


def test_scaled_keeps_what_it_was_given() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    assert scaled(atoms, 0.5).get_volume() == pytest.approx(atoms.get_volume() / 8)
    assert atoms.get_volume() == pytest.approx(5.6**3 / 4)
