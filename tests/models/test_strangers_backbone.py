"""A backbone in a file of its own, which nothing else knows of: found by models, CLI, tests, search and training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from gfmpot import GFMCalculator
from gfmpot.config import from_mapping
from gfmpot.data import FrameSet
from gfmpot.models import PotentialConfig, available_backbones, backbone_class, backbones, load
from gfmpot.testing import run_conformance
from gfmpot.training.config import TrainConfig
from gfmpot.training.trainer import Trainer

CODE = '''
"""Pairs: features of atoms from a filter per neighbour."""

from dataclasses import dataclass

import torch
from torch import nn

from gfmpot.config import tunable
from gfmpot.graph import filtered_neighbour_sums
from gfmpot.models.backbone import Backbone, BackboneConfig
from gfmpot.models.radial import BesselBasis


@dataclass(frozen=True)
class PairsConfig(BackboneConfig):
    hidden: int = tunable(32, 8, 64)
    functions: int = tunable(6, 3, 12)


class Pairs(Backbone):
    Config = PairsConfig

    def __init__(self, config):
        super().__init__()
        self.hidden_features = self.out_features = config.hidden
        self.basis = BesselBasis(config.functions, config.cutoff)
        self.filters = nn.Linear(self.basis.out_features, config.hidden, bias=False)
        self.scale = config.mean_neighbours**-0.5

    def forward(self, initial, vectors, graph):
        basis = self.basis(torch.linalg.vector_norm(vectors, dim=1))
        return initial + filtered_neighbour_sums(basis, self.filters.weight.T * self.scale, initial, graph)
'''


@pytest.fixture(scope="module", autouse=True)
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``pairs.py`` in a folder that is appended to the path of the package, as a plugin would be."""
    folder = tmp_path_factory.mktemp("backbones")
    (folder / "pairs.py").write_text(CODE)
    backbones.__path__.append(str(folder))
    yield folder / "pairs.py"
    backbones.__path__.remove(str(folder))
    sys.modules.pop(f"{backbones.__name__}.pairs")


def test_found_by_name() -> None:
    assert "pairs" in available_backbones()
    config = PotentialConfig.from_mapping({"backbone": {"name": "pairs", "functions": 4}})
    assert PotentialConfig.from_mapping(config.to_mapping()) == config
    with pytest.raises(ValueError, match="no backbone 'pair'; did you mean 'pairs'"):
        backbone_class("pair")


def test_conformance() -> None:
    report = run_conformance(backbone_class("pairs").Config())
    assert report.passed, report.table()


def test_command_line() -> None:
    from typer.testing import CliRunner

    from gfmpot.cli import app

    shown = CliRunner().invoke(app, ["info", "--backbone", "pairs"])
    assert shown.exit_code == 0
    assert "3 to 12" in shown.stdout


def test_search_space() -> None:
    from gfmpot.hpo.space import build_space

    names = build_space("pairs").names
    assert "backbone.functions" in names
    assert "optim.learning_rate" in names


def test_trained_and_used(tmp_path: Path) -> None:
    frames = []
    for seed in range(60):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    data = FrameSet.from_atoms(frames)
    np.savez(
        tmp_path / "copper.npz",
        natoms=data.atoms_per_structure,
        group=np.arange(60),
        **{key: getattr(data, key) for key in ("numbers", "positions", "energy", "forces", "cell", "pbc")},
    )
    settings = {
        "model": {"backbone": {"name": "pairs", "hidden": 16}},
        "branches": [{"name": "copper-emt", "files": ["copper.npz"]}],
        "steps": 30,
        "batch": {"structures": 8},
        "optim": {"learning_rate": 3e-3, "warmup_steps": 3},
        "split": {"valid": 0.2, "test": 0.2},
    }
    trainer = Trainer(from_mapping(TrainConfig, settings), tmp_path, tmp_path / "run")
    before = trainer.validate()["copper-emt"]["forces_mae"]
    trainer.fit()
    assert trainer.validate()["copper-emt"]["forces_mae"] < before
    atoms = frames[0].copy()
    atoms.calc = GFMCalculator(load(tmp_path / "run" / "model.safetensors"))
    assert np.isfinite(atoms.get_forces()).all()
