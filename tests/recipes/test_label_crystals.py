"""Labels of more crystals: what they are made from, what may come out, and that the command goes on after a kill."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from packed import by_emt

from gfmpot.data.frames import FrameSet
from gfmpot.data.split import split_of_group
from gfmpot.recipes import _labelling, label_crystals
from gfmpot.recipes.label_crystals import Parents, clashes, enlarged, main, reduced_formula, substituted


def test_parents_are_the_least_rattled_of_training(crystals: Path, tmp_path: Path) -> None:
    parents = Parents.read(crystals)
    trained = [group for group in range(40) if split_of_group(f"crystal/{group}") == "train"]
    assert parents.groups.tolist() == trained
    assert len(trained) < 40
    assert parents.weights.sum() == pytest.approx(1)
    assert len(parents.held_out) == 40 - len(trained)
    with np.load(crystals) as arrays:
        other = dict(arrays)
    held = min({*range(40)} - set(trained))
    start = int(other["natoms"][: 3 * held].sum())
    other["numbers"][start : start + 1] = 78  # of the first structure of that group, which is not the least rattled
    np.savez(tmp_path / "other.npz", **other)
    more = Parents.read(tmp_path / "other.npz").formulas_held_out - parents.formulas_held_out
    assert ["Pt" in formula for formula in more] == [True]
    with np.load(crystals) as arrays:
        offsets = np.concatenate([[0], np.cumsum(arrays["natoms"])])
        for atoms, group in zip(parents.atoms, trained, strict=True):
            second = slice(offsets[3 * group + 1], offsets[3 * group + 2])
            np.testing.assert_array_equal(atoms.positions, arrays["positions"][second].astype(float))


def test_children_are_others_and_none_is_held_out(crystals: Path) -> None:
    parents, rng = Parents.read(crystals), np.random.default_rng(0)
    before = [(atoms.positions.copy(), atoms.cell.array.copy()) for atoms in parents.atoms]
    children = [child for _ in range(300) if (child := parents.child(rng)) is not None]
    assert len(children) > 200
    for (positions, cell), atoms in zip(before, parents.atoms, strict=True):
        np.testing.assert_array_equal(atoms.positions, positions)
        np.testing.assert_array_equal(atoms.cell.array, cell)
    own = {
        int(group): reduced_formula(atoms.numbers) for atoms, group in zip(parents.atoms, parents.groups, strict=True)
    }
    new = 0
    for atoms, group in children:
        assert not clashes(atoms)
        assert 3.0 < atoms.get_volume() / len(atoms) < 80.0
        assert np.isin(atoms.numbers, parents.elements).all()
        np.testing.assert_array_equal(atoms.positions, atoms.positions.astype(np.float32))
        if reduced_formula(atoms.numbers) != own[group]:
            new += 1
            assert reduced_formula(atoms.numbers) not in parents.formulas_held_out
    assert new > 20
    again = [child for _ in range(300) if (child := parents.child(rng)) is not None]
    assert not np.array_equal(children[0][0].positions, again[0][0].positions)


def test_elements_are_replaced_by_like_ones_and_hydrogen_is_not() -> None:
    salt, rng = bulk("NaCl", "rocksalt", a=5.6), np.random.default_rng(0)
    found = {tuple(substituted(salt, np.arange(1, 90), rng).numbers) for _ in range(200)}
    assert len(found) > 50
    assert not any(1 in numbers for numbers in found)
    assert not any(numbers[0] in (8, 9, 17, 35) for numbers in found)  # no halogen where sodium was
    hydride = bulk("LiH", "rocksalt", a=4.1)
    assert all(substituted(hydride, np.arange(1, 90), rng).numbers[1] == 1 for _ in range(50))
    other = substituted(bulk("Cu"), np.array([47]), rng)
    ratio = (other.get_volume() / bulk("Cu").get_volume()) ** (1 / 3)
    assert ratio == pytest.approx(covalent_radii[47] / covalent_radii[29])


def test_single_atoms_are_repeated_and_small_cells_stay_small() -> None:
    rng = np.random.default_rng(0)
    sizes = [len(enlarged(bulk("Cu"), rng)) for _ in range(100)]
    assert set(sizes) == {4, 8}
    assert len(enlarged(bulk("Cu", cubic=True) * (2, 1, 1), rng)) == 8


def test_clashes() -> None:
    assert not clashes(bulk("Cu"))
    assert clashes(bulk("Cu", a=2.0))


def test_the_command_and_a_kill(
    crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def by_kinds(graphs: Sequence[Atoms]) -> list[tuple[Any, ...]]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return [tuple(by_emt(atoms).values()) for atoms in graphs]

    monkeypatch.setattr(label_crystals, "find_spec", lambda name: name)
    monkeypatch.setattr(label_crystals, "PART", 5)
    monkeypatch.setattr(_labelling, "LINES", 0.0)
    monkeypatch.setattr(label_crystals, "graph_of", lambda atoms: atoms if 1 not in atoms.numbers else None)
    monkeypatch.setattr(label_crystals, "by_chgnet", by_kinds)
    # EMT knows few elements; silver and copper are like gold, nickel like palladium.
    out, given = tmp_path / "more.npz", ["--structures", "30", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["label_crystals.py", "--crystals", str(crystals), "--out", str(out), *given])
    with pytest.raises(KeyboardInterrupt):
        main()
    assert not out.exists()
    main()
    assert len(calls) == 4 + 3  # three parts of six were kept
    assert set(tmp_path.iterdir()) == {out}
    frames = FrameSet.from_npz(out)
    said = capsys.readouterr().out
    assert f"{out}: {len(frames)} structures of" in said
    assert "labelled 20 of 30" in said  # where there is no terminal to draw a bar in
    assert len(frames) == 30
    assert {split_of_group(group) for group in frames.group} == {"train"}
    assert len(set(frames.group)) > 10
    assert np.isfinite(frames.stress).all()
    assert np.isfinite(frames.energy).all()


def test_files_without_groups_are_refused(crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_crystals, "find_spec", lambda name: name)
    with np.load(crystals) as arrays:
        np.savez(tmp_path / "plain.npz", **{name: arrays[name] for name in arrays.files if "group" not in name})
    given = ["--crystals", str(tmp_path / "plain.npz"), "--out", str(tmp_path / "more.npz")]
    monkeypatch.setattr(sys, "argv", ["label_crystals.py", *given])
    with pytest.raises(SystemExit, match="has no group, group_labels; expected"):
        main()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--crystals": "none.npz"}, "--crystals: no file none.npz"),
        ({"--structures": "-3"}, "must be at least 1"),
        ({"--out": "more.txt"}, "--out must be a .npz that is not there yet, got more.txt"),
        ({"--out": "CRYSTALS"}, "that is not there yet"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    crystals: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, str],
    message: str,
) -> None:
    given = {"--crystals": str(crystals), "--out": "more.npz", "--structures": "30"} | changed
    words = [str(crystals) if word == "CRYSTALS" else word for pair in given.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["label_crystals.py", *words])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err


def test_without_chgnet_the_command_says_so(crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_crystals, "find_spec", lambda name: None)
    given = ["label_crystals.py", "--crystals", str(crystals), "--out", str(tmp_path / "more.npz")]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit, match="pip install chgnet"):
        main()


def test_labels_are_those_of_chgnet() -> None:
    pytest.importorskip("chgnet", reason="CHGNet is not installed")
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = bulk("NaCl", "rocksalt", a=5.7) * (2, 1, 1)
    atoms.rattle(0.1, seed=0)
    (energy, forces, stress), _ = label_crystals.by_chgnet([label_crystals.graph_of(a) for a in (atoms, bulk("Cu"))])
    expected = label_crystals._chgnet().predict_structure(AseAtomsAdaptor.get_structure(atoms))
    assert energy == pytest.approx(expected["e"] * len(atoms), abs=1e-4)
    np.testing.assert_allclose(forces, expected["f"], atol=1e-4)
    full = expected["s"] / 160.21766208
    np.testing.assert_allclose(stress, full[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atol=1e-5)
    assert label_crystals.graph_of(Atoms("Ar", cell=[20, 20, 20], pbc=True)) is None
