"""All that docs/finetuning.md shows, run as it stands there, and what goes wrong where users go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from fine_tuning import METALS, metals, two_branches, written
from pages import DOCS, blocks, gfmpot, run
from qm9_tables import write_qm9
from typer.testing import CliRunner

from gfmpot.cli import app
from gfmpot.finetune.recipe import load_task
from gfmpot.finetune.retargeting import retargeted, with_forces
from gfmpot.models import load, save

PAGE = DOCS / "finetuning.md"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GFMPOT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_page_runs(here: Path) -> None:
    write_qm9(here / "qm9", 60)
    run(blocks(PAGE), {}, gfmpot)
    qm9 = json.loads((here / "runs/finetune-qm9/results.json").read_text())
    assert qm9["sides"] == {"train": 42, "valid": 9, "test": 9}
    compared = json.loads((here / "runs/compared/results.json").read_text())
    assert [row["name"] for row in compared["rows"]] == ["scratch", "frozen", "unfrozen", "keep"]
    assert all(len([r for r in compared["runs"] if r["run"].startswith(row["name"])]) == 2 for row in compared["rows"])
    assert (here / "runs/sizes/sizes.png").is_file()
    assert load(here / "more.safetensors").branch_names[-1] == "mine-emt"
    assert (here / "runs/finetune-custom/results.md").is_file()


def test_a_recipe_is_a_program(here: Path) -> None:
    """With the options of the command line, and the recipe left out."""
    import subprocess
    import sys

    recipe = DOCS.parent / "recipes" / "finetune_qm9.py"
    shown = subprocess.run([sys.executable, str(recipe), "--help"], capture_output=True, text=True, check=True)
    assert "--strategy" in shown.stdout
    failed = subprocess.run(
        [sys.executable, str(recipe), "--data", "none"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 2
    assert "no QM9 data at none" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.fixture
def small(here: Path) -> tuple[Path, Path]:
    return written(here / "mine.extxyz", metals(20)), save(two_branches(), here / "two.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("custm", "--data", "mine.extxyz"), "no recipe 'custm'; did you mean 'custom'?"),
        (("mine.py", "--data", "mine.extxyz"), "no file mine.py"),
        (("custom", "--data", "nothing.extxyz"), "nothing.extxyz"),
        (("custom", "--data", "mine.extxyz", "--strategy", "unfreezed"), "did you mean"),
        (("custom", "--data", "mine.extxyz", "--split", "0.5,0.5"), "--split: expected three numbers"),
        (("custom", "--data", "mine.extxyz", "--seeds", "a"), "--seeds: expected numbers with commas, got 'a'"),
        (
            ("custom", "--data", "mine.extxyz", "--target", "gpa:intensive"),
            "the data have no 'gpa'; did you mean 'gap'?",
        ),
        (
            ("custom", "--data", "mine.extxyz", "--target", "gap:intense"),
            "no kind 'intense'; did you mean 'intensive'?",
        ),
        (("custom", "--data", "mine.extxyz", "--reader", "energy_unit"), "expected NAME=VALUE"),
        (
            ("custom", "--data", "mine.extxyz", "--model", "defalt"),
            "no model or file 'defalt'; did you mean 'default'?",
        ),
        (("custom", "--data", "mine.extxyz", "--strategy", "lora", "--target", "gap:intensive"), "is for energies"),
    ],
)
def test_mistakes_get_one_line(small: tuple[Path, Path], arguments: tuple[str, ...], message: str) -> None:
    options = () if "--model" in arguments else ("--model", "two.safetensors")
    result = CliRunner().invoke(app, ["finetune", *arguments, *options])
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert " ".join(result.stderr.split()).count("error: ") == 1
    assert message in " ".join(result.stderr.split())


def test_a_kind_of_its_own(small: tuple[Path, Path]) -> None:
    """A class, from a column of zeros and ones."""
    frames = metals(20)
    for i, atoms in enumerate(frames):
        atoms.info["dense"] = int(atoms.get_volume() / len(atoms) < (11.8, 16.6)[i % len(METALS)])
    written(Path("classes.extxyz"), frames)
    gfmpot(
        *("gfmpot", "finetune", "custom", "--data", "classes.extxyz", "--model", "two.safetensors"),
        *("--target", "dense:class", "--epochs", "2", "--folder", "runs/dense"),
    )
    metrics = json.loads(Path("runs/dense/unfrozen-seed0/metrics.json").read_text())["metrics"]
    assert 0 <= metrics["accuracy"] <= 1
    assert np.isfinite(metrics["brier"])


def test_energies_alone(small: tuple[Path, Path]) -> None:
    frames = metals(20)
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy())
    written(Path("energies.extxyz"), frames)
    given = ["finetune", "custom", "--data", "energies.extxyz", "--model", "two.safetensors", "--folder", "runs/e"]
    refused = CliRunner().invoke(app, given)
    assert refused.exit_code == 2
    assert "the data have none; gfmpot finetune --no-forces learns energies alone" in " ".join(refused.stderr.split())
    gfmpot("gfmpot", *given, "--no-forces", "--epochs", "2")
    metrics = json.loads(Path("runs/e/keep-seed0/metrics.json").read_text())["metrics"]
    assert metrics["energy_per_atom_mae"] >= 0
    assert not any(name.startswith("forces") for name in metrics)


def test_forces_of_another_task() -> None:
    task = load_task("custom")
    assert with_forces(task, True) is task
    energies = with_forces(task, False)
    assert [one.key for one in energies.measures] == ["energy_per_atom_mae"]
    assert [one.key for one in with_forces(energies, True).measures] == ["energy_per_atom_mae", "forces_mae"]
    gap = retargeted(task, "gap", "intensive", None, {"gap": "eV"})
    with pytest.raises(ValueError, match="--forces: gap is no energy"):
        with_forces(gap, True)


def test_add_branch_refuses_names_that_are_taken(small: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(app, ["add-branch", "mine.extxyz", "--name", "all-emt", "--model", "two.safetensors"])
    assert result.exit_code == 2
    assert "has a branch 'all-emt' already" in result.stderr
    result = CliRunner().invoke(app, ["add-branch", "mine.extxyz", "--name", "a", "-o", "a.pt"])
    assert result.exit_code == 2
    assert "ends in .safetensors" in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch=16", "batchsize=16", "unexpected keyword argument 'batchsize'"),
        ('strategy="keep"', 'strategy="keeps"', "no strategy 'keeps'; did you mean 'keep'?"),
        ('"forces_mae"', '"force_mae"', "no measure 'force_mae'; did you mean 'forces_mae'?"),
        ("split=(0.8, 0.1, 0.1),", "split=(0.8, 0.1, 0.1)", "SyntaxError"),
    ],
)
def test_mistakes_in_a_recipe_get_one_line(small: tuple[Path, Path], old: str, new: str, message: str) -> None:
    text = (DOCS.parent / "recipes" / "finetune_custom.py").read_text()
    assert old in text
    Path("finetune_mine.py").write_text(text.replace(old, new))
    result = CliRunner().invoke(app, ["finetune", "finetune_mine.py", "--data", "mine.extxyz"])
    assert result.exit_code == 2
    shown = " ".join(result.stderr.split())
    assert message in shown
    assert "finetune_mine.py" in shown
