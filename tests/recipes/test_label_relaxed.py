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
from gfmpot.recipes._labelling import Job
from gfmpot.recipes.label_crystals import Parents, reduced_formula
from gfmpot.recipes.label_relaxed import HEAD, STRETCHED, Begin, around, main


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


def test_half_have_other_elements_and_these_are_not_held_out(crystals: Path) -> None:
    parents, rng = Parents.read(crystals), np.random.default_rng(0)
    own = {
        int(group): reduced_formula(atoms.numbers) for atoms, group in zip(parents.atoms, parents.groups, strict=True)
    }
    drawn = [parents.one(rng) for _ in range(300)]
    new = [formula for atoms, group in drawn if (formula := reduced_formula(atoms.numbers)) != own[group]]
    assert 50 < len(new) < 200
    assert not parents.formulas_held_out.intersection(new)


def asked(crystals: Path, out: Path, *more: str) -> list[str]:
    """A command line."""
    given = ["--crystals", str(crystals), "--out", str(out), "--structures", "12", "--workers", "1"]
    return ["label_relaxed.py", *given, *more]


@pytest.fixture
def by_emt_alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """EMT in CHGNet's place; sizes of what it was asked for."""
    calls: list[int] = []

    def by_kinds(graphs: Sequence[Atoms]) -> list[tuple[Any, ...]]:
        calls.append(len(graphs))
        return [tuple(by_emt(atoms).values()) for atoms in graphs]

    monkeypatch.setattr(label_crystals, "find_spec", lambda name: name)
    monkeypatch.setattr(label_crystals, "graph_of", lambda atoms: atoms)
    monkeypatch.setattr(label_crystals, "by_chgnet", by_kinds)
    monkeypatch.setattr(label_relaxed, "PART", 5)
    return calls


def structures(frames: FrameSet) -> list[Atoms]:
    """All of a set."""
    ends = np.cumsum(frames.atoms_per_structure)
    parts = [slice(end - n, end) for end, n in zip(ends, frames.atoms_per_structure, strict=True)]
    return [
        Atoms(frames.numbers[part], frames.positions[part], cell=cell, pbc=True)
        for part, cell in zip(parts, frames.cell, strict=True)
    ]


def test_the_command(
    crystals: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    by_emt_alone: list[int],
) -> None:
    out = tmp_path / "relaxed.npz"
    monkeypatch.setattr(sys, "argv", asked(crystals, out))
    main()
    frames = FrameSet.from_npz(out)
    assert f"{out}: {len(frames)} structures of" in capsys.readouterr().out
    assert set(tmp_path.iterdir()) == {out}
    assert by_emt_alone == [4] * (len(frames) // 4)
    assert 20 < len(frames) < 4 * 12  # of five kinds, some of whose copies are held out
    assert np.isfinite(frames.stress).all()
    made = structures(frames)
    for atoms, energy in zip(made, frames.energy, strict=True):
        assert energy == pytest.approx(by_emt(atoms)["energy"], abs=1e-4)  # the teacher's
    found = GFMCalculator(head=HEAD).evaluate_many(made)
    forces = [np.linalg.norm(result["forces"], axis=1).max() for result in found]
    assert max(forces[::4]) < 0.06  # the student rests
    assert np.median(forces[3::4]) > 0.3


def test_crystals_stay_in_their_groups(crystals: Path, tmp_path: Path, monkeypatch: Any, by_emt_alone: Any) -> None:
    monkeypatch.setattr(label_crystals, "SUBSTITUTED", 0.0)
    monkeypatch.setattr(sys, "argv", asked(crystals, tmp_path / "relaxed.npz"))
    main()
    frames = FrameSet.from_npz(tmp_path / "relaxed.npz")
    assert {split_of_group(group) for group in frames.group} == {"train"}
    parents = Parents.read(crystals)
    own = {
        f"crystal/{k}": reduced_formula(atoms.numbers) for k, atoms in zip(parents.groups, parents.atoms, strict=True)
    }
    assert [own[group] for group in frames.group] == [reduced_formula(atoms.numbers) for atoms in structures(frames)]
    assert len({own[group] for group in frames.group}) > 2


def test_a_kill_changes_nothing(crystals: Path, tmp_path: Path, monkeypatch: Any, by_emt_alone: list[int]) -> None:
    whole, out = tmp_path / "whole.npz", tmp_path / "relaxed.npz"
    monkeypatch.setattr(sys, "argv", asked(crystals, whole))
    main()
    again, calls = label_relaxed.labelled, len(by_emt_alone)

    def killed(crystals: Sequence[tuple[Atoms, int]]) -> Any:
        if len(by_emt_alone) == 2 * calls - 1:  # in the last part of three
            raise KeyboardInterrupt
        return again(crystals)

    monkeypatch.setattr(label_relaxed, "labelled", killed)
    monkeypatch.setattr(sys, "argv", asked(crystals, out))
    with pytest.raises(KeyboardInterrupt):
        main()
    monkeypatch.setattr(label_relaxed, "labelled", again)
    main()
    assert len(by_emt_alone) <= 2 * calls + 1  # two parts were kept, and the last begins with two crystals
    one, other = np.load(whole), np.load(out)
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])


def test_parts_of_another_model_are_not_taken(
    crystals: Path, tmp_path: Path, monkeypatch: Any, by_emt_alone: Any
) -> None:
    monkeypatch.setattr(label_relaxed, "relax_as_done", lambda *_, **__: iter(()))
    for more in ([], ["--head", "mp-r2scan@chgnet"], ["--model", "large"]):
        monkeypatch.setattr(sys, "argv", asked(crystals, tmp_path / "relaxed.npz", *more))
        with pytest.raises(SystemExit, match="none of 12 structures could be labelled"):
            main()
    assert len({path.name for path in tmp_path.iterdir()}) == 3


def test_crystals_that_become_held_out_ones_are_left_out(by_emt_alone: Any, monkeypatch: Any) -> None:
    rows = [{}] * 4
    monkeypatch.setattr(label_relaxed, "labelled", lambda _: rows)
    salt, other = bulk("NaCl", "rocksalt", a=5.7), bulk("NaCl", "cesiumchloride", a=3.4)
    left = [
        len(label_relaxed.label(Job(Path("none"), [Begin("default", HEAD, salt, 0, held_out)], 0, 0)))
        for held_out in ((), (other,), (other, salt))
    ]
    assert left == [4, 4, 0]


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
