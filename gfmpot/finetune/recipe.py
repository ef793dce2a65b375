"""Recipes: files that declare a task, those that come with gfmpot and a user's own."""

from __future__ import annotations

import runpy
from pathlib import Path

from gfmpot.config import did_you_mean, similar_name
from gfmpot.finetune.task import Task

PREFIX = "finetune_"


def packaged_recipes() -> dict[str, Path]:
    """By short name, e.g. ``qm9``, the recipes that come with gfmpot."""
    folder = Path(__file__).parents[1] / "recipes"
    return {path.stem.removeprefix(PREFIX): path for path in sorted(folder.glob(f"{PREFIX}*.py"))}


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe, given by its path or its short name.

    Raises:
        ValueError: neither.
    """
    path, known = Path(recipe), packaged_recipes()
    if str(recipe) in known:
        return known[str(recipe)]
    if path.suffix != ".py":
        raise ValueError(f"no recipe {str(recipe)!r}{did_you_mean(str(recipe), known)}")
    if not path.is_file():
        raise ValueError(f"no file {path}{similar_name(path)}")
    return path


def load_task(recipe: str | Path) -> Task:
    """The ``TASK`` of a recipe.

    Raises:
        ValueError: no such recipe, or a file that does not declare a task.
    """
    path = find_recipe(recipe)
    found = runpy.run_path(str(path)).get("TASK")
    if not isinstance(found, Task):
        raise ValueError(f"{path}: expected TASK = Task(...), got {type(found).__name__}; see recipes/finetune_qm9.py")
    return found
