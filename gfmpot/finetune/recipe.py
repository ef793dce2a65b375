"""Recipes: files that declare a task, those that come with gfmpot and a user's own."""

from __future__ import annotations

import runpy
import traceback
from dataclasses import replace
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
    """The ``TASK`` of a recipe, called as its file.

    Raises:
        ValueError: no such recipe, or a file that does not declare a task, or has a mistake.
    """
    path = find_recipe(recipe)
    try:
        found = runpy.run_path(str(path)).get("TASK")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{path}:{last.lineno}" if last.filename == str(path) else str(path)
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Task):
        raise ValueError(f"{path}: expected TASK = Task(...), got {type(found).__name__}; see recipes/finetune_qm9.py")
    return replace(found, name=path.stem.removeprefix(PREFIX))
