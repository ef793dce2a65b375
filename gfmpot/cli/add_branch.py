"""``gfmpot add-branch``: a level of theory more in a model of several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfmpot.cli.console import clean_errors, facts
from gfmpot.cli.options import Device

if TYPE_CHECKING:
    import torch

    from gfmpot.finetune.examples import Examples
    from gfmpot.finetune.setting import Setting
    from gfmpot.finetune.task import Task
    from gfmpot.models import Potential


def add_branch(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled structures, as for `gfmpot finetune custom`.")],
    name: Annotated[str, typer.Option("--name", help="Of the branch: <dataset>-<theory>, e.g. zeolites-r2scan.")],
    model: Annotated[str, typer.Option("--model", "-m", help="To which the branch is added.")] = "default",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Checkpoint to write.", show_default="MODEL+NAME.safetensors, here"),
    ] = None,
    theory: Annotated[str, typer.Option("--theory", help="Level of theory, for the card.")] = "",
    recipe: Annotated[
        str, typer.Option("--recipe", help="Says how the data are read, split and trained on.")
    ] = "custom",
    folder: Annotated[
        Path | None, typer.Option("--folder", help="A run in it goes on.", show_default="runs/add-NAME")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option("--epochs", help="Passes over the training set.", show_default="the recipe's")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="Structures per batch.", show_default="the recipe's")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Use so many structures.", show_default="all")] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="RUN.yaml", help="Train the whole model, also on the data of its branches."),
    ] = None,
    stores: Annotated[
        Path | None,
        typer.Option(
            "--stores", help="Folder that the files in RUN.yaml are relative to.", show_default="the folder of RUN.yaml"
        ),
    ] = None,
    share: Annotated[
        float, typer.Option("--share", help="Fraction of the training samples that are new data, with --replay.")
    ] = 0.5,
    device: Device = None,
) -> None:
    """Train a branch for DATA on MODEL's features, and write MODEL with it.

    MODEL's other answers stay as they are. The new branch answers by `head=NAME`; in the blend it has no say, except
    for elements that only it knows, until `gfmpot train-branch-weights` has seen data of all branches. With --replay
    backbone and branches are trained as well, on their own data again so that nothing is forgotten, and the blend is
    fitted anew.
    """
    from gfmpot.cli.pretrain import show_log

    show_log()
    with clean_errors():
        from gfmpot.cli.finetune_setup import read
        from gfmpot.cli.output import check_checkpoint
        from gfmpot.finetune.adding import check_name
        from gfmpot.finetune.reader import build_reader
        from gfmpot.finetune.recipe import load_task
        from gfmpot.finetune.setting import Setting
        from gfmpot.inference.predictor import usable_device
        from gfmpot.models import load, save

        if not 0 < share < 1:
            raise ValueError(f"--share must be between 0 and 1, got {share}")
        target = out or Path(f"{Path(model).stem}+{name}.safetensors")
        check_checkpoint(target)
        task = replace(load_task(recipe), branch_name=name, theory=theory)
        task = replace(task, epochs=epochs or task.epochs, batch=batch or task.batch)
        potential = load(model)
        check_name(potential, name)
        examples = read(task, build_reader(task.reader), data, limit, skip_unlabelled=False)
        own, place = folder or Path("runs") / f"add-{name}", usable_device(device)
        if replay is None:
            grown = _frozen(task, Setting("frozen"), examples, potential, own, place)
        else:
            grown = _replayed(task, Setting("keep"), examples, potential, own, place, replay, stores, share)
        save(grown, target)
        facts({"model": target, "use it": f'GFMCalculator("{target}", head="{name}")'})


def _frozen(
    task: Task, setting: Setting, examples: Examples, model: Potential, folder: Path, device: torch.device
) -> Potential:
    from gfmpot.cli.finetune_setup import stoppable
    from gfmpot.finetune.adding import ALIGNED, with_branch
    from gfmpot.finetune.running import MODEL, run_task
    from gfmpot.models import load
    from gfmpot.training.corpus import evenly, graphs_of

    outcome = stoppable(lambda end: run_task(task, examples, [setting], model, folder, device=device, end=end)[0])
    facts({measure.column: measure.factor * outcome.metrics[measure.key] for measure in task.measures})
    train = examples.part("train")
    graphs = graphs_of(train, evenly(len(train), ALIGNED), model.config, 0)
    return with_branch(model, load(outcome.folder / MODEL), graphs)


def _replayed(
    task: Task,
    setting: Setting,
    examples: Examples,
    model: Potential,
    folder: Path,
    device: torch.device,
    replay: Path,
    stores: Path | None,
    share: float,
) -> Potential:
    from gfmpot.cli.finetune_setup import stoppable
    from gfmpot.cli.train_branch_weights import corpora_of
    from gfmpot.config import from_yaml
    from gfmpot.finetune.adding import trained_beside
    from gfmpot.training.config import TrainConfig

    run = from_yaml(TrainConfig, replay)
    others = corpora_of(run, stores or replay.parent, model)
    weights = run.branch_weights
    return stoppable(
        lambda end: trained_beside(
            task, setting, examples, model, others, share, folder, device, weights=weights, end=end
        )
    )
