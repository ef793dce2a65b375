"""``gfmpot matbench``: the official folds of a task of Matbench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfmpot.cli.console import clean_errors, facts, note, table
from gfmpot.cli.finetune_setup import given_ones, numbers, stoppable, strategy_names
from gfmpot.cli.options import Device, Model

if TYPE_CHECKING:
    from gfmpot.finetune.matbench_package import Official
    from gfmpot.finetune.matbench_report import SettingRuns
    from gfmpot.finetune.setting import Setting
    from gfmpot.finetune.task import Task
    from gfmpot.ranks.signals import EndOfJob

OF_TASK = "the recipe's"


def matbench(
    task: Annotated[str, typer.Option("--task", help="On structures, e.g. jdft2d or matbench_mp_is_metal.")],
    data: Annotated[Path, typer.Option("--data", help="The published file, e.g. matbench_jdft2d.json.gz.")],
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            metavar="scratch|frozen|unfrozen|all",
            help="What is taken from the model, and trained; several with commas.",
        ),
    ] = "unfrozen",
    model: Model = "default",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Results; folds in it go on.", show_default="runs/TASK")
    ] = None,
    folds: Annotated[
        str, typer.Option("--folds", metavar="N,N,...", help="The official record is written once all are done.")
    ] = "0,1,2,3,4",
    precision: Annotated[str, typer.Option("--precision", metavar="fp32|fp64|bf16", help="Of the network.")] = "fp32",
    seed: Annotated[int, typer.Option("--seed", help="Of new weights and of the order of structures.")] = 0,
    epochs: Annotated[
        float | None, typer.Option("--epochs", help="Passes over the training set.", show_default=OF_TASK)
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Structures per batch.", show_default=OF_TASK)] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="Of the head; from scratch of all.", show_default=OF_TASK)
    ] = None,
    backbone_learning_rate: Annotated[
        float | None, typer.Option("--backbone-learning-rate", help="Of a pretrained backbone.", show_default=OF_TASK)
    ] = None,
    device: Device = None,
) -> None:
    """Train a model for each fold of Matbench, and write the file of results that its leaderboard takes.

    Needs the package matbench (docs/finetuning.md says how it is installed). Folds that were done are not repeated,
    and one that was stopped goes on when the same command is given again.
    """
    from gfmpot.cli.pretrain import show_log

    show_log()
    with clean_errors():
        from gfmpot.finetune.matbench import matbench_task
        from gfmpot.finetune.matbench_package import official_task

        official = official_task(task)
        changes = given_ones(
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            backbone_learning_rate=backbone_learning_rate,
        )
        declared = replace(matbench_task(official), **changes)
        settings = _settings(strategy, precision, seed)
        target = folder or Path("runs") / declared.name
        wanted = sorted(set(numbers("--folds", folds, int) or ()))
        _run(declared, official, data, settings, model, target, wanted, device)


def _settings(strategies: str, precision: str, seed: int) -> list[Setting]:
    from gfmpot.config import from_mapping
    from gfmpot.finetune.setting import Setting

    base = {"precision": precision, "seed": seed}
    return [from_mapping(Setting, {**base, "strategy": s}, where="settings") for s in strategy_names(strategies)]


def _run(
    task: Task,
    official: Official,
    data: Path,
    settings: Sequence[Setting],
    model: str,
    folder: Path,
    wanted: Sequence[int],
    device: str | None,
) -> None:
    from gfmpot.cli.finetune_progress import reading
    from gfmpot.finetune.matbench import is_published, read_all, run_folds
    from gfmpot.finetune.matbench_report import recorded
    from gfmpot.inference.predictor import usable_device
    from gfmpot.models import load

    with reading(task.title) as watch:
        examples = read_all(task, official, data, watch)
    published = is_published(official, data)
    if not published:
        note(f"warning: {data} is not the file that Matbench has published: its SHA-256 differs", "yellow")
    potential, chosen = load(model), usable_device(device)

    def work(end: EndOfJob) -> list[SettingRuns]:
        done = []
        for setting in settings:
            runs = run_folds(
                task, official, examples, setting, potential, folder, wanted=wanted, device=chosen, end=end, told=_told
            )
            done.append(recorded(official, examples, setting, runs, folder, published=published))
        return done

    _show(task, stoppable(work), folder, published=published)


def _told(fold: int, setting: Setting) -> None:
    note(f"training fold {fold}, {setting.name}")


def _show(task: Task, done: Sequence[SettingRuns], folder: Path, *, published: bool) -> None:
    from gfmpot.finetune.matbench_report import fold_cells, fold_columns, notes_of, rows_of, write_matbench_report
    from gfmpot.finetune.report import cells_of, columns_of

    notes = notes_of(task, done, published=published)
    page = write_matbench_report(task, done, folder, notes)
    table(fold_columns(task), fold_cells(task, done))
    table(columns_of(task), [cells_of(task, row) for row in rows_of(task, done)], title=task.title)
    for text in notes:
        note(text)
    records = ", ".join(str(one.record) for one in done if one.record)
    facts({"report": page, "official record": records or "not written: folds are missing"})
