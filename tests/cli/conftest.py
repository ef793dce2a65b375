"""How the tests of the command line call it, and with what model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from gfmpot.cli import app
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig, save
from gfmpot.models.backbones.painn import PaiNNConfig

Call = Callable[..., Result]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run ``gfmpot`` in an empty folder; whatever goes wrong, a user must not see a traceback."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GFMPOT_CACHE", str(tmp_path / "cache"))

    def run(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with two small untrained branches: fast, deterministic, and without any repulsion."""
    states = ((-1, 0), (-1, 2), (0, 0), (0, 1), (0, 3), (1, 0), (1, 2))
    symbols = ("H", "C", "N", "O", "Na", "Mg", "Al", "Si", "Cl", "Cu", "Fe")
    e0 = {symbol: -1.0 - i for i, symbol in enumerate(symbols)}
    config = PotentialConfig(
        backbone=PaiNNConfig(hidden=16, layers=2, radial_basis=4, cutoff=4.0, mean_neighbours=20),
        head=HeadConfig(shared_layers=0, branch_layers=1, branch_width=16),
        repulsion="none",
    )
    branches = [
        BranchInfo("solids-pbe", "PBE", e0=e0, licence="CC0", n_structures=1000, states=states),
        BranchInfo("molecules-pbe0", "PBE0", e0={s: e0[s] for s in ("H", "C", "N", "O")}, states=states),
    ]
    metrics = {"split": "test", "branches": {"solids-pbe": {"energy_mae": 0.012, "structures": 50.0}}}
    metadata = {"name": "tiny", "training": {"steps": 7, "hours": 0.5}, "metrics": metrics}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        potential = Potential(config, branches, e0_blend=e0, metadata=metadata)
    return save(potential, tmp_path_factory.mktemp("model") / "tiny.safetensors")
