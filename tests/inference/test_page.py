"""What docs/inference.md shows runs as it stands there, from top to bottom, but for a smaller model to export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from pages import DOCS, blocks, gfmpot, run
from typer.testing import CliRunner

from gfmpot import GFMCalculator
from gfmpot.cli import app
from gfmpot.inference import Predictor
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig, save
from gfmpot.models.backbones.painn import PaiNNConfig


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore::FutureWarning")
def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    head = "mptrj-pbe-u@chgnet"
    tiny = PotentialConfig(PaiNNConfig(hidden=4, layers=1, radial_basis=2), HeadConfig(shared_layers=0, branch_width=4))
    save(Potential(tiny, [BranchInfo(head, "PBE+U", e0={"Mg": -1.0, "O": -2.0})]), tmp_path / "tiny.safetensors")
    names: dict[str, Any] = {}
    run(blocks(DOCS / "inference.md"), names, lambda *command: gfmpot(*command, "--model", "tiny.safetensors"))
    path, *rest = capsys.readouterr().out.splitlines()
    assert path == Predictor().path
    assert "atomic_numbers" in "".join(rest)
    assert isinstance(names["atoms"], Atoms)
    assert isinstance(names["atoms"].calc, GFMCalculator)
    assert min(names["atoms"].calc.results["branch_weights"].values()) == 0.0


def test_export_verb_refuses(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(tmp_path / "no" / "model.pt2")])
    assert result.exit_code == 2
    assert "there is no folder" in result.output
    result = CliRunner().invoke(app, ["export", str(tmp_path / "model.pt2"), "--precision", "fp8"])
    assert result.exit_code == 2
    assert "no precision 'fp8'" in result.output
