"""``gfmpot promote``: train the best configurations of campaigns on all data, and rank them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gfmpot.cli.console import clean_errors, facts, note, table
from gfmpot.cli.hpo import Data, Fix

if TYPE_CHECKING:
    from gfmpot.hpo.promotion import Ranked
    from gfmpot.hpo.protocol import Protocol


def promote(
    campaigns: Annotated[list[Path], typer.Argument(metavar="CAMPAIGN...", help="Folders of `gfmpot hpo`.")],
    max_hours: Annotated[float, typer.Option("--max-hours", help="Of training for each, restarts included.")],
    folder: Annotated[Path, typer.Option("--folder", help="For runs, ranking.json and winner.yaml.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Configurations of each campaign.")] = 2,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Length of the learning-rate schedule.")] = 100,
    baseline: Annotated[bool, typer.Option("--baseline", help="Train the backbone's defaults, too.")] = False,
    data: Data = None,
    fix: Fix = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda or xpu.", show_default="the best there is")
    ] = None,
) -> None:
    """Train the configurations of lowest validation loss of each CAMPAIGN on all data for the same time, and rank them.

    Data are those of the campaigns unless others are given. Under torchrun, srun or mpiexec, every rank runs this same
    command. What was stopped, by a signal of the scheduler or by a kill, goes on when the command is given again.
    """
    with clean_errors():
        from gfmpot.cli.pretrain import show_log
        from gfmpot.hpo.promotion import candidates, promote
        from gfmpot.ranks.launch import session
        from gfmpot.ranks.signals import Deadline

        Deadline(max_hours)  # refuses what is not positive
        show_log()
        files = [*(data or []), *(path for path in campaigns if path.suffix in (".bp", ".npz"))]
        folders = [path for path in campaigns if path.suffix not in (".bp", ".npz")]
        with session(device) as (launch, chosen):
            if not launch.is_main:
                logging.getLogger().setLevel(logging.WARNING)
            adapt = _adaptation(files, fix or [])
            found = candidates(folders, top, epochs, adapt, baseline=baseline, ranks=launch.world)
            ranking = promote(found, max_hours, folder, launch, chosen, _told if launch.is_main else lambda name: None)
            if launch.is_main:
                _show(ranking, folder)


def _told(name: str) -> None:
    note(f"training {name}")


def _adaptation(files: Sequence[Path], fix: Sequence[str]) -> Callable[[Protocol], Protocol]:
    """What the command line changes of a campaign's protocol; data are read once."""
    from gfmpot.hpo.protocol import branches_of, opened, split_of
    from gfmpot.hpo.space import fixed_settings

    branches = branches_of(files)

    def adapt(protocol: Protocol) -> Protocol:
        fixed = {**protocol.space.fixed, **fixed_settings(protocol.space.backbone, fix)}
        changed = replace(protocol, space=replace(protocol.space, fixed=fixed))
        if not branches:
            return changed
        named, sizes = opened(branches, split_of(fixed))
        return replace(changed, branches=named, sizes=sizes)

    return adapt


def _show(ranking: Sequence[Ranked] | None, folder: Path) -> None:
    if ranking is None:
        note("stopped; the same command goes on")
        return
    columns = ["", "configuration", "validation loss", "epochs", "hours", "loss in the search", "note"]
    defaults = "defaults, which may lie outside of what was searched"
    rows = [
        [
            str(i),
            r.name,
            r.validation_loss,
            r.epochs,
            r.hours,
            r.searched_loss,
            r.reason or (defaults if r.searched_loss is None else None),
        ]
        for i, r in enumerate(ranking, 1)
    ]
    table(columns, rows)
    best = folder / ranking[0].name
    facts(
        {
            "ranking": folder / "ranking.json",
            "winner": folder / "winner.yaml",
            "its model": f"gfmpot pretrain --config {folder / 'winner.yaml'} --folder {best}",
            "comparison": f"gfmpot report {' '.join(str(folder / r.name) for r in ranking)} --out comparison.html",
        }
    )
