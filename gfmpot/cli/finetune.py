"""``gfmpot finetune``: adapt a model to a downstream task, as a recipe declares it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gfmpot.cli.console import clean_errors, facts, note, table
from gfmpot.cli.finetune_setup import given_ones, numbers, read, stoppable, strategy_names
from gfmpot.cli.options import Device, Model

if TYPE_CHECKING:
    from gfmpot.finetune.examples import Examples
    from gfmpot.finetune.running import Outcome
    from gfmpot.finetune.setting import Setting
    from gfmpot.finetune.task import Task

OF_RECIPE = "the recipe's"


def finetune(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A name that `gfmpot recipes list` has, or a .py file of your own.")
    ],
    data: Annotated[Path, typer.Option("--data", help="File or folder, in a form that the recipe's reader knows.")],
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            metavar="scratch|frozen|unfrozen|keep|lora|all",
            help="What is taken from the model, and trained; several with commas. all: the paper's, the first three.",
            show_default=OF_RECIPE,
        ),
    ] = None,
    model: Model = "default",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Results; runs in it go on.", show_default="runs/finetune-NAME")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", metavar="fp32|fp64|bf16", help="Of the network.")] = "fp32",
    seeds: Annotated[str, typer.Option("--seeds", metavar="N,N,...", help="One model for each.")] = "0",
    limit: Annotated[
        int | None, typer.Option("--limit", min=3, help="Use so many structures, drawn at random.", show_default="all")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="TRAIN,VALID,TEST|published",
            help="Shares, or numbers of structures; or the publishers' sides.",
            show_default=OF_RECIPE,
        ),
    ] = None,
    train_sizes: Annotated[
        str | None,
        typer.Option(
            "--train-sizes", metavar="N,N,...", help="Train on so many structures each, for a learning curve."
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Of training.", show_default=OF_RECIPE)] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Structures.", show_default=OF_RECIPE)] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Of the head; from scratch of all.", show_default=OF_RECIPE)
    ] = None,
    backbone_learning_rate: Annotated[
        float | None,
        typer.Option("--backbone-learning-rate", help="Of a pretrained backbone.", show_default=OF_RECIPE),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="NAME[:KIND[:UNIT]]",
            help="Another property; KIND is energy, extensive, intensive or class.",
            show_default=OF_RECIPE,
        ),
    ] = None,
    forces: Annotated[
        bool | None,
        typer.Option("--forces/--no-forces", help="Learn forces as well as energies.", show_default=OF_RECIPE),
    ] = None,
    reader_options: Annotated[
        list[str] | None,
        typer.Option(
            "--reader", metavar="NAME=VALUE", help="Option of the reader, e.g. energy_unit=Hartree. Repeatable."
        ),
    ] = None,
    skip_unlabelled: Annotated[
        bool, typer.Option("--skip-unlabelled", help="Leave out structures without the target, instead of stopping.")
    ] = False,
    device: Device = None,
) -> None:
    """Adapt a model to the data of a task, and measure it on structures that it was not trained on.

    RECIPE declares target, units, split and training (docs/finetuning.md); options change it. Runs that were done
    are not repeated, and one that was stopped goes on when the same command is given again.
    """
    from gfmpot.cli.pretrain import show_log

    show_log()
    with clean_errors():
        from gfmpot.finetune.reader import build_reader
        from gfmpot.finetune.recipe import load_task
        from gfmpot.finetune.retargeting import with_forces

        sides = split if split == "published" else numbers("--split", split, float)
        changes = given_ones(epochs=epochs, batch=batch, learning_rate=learning_rate, split=sides)
        task = replace(load_task(recipe), **changes, **given_ones(backbone_learning_rate=backbone_learning_rate))
        reader = build_reader(task.reader, **_options(reader_options or []))
        task = task if target is None else _with_target(task, target, reader.units(data))
        task = task if forces is None else with_forces(task, forces)
        settings = _settings(
            strategy or task.strategy,
            precision,
            numbers("--seeds", seeds, int),
            numbers("--train-sizes", train_sizes, int),
        )
        target_folder = folder or Path("runs") / f"finetune-{task.name}"
        examples = read(task, reader, data, limit, skip_unlabelled=skip_unlabelled)
        outcomes = _run(task, examples, settings, model, target_folder, device)
        _show(task, examples, outcomes, target_folder)


def run_recipe(file: str) -> None:
    """The command line of a recipe that is run by itself: that of ``gfmpot finetune``, with the recipe given."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(finetune)
    app(args=[file, *sys.argv[1:]], prog_name=Path(file).name)


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    import yaml

    named = [pair.partition("=") for pair in pairs]
    for name, equals, _ in named:
        if not equals:
            raise ValueError(f"--reader {name}: expected NAME=VALUE")
    return {name: yaml.safe_load(value) for name, _, value in named}


def _with_target(task: Task, text: str, units: Any) -> Task:
    from gfmpot.finetune.retargeting import retargeted

    name, _, rest = text.partition(":")
    kind, _, unit = rest.partition(":")
    return retargeted(task, name, kind or None, unit or None, units)


def _settings(
    strategies: str, precision: str, seeds: Sequence[int] | None, sizes: Sequence[int] | None
) -> list[Setting]:
    from gfmpot.config import from_mapping
    from gfmpot.finetune.setting import Setting

    base = {"precision": precision}
    return [
        from_mapping(Setting, {**base, "strategy": name, "seed": seed, "train_size": size}, where="settings")
        for size in sizes or (None,)
        for name in strategy_names(strategies)
        for seed in seeds or (0,)
    ]


def _run(
    task: Task, examples: Examples, settings: Sequence[Setting], model: str, folder: Path, device: str | None
) -> list[Outcome]:
    from gfmpot.finetune.running import run_task
    from gfmpot.inference.predictor import usable_device
    from gfmpot.models import load

    potential, chosen = load(model), usable_device(device)
    return stoppable(
        lambda end: run_task(task, examples, settings, potential, folder, device=chosen, end=end, told=_told)
    )


def _told(setting: Setting) -> None:
    note(f"training {setting.name}")


def _show(task: Task, examples: Examples, outcomes: Sequence[Outcome], folder: Path) -> None:
    from gfmpot.finetune.report import cells_of, columns_of, remarks, table_of, write_report
    from gfmpot.finetune.running import MODEL

    page = write_report(task, examples, outcomes, folder)
    table(columns_of(task), [cells_of(task, row) for row in table_of(task, outcomes)], title=task.title)
    for remark in remarks(outcomes):
        note(remark, "yellow")
    best = min(outcomes, key=lambda outcome: outcome.facts["valid_loss"]).folder / MODEL
    use = f'GFMCalculator("{best}")'
    if task.target.kind != "energy":
        use = f'GFMPotential.predict_property(structures, "{best}")'
    facts({"report": page, "model": best if len(outcomes) == 1 else f"{best} (lowest validation loss)", "use it": use})
