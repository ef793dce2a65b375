"""``gfmpot hpo`` and ``gfmpot promote``."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write
from markdown_it import MarkdownIt
from packed import rattled, solids_and_molecules
from pages import DOCS, Block, blocks, commands

from gfmpot import GFMCalculator
from gfmpot.cli import app

pytest.importorskip("deephyper")

PAGE = DOCS / "hpo.md"
SHOWN = [command for block in blocks(PAGE) for command in commands(block)]
SMALL = (
    *("--fix", "backbone.layers=2", "--fix", "backbone.radial_basis=4", "--fix", "backbone.cutoff=4"),
    *("--fix", "head.*", "--fix", "head.branch_width=16", "--fix", "batch.structures=4", "--fix", "reading.threads=1"),
    *("--fix", "split.valid=0.2", "--fix", "split.test=0.2", "--fix", "validation_structures=6", "--fix", "loss.*"),
    *("--fix", "branch_weights.structures=10", "--fix", "branch_weights.epochs=2", "--range", "backbone.hidden=8:24"),
)
TRIALS = ("--epochs", 2, "--fraction", 0.3, "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return solids_and_molecules(tmp_path_factory.mktemp("data"), 70)


def test_the_page_runs(call: Any, tmp_path: Path) -> None:
    """All commands of docs/hpo.md, with what they leave behind."""
    for name, made in (("solids", lambda i: bulk(("Cu", "Al")[i % 2], cubic=True)), ("molecules", hydride)):
        write(tmp_path / f"{name}.xyz", [rattled(made(i), i) for i in range(60)])
    printed = [call(*expanded(arguments, tmp_path)).output for _, *arguments in SHOWN]
    assert "paper, Table III" in printed[2]
    assert "2 of 2, 0 failed" in printed[3]
    assert "trial 0 completed: validation loss" in printed[3]
    with (tmp_path / "search" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["m:status"] for row in rows] == ["completed"] * 3
    assert {row["p:backbone.hidden"] for row in rows} <= {str(n) for n in range(8, 25)}
    assert float(rows[0]["m:forces_mae/molecules-emt"]) > 0
    assert "needs 20 successful trials, there are 3" in (tmp_path / "search" / "report" / "index.html").read_text()
    ranking = json.loads((tmp_path / "best" / "ranking.json").read_text())
    assert {one["name"] for one in ranking} > {"search-default"}
    assert ranking[0]["validation_loss"] <= ranking[1]["validation_loss"]
    assert ranking[0]["name"] in printed[-3]
    atoms = molecule("CH4")
    atoms.calc = GFMCalculator(tmp_path / "runs" / "winner" / "pretrained.safetensors")
    assert np.isfinite(atoms.get_forces()).all()
    assert (tmp_path / "best" / "comparison.html").is_file()


def hydride(i: int) -> Atoms:
    return molecule(("CH4", "H2O")[i % 2])


def expanded(arguments: list[str], folder: Path) -> list[str]:
    """Wildcards, as a shell expands them."""
    found = [
        sorted(str(path.relative_to(folder)) for path in folder.glob(a)) if "/*" in a or "-*" in a else [a]
        for a in arguments
    ]
    return [word for words in found for word in words]


def test_commands_for_clusters_are_understood() -> None:
    fences = (t for t in MarkdownIt().parse(PAGE.read_text()) if t.type == "fence" and not t.info)
    lines = commands(Block(PAGE, "bash", "".join(fence.content for fence in fences), 0))
    assert len(lines) == 4
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in lines:
        verb, *arguments = line[line.index("gfmpot") + 1 :]
        known[verb].make_context(verb, arguments)


def test_a_run_in_yaml_has_branches_and_settings(call: Any, data: list[Path], tmp_path: Path) -> None:
    run = {
        "model": {"backbone": {"name": "painn", "hidden": 12}, "repulsion": "none"},
        "branches": [{"name": "both-emt", "theory": "EMT", "files": [str(path) for path in data]}],
        "steps": 5,
        "precision": "fp64",
        "optim": {"learning_rate": 1e-4},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    shown = call("hpo", "--config", "run.yaml", "--show-space", "--space", "paper", "--fix", "backbone.layers").output
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "100 to 1000" in lines["backbone.hidden"]
    assert " 12; begins with 100 " in lines["backbone.hidden"]
    assert "paper, Table III" in lines["backbone.hidden"]
    assert "0.0001" in lines["optim.learning_rate"]
    assert lines["repulsion"].split()[1] == "none"
    assert lines["precision"].split()[1] == "fp64"
    assert lines["backbone.layers"].split()[1] == "3"
    assert "loss.kind" not in shown


def test_when_every_trial_fails(call: Any, data: list[Path], tmp_path: Path) -> None:
    command = ("hpo", "-b", "painn", "--data", data[0], "--folder", "s", *SMALL, *TRIALS, "--max-evals", 2)
    kill = f"{sys.executable} -I -S -c 'import os; os.kill(os.getpid(), 9)'"
    done = call(*command, "--launcher", kill, code=1)
    assert "no trial has come to a validation loss" in done.output
    call("report", "s")
    assert "out of memory" in (tmp_path / "s" / "report" / "index.html").read_text()
    assert "nothing to promote" in call("promote", "s", "--max-hours", 1, "--folder", "best", code=2).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "pain"], "no backbone 'pain'; did you mean 'painn'"),
        ([], "give a --backbone, one of"),
        (["-b", "painn"], "give --data"),
        (["-b", "painn", "--data", "gone.bp"], "no data gone.bp"),
        (["-b", "painn", "--data", "a.xyz"], "expected a store (.bp) or a packed file (.npz)"),
        (["-b", "painn", "--fix", "backbone.hiden=3"], "did you mean 'backbone.hidden'"),
        (["-b", "painn", "--fix", "optim.method=moun"], "did you mean 'muon'"),
        (["-b", "painn", "--range", "backbone.hidden=64"], "LOW:HIGH"),
        (["-b", "painn", "--space", "papers"], "did you mean 'paper'"),
        (["-b", "painn", "--stopper", "medium"], "did you mean 'median'"),
        (["--config", "gone.yaml"], "gone.yaml"),
        (["-b", "painn", "--data", "DATA", "--fraction", "2"], "expected a fraction above 0"),
        (["-b", "painn", "--data", "DATA", "--weights", "0", "0", "0"], "at least one above 0"),
        (["-b", "painn", "--data", "DATA", "--trial-minutes", "0"], "--trial-minutes 0"),
        (["-b", "painn", "--data", "DATA", "--seed-from", "gone"], "no folder of a campaign"),
        (["-b", "painn", "--data", "DATA", "--fix", "batch.structures=0"], "structures must be at least 1"),
        (["-b", "painn", "--data", "DATA", "DATA"], "different names, got solids-emt, solids-emt"),
    ],
)
def test_mistakes_are_named(call: Any, data: list[Path], arguments: list[str], message: str) -> None:
    given = [data[0] if argument == "DATA" else argument for argument in arguments]
    assert message in call("hpo", *given, code=2).output


def test_without_deephyper(call: Any, data: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deephyper", None)
    monkeypatch.delitem(sys.modules, "deephyper.hpo", raising=False)
    done = call("hpo", "-b", "painn", "--data", data[0], code=2)
    assert 'pip install "gfmpot[hpo]"' in done.output


def test_without_ray(call: Any, data: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install" in call("hpo", "-b", "painn", "--data", data[0], *SMALL, "--ray", code=2).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "--max-hours", "1"], "gone is no folder of a campaign"),
        (["gone", "--max-hours", "0"], "expected a positive number of hours"),
    ],
)
def test_mistakes_in_promotion(call: Any, arguments: list[str], message: str) -> None:
    assert message in call("promote", *arguments, "--folder", "best", code=2).output
