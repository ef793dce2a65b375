"""benchmarks/accuracy_blend.py: the blend and its heads on a set of a composition that no branch is at home in."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ase import Atoms


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Silver with a methylene, with forces that are as good as any."""
    rng, places = np.random.default_rng(0), []
    for _ in range(4):
        atoms = Atoms(
            "Ag3CH2",
            positions=[[0, 0, 0], [2.8, 0, 0], [1.4, 2.4, 0], [1.4, 0.8, 1.7], [2.3, 0.8, 2.3], [0.5, 0.8, 2.3]],
        )
        atoms.positions += rng.normal(0, 0.05, (6, 3))
        places.append(atoms)
    np.savez(
        tmp_path / "gfn2_ag3_carbene.npz",
        natoms=np.full(4, 6),
        numbers=np.concatenate([atoms.numbers for atoms in places]),
        positions=np.concatenate([atoms.positions for atoms in places]),
        energy=rng.normal(size=4),
        forces=rng.normal(size=(24, 3)),
        group=np.arange(4),
    )
    return tmp_path


def test_blend_beside_heads(load: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blend: ModuleType = load("accuracy_blend")
    given = argparse.Namespace(model="default", data=data, quick=True)
    found = blend.run([], given)
    (one,) = found.values()
    assert "molecules-gfn2" not in one["answers"]  # it knows no silver
    assert {"blend", "mptrj-pbe-u@chgnet"} <= set(one["answers"])
    assert sum(one["weights"].values()) == pytest.approx(1.0)
    blend.show(found)
    assert "Ag3 and CH2" in capsys.readouterr().out
    blend.draw(found, tmp_path)
    assert (tmp_path / "blend.png").exists()
    with pytest.raises(ValueError, match="none of nacl_water"):
        blend.run([], argparse.Namespace(model="default", data=tmp_path / "elsewhere", quick=True))
