"""``gfmpot hpo``: search for the hyper-parameters of a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gfmpot.cli.console import INCOMPLETE, clean_errors, facts, note, table

if TYPE_CHECKING:
    from gfmpot.hpo.campaign import Standing
    from gfmpot.hpo.protocol import Protocol
    from gfmpot.hpo.space import SearchSpace

Data = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Stores (.bp) or packed files (.npz), a branch each; several may follow each other."),
]
Fix = Annotated[
    list[str] | None,
    typer.Option("--fix", metavar="NAME[=VALUE]", help="Keep a setting, at its default or at VALUE. Repeatable."),
]


def hpo(
    more: Annotated[list[Path] | None, typer.Argument(metavar="[DATA]...", help="More files of --data.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", "-b", help="Of which model.", show_default="the config's")
    ] = None,
    data: Data = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A run in YAML with branches and settings of all trials.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="A campaign in it goes on.", show_default="runs/hpo-BACKBONE")
    ] = None,
    max_evals: Annotated[int, typer.Option("--max-evals", min=1, help="Trials in all, failures included.")] = 200,
    max_hours: Annotated[float | None, typer.Option("--max-hours", help="Stop after so long; may go on.")] = None,
    concurrent: Annotated[int, typer.Option("--concurrent", min=1, help="Trials at the same time.")] = 1,
    ranks: Annotated[int, typer.Option("--ranks-per-trial", min=1, help="Processes of each.")] = 1,
    launcher: Annotated[
        str | None,
        typer.Option(
            "--launcher",
            metavar="COMMAND",
            help="Starts them, e.g. 'srun --exact -N 16 -n {ranks}'; {slot} is 0, 1, ... of those at the same time.",
        ),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Run trials as tasks of a Ray cluster (RAY_ADDRESS).")] = False,
    trial_minutes: Annotated[float | None, typer.Option("--trial-minutes", help="A longer trial has failed.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of each trial.")] = 20,
    fraction: Annotated[float, typer.Option("--fraction", help="Of each training split, the same for all.")] = 0.1,
    space: Annotated[
        str, typer.Option("--space", metavar="all|paper", help="All that is tunable, or Tables III and IV.")
    ] = "all",
    fix: Fix = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="NAME=LOW:HIGH[:log]", help="Search there; also NAME=A,B,C. Repeatable."),
    ] = None,
    stopper: Annotated[
        str, typer.Option("--stopper", metavar="none|median|halving", help="End hopeless trials early.")
    ] = "none",
    seed_from: Annotated[
        list[Path] | None, typer.Option("--seed-from", metavar="FOLDER", help="Learn from a campaign. Repeatable.")
    ] = None,
    weights: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            "--weights",
            metavar="E F S",
            help="Of errors in the validation loss.",
            show_default="4 1 50, per eV/atom, eV/Å, eV/Å³",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the part of the data, weights and proposals.")] = 0,
    device: Annotated[str | None, typer.Option("--device", help="Of trials.", show_default="the best there is")] = None,
    show_space: Annotated[bool, typer.Option("--show-space", help="Print what would be searched, and exit.")] = False,
) -> None:
    """Search for the hyper-parameters of a backbone with DeepHyper, by short training runs on a part of the data.

    Trials are separate processes. Those that fail, take too long or need too much memory are recorded with the reason.
    The same command goes on after a kill; `gfmpot report FOLDER` draws the campaign, `gfmpot promote` trains the best.
    """
    with clean_errors():
        from gfmpot.cli import hpo_setup

        hpo_setup.check_names(space, stopper)
        files = [*(data or []), *(more or [])]
        base = hpo_setup.base_of(config, backbone, files, fix or [], ranges or [], space)
        if show_space:
            _show(base.space)
            return
        from gfmpot.hpo.surrogate import deephyper

        deephyper()
        target = folder or Path("runs") / f"hpo-{base.space.backbone}"
        budget = hpo_setup.budget(max_evals, max_hours, stopper, seed_from or [])
        start = hpo_setup.launcher(launcher, ranks, concurrent, trial_minutes)
        protocol = base.protocol(fraction=fraction, epochs=epochs, seed=seed, weights=weights, device=device)
        _finish(_search(protocol, budget, start, target, ray=ray), target)


def _search(protocol: Protocol, budget: Any, start: Any, target: Path, *, ray: bool) -> Standing:
    from gfmpot.cli.hpo_progress import shown
    from gfmpot.hpo.campaign import Campaign
    from gfmpot.hpo.workers import RayWorkers

    workers = RayWorkers(start.concurrent, start.ranks) if ray else None
    with shown() as watch:
        return Campaign(protocol, budget, start, target, workers).run(watch)


def _show(space: SearchSpace) -> None:
    rows = [
        [p.name, p.range, str(p.default) if p.start == p.default else f"{p.default}; begins with {p.start}", p.source]
        for p in space.parameters
    ]
    table(["searched", "range", "default", "range from"], rows)
    facts(space.fixed)


def _finish(standing: Standing, folder: Path) -> None:
    best = standing.best
    pairs = {
        "trials": f"{len(standing.results)} of {standing.total}, {standing.failed} failed",
        "best": None if best is None else f"trial {best.trial}, validation loss {best.validation_loss:.4g}",
        "results": folder / "results.csv",
        "report": f"gfmpot report {folder}",
        "train the best": f"gfmpot promote {folder} --max-hours H --folder OUT",
    }
    facts(pairs)
    if len(standing.results) < standing.total:
        note("stopped early; the same command goes on")
    if best is None:
        note("no trial has come to a validation loss; results.csv has the reasons", "red")
        raise typer.Exit(INCOMPLETE)
