"""``gfmpot train-branch-weights``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner, Result

from gfmpot.cli.train_branch_weights import train_branch_weights
from gfmpot.models import load, save
from gfmpot.models.error_estimate import ErrorEstimate
from gfmpot.training.error_estimate import HIDDEN, carrying

SOLIDS, MOLECULES = "solids-pbe", "molecules-pbe0"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Packed data of both branches of the tiny model, and ``run.yaml``; the molecules have no forces."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    for seed, (name, elements) in enumerate([(SOLIDS, (8, 12)), (MOLECULES, (1, 6, 8))]):
        rng = np.random.default_rng(seed)
        natoms = rng.integers(2, 5, 50)
        labels = {"forces": rng.normal(size=(natoms.sum(), 3))} if name == SOLIDS else {}
        arrays = {"natoms": natoms, "numbers": rng.choice(elements, natoms.sum()), "energy": rng.normal(size=50)}
        np.savez(data / f"{name}.npz", **arrays, positions=3 * rng.random((natoms.sum(), 3)), **labels)
    # Not in the order of the model's branches.
    branches = [{"name": n, "files": [f"{n}.npz"], "min_structures_per_element": 1} for n in (MOLECULES, SOLIDS)]
    write(tmp_path, branches)
    return tmp_path


def write(folder: Path, branches: list[dict[str, object]]) -> None:
    settings = {
        "model": {"backbone": {"name": "painn"}},
        "branches": branches,
        "steps": 1,
        "split": {"valid": 0.2, "test": 0.2},
        "branch_weights": {"structures": 20, "epochs": 200, "force_weight": 0.1},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))


def call(model: Path, *arguments: object, code: int = 0) -> Result:
    app = typer.Typer()
    app.command()(train_branch_weights)
    words = [str(w) for w in (model, "--config", "run.yaml", "--data", "data", "--device", "cpu", *arguments)]
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def test_new_weights_and_alignment_are_written(tiny_model: Path, folder: Path) -> None:
    options = ("--teacher", "branch", "--kind", "mse", "--epochs", 8, "--structures", 15)
    said = call(tiny_model, *options).output
    before, after = load(tiny_model), load(folder / "tiny-weights.safetensors")
    changed = {
        name for name, tensor in before.state_dict().items() if not torch.equal(after.state_dict()[name], tensor)
    }
    assert changed
    assert {name.split(".")[0] for name in changed} == {"weights"}
    assert set(after.branches[1].alignment) == {"H", "C", "N", "O"}
    settings = after.metadata["branch_weights"]["settings"]
    assert (settings["teacher"], settings["kind"], settings["epochs"]) == ("branch", "mse", 8)
    assert (settings["structures"], settings["force_weight"]) == (15, 0.1)
    assert after.metadata["name"] == "tiny"
    assert after.metadata["metrics"]["branches"] == before.metadata["metrics"]["branches"]
    assert set(after.metadata["metrics"]["blend"]) == {SOLIDS, MOLECULES}
    rows = {words[0]: words for words in map(str.split, said.splitlines()) if len(words) == 10}
    # Magnesium is known to the first branch alone; molecules have no forces.
    assert rows[SOLIDS][7] == SOLIDS
    assert rows[MOLECULES][6] == rows[MOLECULES][9] == "–"
    assert int(rows[MOLECULES][1]) > 0
    assert float(rows[SOLIDS][4]) > 0.5
    assert list(folder.glob("*.partial")) == []


def test_a_branch_learns_its_errors(tiny_model: Path, folder: Path) -> None:
    """One that was added does not know them."""
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump(settings | {"split": {"valid": 0.45, "test": 0.2}}))
    state = ErrorEstimate(load(tiny_model).backbone.out_features, 2, HIDDEN).state_dict()
    state["known"][:, 0] = 1.0
    save(carrying(load(tiny_model), state), folder / "added.safetensors")
    call(folder / "added.safetensors", "--epochs", 1, "--out", folder / "new.safetensors")
    errors = load(folder / "new.safetensors").errors
    assert errors is not None
    assert errors.known.tolist() == [[1.0, 1.0], [1.0, 0.0]]  # the molecules have no forces


def test_alignment_may_stay(tiny_model: Path, folder: Path) -> None:
    call(tiny_model, "--keep-alignment", "--epochs", 1, "--out", folder / "new.safetensors")
    assert [b.alignment for b in load(folder / "new.safetensors").branches] == [{}, {}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--teacher", "labels"),
            "branch_weights.teacher: got 'labels', choices are label, branch; did you mean 'label'?",
        ),
        (("--epochs", 0), "epochs must be positive, got 0"),
        (("--out", "new.pt"), "--out new.pt: the name of a checkpoint ends in .safetensors"),
        (("--out", "nowhere/new.safetensors"), "there is no folder nowhere"),
    ],
)
def test_wrong_options(tiny_model: Path, folder: Path, options: tuple[object, ...], message: str) -> None:
    assert message in call(tiny_model, *options, code=2).output
    assert list(folder.glob("*.safetensors")) == []


def test_branches_must_be_those_of_the_model(tiny_model: Path, folder: Path) -> None:
    write(folder, [{"name": "solids-pbesol", "files": [f"{SOLIDS}.npz"], "min_structures_per_element": 1}])
    said = call(tiny_model, code=2).output
    assert f"the config must have the branches of the model, {SOLIDS}, {MOLECULES}" in said
    assert f"it lacks {MOLECULES}, {SOLIDS} and has solids-pbesol that the model lacks" in said


def test_missing_data_say_where(tiny_model: Path, folder: Path) -> None:
    (folder / "data" / f"{SOLIDS}.npz").unlink()
    assert f"no data file data/{SOLIDS}.npz" in call(tiny_model, code=2).output
