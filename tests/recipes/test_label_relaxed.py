"""Labels of crystals that a model has relaxed: that they are at rest, what is made of them, and the command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from packed import by_emt

from gfmpot import GFMCalculator
from gfmpot.data.frames import FrameSet
from gfmpot.data.split import split_of_group
from gfmpot.recipes import label_crystals, label_relaxed
from gfmpot.recipes.label_crystals import Parents, _formula
from gfmpot.recipes.label_relaxed import HEAD, STRETCHED, around, main


def test_a_crystal_at_rest_is_stretched_strained_and_rattled() -> None:
    rest = bulk("NaCl", "rocksalt", a=5.7) * (2, 1, 1)
    same, stretched, *moved = around(rest, np.random.default_rng(0))
    np.testing.assert_array_equal(same.positions, rest.positions)
    np.testing.assert_array_equal(same.cell.array, rest.cell.array)
    lengths = stretched.cell.lengths() / rest.cell.lengths()
    assert lengths == pytest.approx(lengths[0])
    assert 0 < abs(lengths[0] - 1) < max(np.abs(STRETCHED))
    np.testing.assert_allclose(stretched.get_scaled_positions(), rest.get_scaled_positions(), atol=1e-12)
    assert len(moved) == len(label_relaxed.RATTLES)
    for atoms in moved:
        assert np.abs(np.linalg.solve(rest.cell.array, atoms.cell.array) - np.eye(3)).max() < 0.1
        places = atoms.positions - atoms.cell.cartesian_positions(rest.get_scaled_positions(wrap=False))
        assert 0 < np.abs(places).max() < 0.3


def test_half_have_other_elements_and_none_is_held_out(crystals: Path) -> None:
    parents, rng = Parents.read(crystals), np.random.default_rng(0)
    own = {int(group): _formula(atoms.numbers) for atoms, group in zip(parents.atoms, parents.groups, strict=True)}
    drawn = [parents.one(rng) for _ in range(300)]
    new = [formula for atoms, group in drawn if (formula := _formula(atoms.numbers)) != own[group]]
    assert 50 < len(new) < 200
    assert not parents.formulas_held_out.intersection(new)


def asked(crystals: Path, out: Path, *more: str) -> list[str]:
    """A command line."""
    given = ["--crystals", str(crystals), "--out", str(out), "--structures", "12", "--workers", "1"]
    return ["label_relaxed.py", *given, *more]


def test_the_command(
    crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def by_kinds(graphs: Sequence[Atoms]) -> list[tuple[Any, ...]]:
        return [tuple(by_emt(atoms).values()) for atoms in graphs]

    monkeypatch.setattr(label_crystals, "find_spec", lambda name: name)
    monkeypatch.setattr(label_crystals, "graph_of", lambda atoms: atoms)
    monkeypatch.setattr(label_crystals, "by_chgnet", by_kinds)
    out = tmp_path / "relaxed.npz"
    monkeypatch.setattr(sys, "argv", asked(crystals, out))
    main()
    frames = FrameSet.from_npz(out)
    assert f"{out}: {len(frames)} structures of" in capsys.readouterr().out
    assert set(tmp_path.iterdir()) == {out}
    assert len(frames) == 4 * 12
    assert {split_of_group(group) for group in frames.group} == {"train"}
    assert np.isfinite(frames.stress).all()
    ends = np.cumsum(frames.atoms_per_structure)
    made = []
    for i, (end, n) in enumerate(zip(ends, frames.atoms_per_structure, strict=True)):
        part = slice(end - n, end)
        made.append(Atoms(frames.numbers[part], frames.positions[part], cell=frames.cell[i], pbc=True))
        assert frames.energy[i] == pytest.approx(by_emt(made[-1])["energy"], abs=1e-4)  # the teacher's
    found = GFMCalculator(head=HEAD).evaluate_many(made)
    forces = [np.linalg.norm(result["forces"], axis=1).max() for result in found]
    assert max(forces[::4]) < 0.06  # the student rests
    assert np.median(forces[3::4]) > 0.3


def test_heads_that_cannot_relax_them_are_refused(
    crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_relaxed, "need_chgnet", lambda: None)
    monkeypatch.setattr(sys, "argv", asked(crystals, tmp_path / "relaxed.npz", "--head", "rmd17-pbe"))
    with pytest.raises(SystemExit, match="no crystals of the elements of rmd17-pbe"):
        main()
    monkeypatch.setattr(sys, "argv", asked(crystals, tmp_path / "relaxed.npz", "--head", "chgnet"))
    with pytest.raises(SystemExit, match="no head 'chgnet'"):
        main()
