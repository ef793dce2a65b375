"""Elements in simple forms: what is made of a phase, which are left out, and the command."""

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

from gfmpot.data.frames import FrameSet
from gfmpot.data.split import split_of_group
from gfmpot.recipes import label_crystals, label_elements
from gfmpot.recipes.label_crystals import clashes
from gfmpot.recipes.label_elements import PHASES, around, crystal, is_among, main


def nearest(atoms: Atoms) -> float:
    """Å."""
    distances = atoms.repeat(3).get_all_distances(mic=True)
    return float(distances[distances > 0.1].min())


@pytest.mark.parametrize("symbol", ["Cu", "Zn", "Sm"])
@pytest.mark.parametrize("phase", PHASES)
def test_phases_have_the_distance_that_is_asked_for(symbol: str, phase: str) -> None:
    assert nearest(crystal(symbol, phase, 2.6)) == pytest.approx(2.6)


@pytest.mark.parametrize("symbol", ["Al", "Sm"])
@pytest.mark.parametrize("phase", PHASES)
def test_phases_are_strained_rattled_cut_and_lack_atoms(symbol: str, phase: str) -> None:
    made = list(around(symbol, phase, 3.6, np.random.default_rng(0)))
    assert all(set(atoms.symbols) == {symbol} and atoms.pbc.all() and not clashes(atoms) for atoms in made)
    primitive = len(crystal("Al", phase, 3.6))
    assert [len(atoms) for atoms in made[:13]] == [primitive] * 9 + [8 * primitive] * 4
    lengths = [nearest(atoms) / 3.6 for atoms in made[:5]]
    np.testing.assert_allclose(lengths, label_elements.FINE, atol=1e-6)
    perfect = label_elements.repeated(crystal("Al", phase, 3.6))
    assert [len(atoms) for atoms in made[13:15]] == [len(perfect) - 1] * 2
    assert len(perfect) <= label_elements.MOST_ATOMS
    slabs = made[15:]
    assert len(slabs) == 2 * len(label_elements.SLABS[phase])
    for slab in slabs[::2]:
        heights = slab.positions @ np.linalg.inv(slab.cell.array)[:, 2] * slab.cell.lengths()[2]
        assert slab.cell.lengths()[2] - np.ptp(heights) > 9  # more than any atom sees
        assert len(slab) == label_elements.LAYERS


def test_crystals_are_found_among_others_at_any_volume() -> None:
    rattled = bulk("Fe", "bcc", a=3.1, cubic=True)
    rattled.rattle(0.02, seed=0)
    others = [bulk("Cu", "fcc", a=3.6), rattled]
    assert is_among(crystal("Fe", "bcc", 2.5), others)
    assert is_among(crystal("Cu", "fcc", 2.5), others)
    assert not is_among(crystal("Fe", "fcc", 2.5), others)
    assert not is_among(crystal("Cu", "bcc", 2.5), others)


def test_the_command(crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_kinds(graphs: Sequence[Atoms]) -> list[tuple[Any, ...]]:
        return [tuple(by_emt(atoms).values()) for atoms in graphs]

    monkeypatch.setattr(label_crystals, "find_spec", lambda name: name)

    def graph_of(atoms: Atoms) -> Atoms | None:
        return None if len(atoms) == 1 and nearest(atoms) > 6.0 else atoms

    monkeypatch.setattr(label_crystals, "graph_of", graph_of)
    monkeypatch.setattr(label_elements, "SCANNED", np.arange(0.7, 2.41, 0.1))  # up to 6.3 Å
    monkeypatch.setattr(label_crystals, "by_chgnet", by_kinds)
    with np.load(crystals) as arrays:
        some = dict(arrays)
    held = next(name for i in range(100) if split_of_group(name := f"other/{i}") != "train")
    some["group_labels"][0] = held  # copper as fcc
    np.savez(tmp_path / "some.npz", **some)
    given, out = tmp_path / "some.npz", tmp_path / "elements.npz"
    options = ["--crystals", str(given), "--out", str(out), "--workers", "1"]
    monkeypatch.setattr(sys, "argv", ["label_elements.py", *options])
    main()
    frames = FrameSet.from_npz(out)
    assert set(frames.group) == {f"element/{symbol}" for symbol in ("Al", "Ni", "Cu", "Pd", "Ag", "Au")}
    of = {symbol: np.flatnonzero(frames.group == f"element/{symbol}") for symbol in ("Cu", "Au")}
    slabs = {s: np.count_nonzero(frames.atoms_per_structure[rows] == label_elements.LAYERS) for s, rows in of.items()}
    assert slabs == {"Cu": 12, "Au": 18}
    gold = of["Au"][frames.atoms_per_structure[of["Au"]] == 1]
    lengths = [nearest(Atoms("Au", cell=cell, pbc=True)) for cell in frames.cell[gold]]
    assert lengths[int(frames.energy[gold].argmin())] == pytest.approx(4.08 / 2**0.5, rel=0.06)
