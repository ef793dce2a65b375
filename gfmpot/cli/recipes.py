"""``gfmpot recipes``: the fine-tuning recipes that come with gfmpot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from gfmpot.cli.console import clean_errors, facts, table

app = typer.Typer(
    name="recipes", help="Recipes of fine-tuning: list them, copy one to change it.", no_args_is_help=True
)


@app.command("list")
def list_() -> None:
    """Say which recipes there are, what they read and what they learn."""
    with clean_errors():
        from gfmpot.finetune.recipe import load_task, packaged_recipes

        tasks = [(name, load_task(name)) for name in packaged_recipes()]
        columns = ["recipe", "task", "reader", "target", "paper"]
        rows = [
            [name, task.title, task.reader, _target(task.target), task.paper.table if task.paper else None]
            for name, task in tasks
        ]
        table(columns, rows)


@app.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `gfmpot recipes list` calls it.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="File to write.", show_default="finetune_NAME.py, here")
    ] = None,
) -> None:
    """Copy a recipe, to declare a task of your own: `gfmpot finetune` takes the file."""
    with clean_errors():
        from gfmpot.finetune.recipe import find_recipe

        source = find_recipe(name)
        target = to or Path(source.name)
        if target.exists():
            raise ValueError(f"{target} exists already; give another --to")
        shutil.copyfile(source, target)
        facts({"written": target, "run it": f"gfmpot finetune {target} --data PATH"})


def _target(target: object) -> str:
    from gfmpot.models import Target

    assert isinstance(target, Target)
    return f"{target.name}, {target.kind}{f', {target.unit}' if target.unit else ''}"
