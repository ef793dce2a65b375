"""Recipes of fine-tuning: what they declare holds together, and each runs on a file in its published layout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from downstream_files import COUNT, FILES, custom, ms25
from property_samples import small_potential
from typer.testing import CliRunner

import gfmpot.recipes
from gfmpot.cli import app
from gfmpot.finetune.examples import ENERGY, read_examples
from gfmpot.finetune.reader import available_readers, build_reader
from gfmpot.finetune.recipe import load_task, packaged_recipes
from gfmpot.finetune.task import PAPER_STRATEGIES, Task
from gfmpot.models import load, load_property, save

RECIPES = packaged_recipes()
TASKS = {name: load_task(name) for name in RECIPES}
LINES = 80
PROGRAM = """
if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
"""

PAPERS = {
    **{"qm9": "Table VIII", "md17": "Table IX", "wiggle150": "Table X", "oqmd": "Table XII", "abx3": "Table XII"},
    **{f"ms25_{system}": "Table XI" for system in ("mgo22", "mgo44", "hea", "reaction", "zro")},
    **{"matbench_jdft2d": "Table XIII", "matbench_mp_is_metal": "Table XIV"},
}
EPOCHS_AND_BATCH = {"wiggle150": (500, 32), "matbench_mp_is_metal": (10, 32)}
EPOCHS_AND_BATCH |= {name: (10, 2) for name in PAPERS if name.startswith("ms25")}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(small_potential(), tmp_path_factory.mktemp("model") / "small.safetensors")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return str(result.output)


# --- what they declare


def test_every_recipe_has_a_file_to_be_tried_on() -> None:
    assert set(FILES) == set(RECIPES)
    assert {name for name, task in TASKS.items() if task.paper} == set(PAPERS)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_declares_its_task(name: str) -> None:
    task, text = TASKS[name], RECIPES[name].read_text()
    assert task.name == name
    assert task.reader in available_readers()
    assert len(text.splitlines()) <= LINES
    assert f"python recipes/finetune_{name}.py --data" in text
    assert text.endswith(PROGRAM)
    assert task.title.isascii() or "×" in task.title
    assert not task.relative or task.split_by == "group"


def test_names_of_branches_differ() -> None:
    assert len({task.branch for task in TASKS.values()}) == len(TASKS)


@pytest.mark.parametrize("name", PAPERS)
def test_tasks_of_the_paper_have_its_settings_and_numbers(name: str) -> None:
    task = TASKS[name]
    assert task.paper is not None
    assert task.paper.table == PAPERS[name]
    assert (task.epochs, task.batch) == EPOCHS_AND_BATCH.get(name, (100, 32))
    of_energies = not name.startswith("matbench")
    assert task.split == ((0.7, 0.15, 0.15) if of_energies else (0.7, 0.1, 0.2))
    assert set(task.paper.results) <= set(PAPER_STRATEGIES)
    best = {strategy: row[0] for strategy, row in task.paper.results.items()}
    if of_energies:  # "conclusive and unanimous"
        assert best["unfrozen"] == min(x for x in best.values() if x is not None)


def test_stand_ins_say_for_what_they_stand() -> None:
    others = {name: task for name, task in TASKS.items() if name not in PAPERS and name != "custom"}
    assert len(others) == 10
    for task in others.values():
        assert task.paper is None
        assert any("stand-in for " in note and any(name in note for name in PAPERS) for note in task.notes)


def test_networks_from_scratch_have_the_papers_neighbours() -> None:
    found = {name: (task.cutoff, task.max_neighbours) for name, task in TASKS.items() if task.cutoff}
    assert found == {name: (5.5 if name == "ms25_hea" else 6.0, 64) for name in PAPERS if name.startswith("ms25")}


# --- what they do


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs(name: str, model: Path, tmp_path: Path) -> None:
    task, data = TASKS[name], FILES[name](tmp_path)
    units = build_reader(task.reader).units(data)
    stated = units.get(task.target.name, task.target.unit if task.target.name == ENERGY else None)
    assert stated in (task.target.unit, "")
    options = ("--epochs", 1, "--split", "0.6,0.2,0.2", "--model", model, "--folder", tmp_path / "run")
    shown = run("finetune", name, "--data", data, "--strategy", "unfrozen", *options)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert sum(results["sides"].values()) == COUNT
    (row,) = results["rows"]
    assert all(mean is not None and mean >= 0 for mean in row["means"])
    page = (tmp_path / "run" / "results.md").read_text()
    assert page.startswith(f"# {task.title}\n")
    assert f"Trained for 1 epochs in batches of {task.batch}." in page
    assert all(note in page for note in task.notes)
    assert (tmp_path / "run" / "parity.png").stat().st_size > 5000
    assert task.title in shown
    check_saved(task, tmp_path / "run" / "unfrozen-seed0" / "model.safetensors")


def check_saved(task: Task, path: Path) -> None:
    """What was trained says what it is."""
    if task.target.kind == "energy":
        potential = load(path)
        assert potential.metadata["name"] == f"{task.name}-unfrozen"
        assert [(b.name, b.citation) for b in potential.branches] == [(task.branch, task.citation)]
    else:
        saved = load_property(path)
        assert (saved.metadata["name"], saved.target) == (f"{task.name}-unfrozen", task.target)


def test_stresses_are_learnt_where_they_are(model: Path, tmp_path: Path) -> None:
    losses = {}
    for stress in (True, False):
        folder = tmp_path / f"{stress}"
        folder.mkdir()
        data = custom(folder, stress=stress)
        run("finetune", "custom", "--data", data, "--epochs", 1, "--model", model, "--folder", folder / "run")
        records = map(json.loads, (folder / "run" / "keep-seed0" / "log.jsonl").read_text().splitlines())
        losses[stress] = [r["branches"]["custom"] for r in records if r.get("kind") == "valid"][-1]
    assert losses[True]["stress_mae"] > 0
    assert "stress_mae" not in losses[False]
    assert losses[False]["forces_mae"] > 0


def test_published_sides_of_ms25(model: Path, tmp_path: Path) -> None:
    task, data = TASKS["ms25_mgo22"], ms25(tmp_path)
    reader = build_reader("ms25")
    found = read_examples(replace(task, split="published"), reader, data)
    names = {side: sorted({found.keys[i].split(":")[0] for i in part}) for side, part in found.sides.items()}
    assert names == {"train": ["MgO-2x2/train-1000"], "valid": ["MgO-2x2/val"], "test": ["MgO-2x2/test"]}
    assert sum(len(part) for part in found.sides.values()) == COUNT
    options = ("--split", "published", "--epochs", 1, "--model", model, "--folder", tmp_path / "run")
    assert "12 train, 4 valid, 4 test" in run("finetune", "ms25_mgo22", "--data", data, *options)
    drawn = read_examples(task, reader, data)
    assert {side: len(part) for side, part in drawn.sides.items()} == {"train": 14, "valid": 3, "test": 3}
    assert sorted(torch.cat([torch.tensor(part) for part in drawn.sides.values()]).tolist()) == list(range(COUNT))


def test_files_without_published_sides_are_refused(tmp_path: Path) -> None:
    task = replace(TASKS["zro2"], split="published")
    with pytest.raises(ValueError, match=r"put 20 of 20 structures on no side; draw sides with --split 0.7,0.15,0.15"):
        read_examples(task, build_reader("packed"), FILES["zro2"](tmp_path))


# --- how they are found


def test_list_shows_all() -> None:
    shown = run("recipes", "list")
    for name, task in TASKS.items():
        assert f" {name} " in shown
        assert task.paper is None or task.paper.table in shown


def test_a_copy_is_a_recipe_of_its_own(tmp_path: Path) -> None:
    copied = tmp_path / "mine.py"
    run("recipes", "copy", "custom", "--to", copied)
    copied.write_text(copied.read_text().replace('    name="custom"', '    name="mine"'))
    assert load_task(copied) == replace(TASKS["custom"], name="mine")
    refused = CliRunner().invoke(app, ["recipes", "copy", "custom", "--to", str(copied)])
    assert refused.exit_code != 0
    assert "exists already" in refused.output


def test_what_recipes_share_is_no_recipe() -> None:
    shared = sorted(path.stem for path in Path(gfmpot.recipes.__file__).parent.glob("_*.py"))
    assert not {name.lstrip("_") for name in shared} & set(RECIPES)


def test_a_recipe_that_uses_shared_parts_is_a_program() -> None:
    command = [sys.executable, str(RECIPES["zro2"]), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "finetune_zro2.py [OPTIONS]" in shown
    assert "--data" in shown


# --- on real data


def test_a_real_set_of_metals(reference: Callable[[str], Path], model: Path, tmp_path: Path) -> None:
    task = TASKS["evapd_is_metal"]
    found = read_examples(task, build_reader(task.reader), reference("evapd.npz"), limit=200)
    groups = {side: set(found.part(side).group.tolist()) for side in found.sides}  # type: ignore[arg-type]
    assert not groups["train"] & groups["test"]
    assert not groups["valid"] & groups["test"]
    assert 0.3 < found.values.mean() < 0.7


def test_real_conformers_are_whole_molecules(reference: Callable[[str], Path]) -> None:
    task = TASKS["conformers"]
    found = read_examples(task, build_reader(task.reader), reference("conformers_hutchison.npz"), limit=200)
    assert 150 < len(found.values) <= 200
    sizes = {group: (found.frames.group == group).sum() for group in set(found.frames.group.tolist())}
    assert min(sizes.values()) > 1
