"""Checkpoints written by earlier versions load, and answer as they did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gfmpot.graph import graph_from_atoms
from gfmpot.models import load
from gfmpot.models.checkpoint import VERSION

FOLDER = Path(__file__).parent


def structures() -> dict[str, Atoms]:
    cation = molecule("H2O")
    cation.info.update(charge=1, spin=2)
    squeezed = molecule("H2O")
    squeezed.positions *= 0.7
    return {"water": molecule("H2O"), "cation": cation, "copper": bulk("Cu", cubic=True), "squeezed": squeezed}


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_answers_are_kept(version: int) -> None:
    model = load(FOLDER / f"v{version}.safetensors").double()
    expected = json.loads((FOLDER / f"v{version}.json").read_text())
    for name in expected:
        found = model(graph_from_atoms(structures()[name], cutoff=model.cutoff))
        assert found.energy.item() == pytest.approx(expected[name]["energy"], rel=1e-12)
        torch.testing.assert_close(
            found.forces, torch.tensor(expected[name]["forces"], dtype=torch.float64), rtol=0, atol=1e-11
        )
        assert found.branch_weights[0].tolist() == pytest.approx(expected[name]["branch_weights"], rel=1e-12)
        energies = [float("nan") if e is None else e for e in expected[name]["branch_energies"]]
        assert found.branch_energies[0].tolist() == pytest.approx(energies, rel=1e-12, nan_ok=True)
        if version >= 2:
            assert found.energy_std.item() == pytest.approx(expected[name]["energy_std"], rel=1e-10)
            assert found.novelty.tolist() == pytest.approx(expected[name]["novelty"], rel=1e-10)
