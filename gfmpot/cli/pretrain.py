"""``gfmpot pretrain``, also ``gfmpot-pretrain``: train all branches together, on one core or on many nodes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfmpot.cli.console import INCOMPLETE, clean_errors, facts, log_handler, note

if TYPE_CHECKING:
    from gfmpot.ranks.launch import Launch
    from gfmpot.training.config import TrainConfig
    from gfmpot.training.trainer import Trainer


def pretrain(
    config: Annotated[Path, typer.Option("--config", "-c", help="The run, in YAML; docs/pretraining.md explains it.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder that the files in the config are relative to.", show_default="the config's"
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="State, log and model; a run in it goes on.", show_default="runs/<config>"),
    ] = None,
    parallel: Annotated[
        str | None,
        typer.Option(
            "--parallel",
            metavar="ddp|fsdp|task",
            help="How training is spread over ranks.",
            show_default="the config's",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", metavar="fp32|fp64|bf16", help="Of the network.", show_default="the config's"),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option("--max-hours", help="Stop after so long, with a state to go on from.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda or xpu.", show_default="the best there is")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Of the model: its file, and in its card.")] = "pretrained",
) -> None:
    """Train a model with a branch for each dataset.

    Under torchrun, srun or mpiexec, every rank runs this same command. A run that was stopped, by a signal of the
    scheduler, by --max-hours or by a kill, goes on when the command is given again, on any number of ranks.
    """
    show_log()
    with clean_errors():
        from gfmpot.ranks.launch import session

        run = _config(config, parallel, precision)
        with session(device) as (launch, chosen):
            if not launch.is_main:
                logging.getLogger().setLevel(logging.WARNING)
            from gfmpot.training.trainer import Trainer

            target = folder or Path("runs") / config.stem
            with Trainer(run, data or config.parent, target, launch, chosen) as trainer:
                complete = _fit(trainer, max_hours)
                if complete:
                    _finish(trainer, name, target, launch)
                elif launch.is_main:
                    note(f"stopped at {trainer.done:.1%}; the same command goes on")


def show_log() -> None:
    """Lines of the log, above the live progress on a terminal."""
    import sys

    from rich import get_console

    handler = log_handler(get_console() if sys.stdout.isatty() else None)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    for chatty in ("torch.distributed.checkpoint", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _fit(trainer: Trainer, max_hours: float | None) -> bool:
    from gfmpot.ranks.signals import Deadline, EndOfJob

    try:
        with EndOfJob() as end:
            return trainer.fit(deadline=Deadline(max_hours), end=end)
    except FloatingPointError as error:
        note(f"error: {error}", "red")
        raise typer.Exit(INCOMPLETE) from None


def _config(path: Path, parallel: str | None, precision: str | None) -> TrainConfig:
    from gfmpot.config import from_mapping, from_yaml, to_mapping
    from gfmpot.training.config import TrainConfig

    given = {"parallel": parallel, "precision": precision}
    changes = {key: value for key, value in given.items() if value is not None}
    config = from_yaml(TrainConfig, path)
    return from_mapping(TrainConfig, {**to_mapping(config), **changes}, where="command line") if changes else config


def _finish(trainer: Trainer, name: str, folder: Path, launch: Launch) -> None:
    """Alignment, weights of the blend, errors on the test split, card."""
    from gfmpot.models import save
    from gfmpot.training.finish import finish, write_card

    written = folder / f"{name}.safetensors"
    if not written.exists():
        model = finish(trainer, name, f"Trained by `gfmpot pretrain` on {len(trainer.corpora)} branches.")
        if launch.is_main:
            save(model, written)
            write_card(model, folder / f"{name}.md")
    if launch.is_main:
        facts({"model": written, "card": written.with_suffix(".md"), "report": f"gfmpot report {folder}"})


def main() -> None:
    """What the ``gfmpot-pretrain`` script runs."""
    typer.run(pretrain)
