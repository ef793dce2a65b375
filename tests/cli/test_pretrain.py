"""From files to a trained model by the command line alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write

from gfmpot import GFMCalculator


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write(folder / "metals.xyz", [frame(bulk(("Cu", "Al")[i % 2], cubic=True), i) for i in range(60)])
    write(folder / "molecules.xyz", [frame(molecule(("CH4", "H2O", "C2H6")[i % 3]), i) for i in range(60)])
    return folder


def frame(atoms: Atoms, seed: int) -> Atoms:
    atoms.rattle(0.1, seed=seed)
    atoms.calc = EMT()
    atoms.get_forces()
    return atoms


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "model": {"backbone": {"name": "painn", "hidden": 8, "layers": 2, "radial_basis": 4, "cutoff": 4.0}},
        "branches": [{"files": ["metals.bp"]}, {"files": ["molecules.bp"]}],
        "steps": 6,
        "batch": {"structures": 4},
        "optim": {"warmup_steps": 2},
        "validate_every": 3,
        "validation_structures": 4,
        "branch_weights": {"structures": 10, "epochs": 3},
        **changes,
    }


@pytest.fixture
def converted(call: Any, files: Path, tmp_path: Path) -> Path:
    for name in ("metals", "molecules"):
        branch = ("--branch", f"{name}-emt", "--theory", "EMT", "--split", "0.6,0.2,0.2")
        call("data", "convert", "extxyz", files / f"{name}.xyz", tmp_path / f"{name}.bp", *branch)
    return tmp_path


def test_files_to_store_to_model_to_forces_to_report(call: Any, converted: Path) -> None:
    (converted / "run.yaml").write_text(yaml.safe_dump(settings()))
    done = call("pretrain", "--config", converted / "run.yaml", "--folder", converted / "run", "--device", "cpu")
    assert "pretrained.safetensors" in done.output
    atoms = molecule("CH4")
    atoms.calc = GFMCalculator(converted / "run" / "pretrained.safetensors")
    assert np.isfinite(atoms.get_forces()).all()
    assert atoms.calc.results["branch_weights"] == {"metals-emt": 0.0, "molecules-emt": 1.0}
    call("report", converted / "run")
    page = converted / "run" / "report" / "index.html"
    assert "molecules-emt" in page.read_text()


def test_time_limit_stops_and_the_same_command_goes_on(call: Any, converted: Path) -> None:
    (converted / "run.yaml").write_text(yaml.safe_dump(settings()))
    command = ("pretrain", "--config", converted / "run.yaml", "--device", "cpu")
    assert "the same command goes on" in call(*command, "--max-hours", "1e-9").output
    assert not (converted / "runs" / "run" / "pretrained.safetensors").exists()
    call(*command)
    assert (converted / "runs" / "run" / "pretrained.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"epochs": 2.0}, "give either steps or epochs"),
        ({"parallel": "dpp"}, "parallel"),
        ({"branches": [{"files": ["metalls.bp"]}]}, "metalls.bp"),
        ({"branches": [{"files": ["metals.bp", "x.npz"]}]}, "either stores"),
        ({"model": {"backbone": {"name": "pain"}}}, "did you mean 'painn'"),
    ],
)
def test_mistakes_are_named(call: Any, converted: Path, changes: dict[str, Any], message: str) -> None:
    (converted / "run.yaml").write_text(yaml.safe_dump(settings(**changes)))
    done = call("pretrain", "--config", converted / "run.yaml", "--device", "cpu", code=2)
    assert message in done.output


def test_missing_config(call: Any, tmp_path: Path) -> None:
    assert "none.yaml" in call("pretrain", "--config", tmp_path / "none.yaml", code=2).output
