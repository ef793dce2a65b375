"""``gfmpot screen``: energies of any number of structures, by any number of processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gfmpot.cli import options
from gfmpot.cli.console import INCOMPLETE, clean_errors, console, note, report
from gfmpot.cli.structures import Frame, read_all

if TYPE_CHECKING:
    from ase import Atoms

    from gfmpot.inference import Predictor
    from gfmpot.inference.screening import Outcome, Relaxation, Relaxer, Screening
    from gfmpot.ranks.launch import Launch

MOST_WORKERS = 8
"""Processes that read ahead for one GPU, unless told otherwise."""

RELAXING = {"cell": False, "fmax": 0.05, "steps": 500, "optimizer": "FIRE"}
"""How to relax, unless told otherwise."""


def screen(
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for results.parquet and the rest.")
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUTS",
            help="Extended XYZ, ASE databases (.db, .aselmdb), packed .npz and .h5, stores (.bp), CIF and whatever "
            "else ASE reads, and folders of them.",
            show_default=False,
        ),
    ] = None,
    forces: Annotated[bool, typer.Option("--forces", help="Write forces.")] = False,
    stress: Annotated[bool, typer.Option("--stress", help="Write stress.")] = False,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Write those that fulfil it, e.g. 'energy_per_atom < -3'.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="N", help="Write the N best to top.parquet and top.extxyz.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column to rank by, lowest first.", show_default="energy_per_atom"),
    ] = None,
    largest: Annotated[bool, typer.Option("--largest", help="Rank the highest first.")] = False,
    relax: Annotated[bool, typer.Option("--relax", help="Relax positions first.")] = False,
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell, too, of what has a volume.")] = False,
    fmax: Annotated[float | None, typer.Option(help="eV/Å, the largest force to stop at.", show_default="0.05")] = None,
    steps: Annotated[int | None, typer.Option(help="The most steps to take.", show_default="500")] = None,
    optimizer: Annotated[
        str | None, typer.Option(metavar="FIRE|LBFGS", help="What relaxes.", show_default="FIRE")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", min=0, help="Processes that read ahead.", show_default="as cores allow"),
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(min=1, help="Records to do and write at once.", show_default="4096, relaxing 256")
    ] = None,
    batch_edges: Annotated[int, typer.Option(min=1, help="The most edges to evaluate at once.")] = 100_000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew in a folder that holds a run.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only see if each structure is in OUT exactly once.")] = False,
    model: options.Model = "default",
    head: options.Head = None,
    precision: Annotated[str, typer.Option(metavar="fp32|fp64|bf16", help="Of the network.")] = "fp32",
    device: options.Device = None,
    charge: options.Charge = 0,
    spin: options.Spin = None,
) -> None:
    """Energy, largest force and uncertainty of every structure in INPUTS, on any number of processes.

    Processes that are started by torchrun, srun or mpiexec, or by hand, share the work through OUT. A run that was
    stopped or killed goes on by the same command, on as many processes as you like. What cannot be read or answered is
    in OUT/quarantine.jsonl.
    """
    with clean_errors():
        if check:
            _check(out)
            return
        from gfmpot.inference.screening import Screening, Settings, Top
        from gfmpot.ranks.launch import place

        if not inputs:
            raise ValueError("give files or folders to screen, e.g. gfmpot screen candidates.extxyz -o results")
        launch = place()
        top = None if top_k is None else Top(top_k, by or "energy_per_atom", largest)
        if top_k is None and (by is not None or largest):
            raise ValueError("--by and --largest say what --top-k is: give that, too")
        relaxing = _relaxing(relax, cell=cell or None, fmax=fmax, steps=steps, optimizer=optimizer)
        predictor = _predictor(model, head, precision, device, batch_edges, launch)
        relaxer = _relaxer(predictor, model, relaxing) if relax else None
        settings = Settings(forces, stress, where, block_size, charge, spin, relaxer, structures_in)
        screening = Screening(inputs, out, predictor, settings, top=top, launch=launch, overwrite=overwrite)
        _finish(screening, _work(screening, _share_cores(predictor, launch, workers)))


def structures_in(path: Path) -> Iterator[Atoms | str]:
    """All structures of a file that is read as a whole; for what cannot be read, the reason."""
    for entry in read_all([path]):
        yield entry.atoms if isinstance(entry, Frame) else entry.reason


def _relaxing(relax: bool, **options: Any) -> dict[str, Any]:
    """How to relax: what of the options is given, else the usual."""
    given = {name: value for name, value in options.items() if value is not None}
    if given and not relax:
        raise ValueError(f"--{next(iter(given))} says how to relax: give --relax, too")
    return RELAXING | given


def _predictor(
    model: str, head: str | None, precision: str, device: str | None, batch_edges: int, launch: Launch
) -> Predictor:
    from gfmpot.graph import BatchBudget
    from gfmpot.inference import Predictor
    from gfmpot.ranks import launch as ranks

    if precision == "auto":
        raise ValueError("--precision auto looks at the first structures, which are others on each process; choose one")
    alone = launch.world == 1 and device is not None  # a device of any kind that there is
    chosen = device if alone else ranks.device(launch, device)
    return Predictor(model, head=head, precision=precision, device=chosen, budget=BatchBudget(max_edges=batch_edges))


def _relaxer(predictor: Predictor, model: str, settings: Mapping[str, Any]) -> Relaxer:
    from gfmpot.calculators import GFMCalculator
    from gfmpot.calculators.batched import relax_many
    from gfmpot.inference.screening import Relaxation, Relaxer
    from gfmpot.testing.structures import has_volume

    device = str(predictor.device)
    calculator = GFMCalculator(model, head=predictor.head, precision=predictor.precision, device=device)

    def relaxed(structures: Sequence[Atoms]) -> list[Relaxation | str]:
        cells = [settings["cell"] and has_volume(atoms) for atoms in structures]
        ends = relax_many(
            structures, calculator, **{**settings, "cell": cells}, budget=predictor.budget, progress=False
        )
        return [end.error or Relaxation(end.atoms, end.steps, end.converged) for end in ends]

    relaxed([])  # whether the settings make sense
    return Relaxer(relaxed, settings)


def _share_cores(predictor: Predictor, launch: Launch, workers: int | None) -> int:
    """How many processes read ahead; the threads of this one are what is left of this rank's cores.

    OMP_NUM_THREADS, where it is set, says how many threads there are.
    """
    import torch

    from gfmpot.ranks.launch import own_cores
    from gfmpot.telemetry.host import cores

    own = own_cores(launch, cores())
    if workers is None:
        workers = min(own - 1, 1 if predictor.device.type == "cpu" else MOST_WORKERS)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, own - workers))
    return workers


def _work(screening: Screening, workers: int) -> Outcome:
    from gfmpot.cli.screen_progress import shown
    from gfmpot.ranks.signals import SIGNALS, EndOfJob

    if screening.launch.is_main:
        _tell_beginning(screening)
    with EndOfJob((*SIGNALS, signal.SIGINT)) as end, shown(screening) as progress:
        return screening.work(workers=workers, stopping=lambda: end.requested, progress=progress)


def _tell_beginning(screening: Screening) -> None:
    from gfmpot.inference.screening.inputs import HIDDEN

    plan = screening.plan
    for suffix, count in plan.passed_over.items():
        what = "hidden files and folders" if suffix == HIDDEN else f"files {suffix}"
        note(f"passed over {count} {what} in folders: no structures", "yellow")
    for item in plan.inputs:
        if item.problem:
            rest = f" after its first {item.records} structures" if item.records else ""
            whose = "" if item.path in item.problem else f"{item.path}: "
            note(f"cannot be read{rest}: {whose}{item.problem}", "yellow")
    if not screening.locked:
        note(f"no file locks in {screening.folder.path}: ranks may do some blocks twice", "yellow")
    done, blocks = len(screening.folder.done()), len(screening.blocks)
    if 0 < done < blocks:
        note(f"going on: {done} of {blocks} blocks are done")


def _finish(screening: Screening, outcome: Outcome) -> None:
    """The closing report, by one of the processes that see the last block done."""
    from gfmpot.cli.screen_report import tell

    if not outcome.complete:
        if outcome.stopped:
            note(f"stopped: {outcome.done} of {outcome.blocks} blocks are done; the same command goes on", "yellow")
            raise typer.Exit(INCOMPLETE)
        if screening.launch.world == 1:
            note(f"other processes are at work on the rest: {outcome.done} of {outcome.blocks} blocks are done")
        return
    closed = screening.close()
    if closed is None:  # another process has done it
        return
    tell(closed, screening.folder.path)
    console().print(f"wrote {screening.folder.path}")
    if closed["structures"] and closed["quarantined"] == closed["structures"]:
        closed["problems"].append(
            f"not one structure could be screened: {screening.folder.path}/quarantine.jsonl says why"
        )
    if unreadable := closed["unreadable_files"]:
        closed["problems"].append(
            f"{unreadable} files could not be read to their end: {screening.folder.path}/quarantine.jsonl says why"
        )
    report(closed["problems"])


def _check(out: Path) -> None:
    from gfmpot.inference.screening import check

    problems = check(out)
    if not problems:
        console().print(f"{out}: every structure is there exactly once")
    report(problems)
