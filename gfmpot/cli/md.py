"""``gfmpot md``: molecular dynamics."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gfmpot.cli import options
from gfmpot.cli.console import INCOMPLETE, clean_errors, console, facts, note
from gfmpot.cli.output import check_folder
from gfmpot.cli.structures import read_last

if TYPE_CHECKING:
    from ase import Atoms

    from gfmpot.calculators.dynamics import MDConfig, MDSummary

INTERRUPTED = 130
"""Exit code, as shells have it for Ctrl-C."""


def md(
    file: Annotated[Path, typer.Argument(help="The start: anything ASE or pymatgen reads; the last frame.")],
    ensemble: Annotated[
        str,
        typer.Option(metavar="nve|nvt-langevin|nvt-nose-hoover|npt", help="npt keeps the shape of the cell."),
    ] = "nvt-langevin",
    temperature: Annotated[float, typer.Option("--temperature", "-T", help="K.")] = 300.0,
    pressure: Annotated[float, typer.Option(help="GPa, with npt.")] = 0.0,
    timestep: Annotated[float, typer.Option(help="fs.")] = 1.0,
    steps: Annotated[int, typer.Option("--steps", "-n", help="In all, those before --resume included.")] = 1000,
    interval: Annotated[int, typer.Option(help="Steps between frames.")] = 10,
    friction: Annotated[float, typer.Option(help="1/ps, with nvt-langevin.")] = 1.0,
    ttime: Annotated[float, typer.Option(help="fs, time of the Nosé-Hoover thermostat.")] = 100.0,
    ptime: Annotated[float, typer.Option(help="fs, time of the barostat.")] = 1000.0,
    seed: Annotated[int, typer.Option(help="Of initial velocities and Langevin's noise.")] = 0,
    cells: Annotated[str, typer.Option("--supercell", help="Repeat the start, e.g. '2 2 2' or 2x2x2.")] = "1",
    trajectory: Annotated[Path, typer.Option(help="ASE trajectory to write.")] = Path("md.traj"),
    log: Annotated[Path | None, typer.Option(help="CSV table to write.", show_default="beside the trajectory")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the trajectory, or begin it.")] = False,
    model: options.Model = "default",
    head: options.Head = None,
    precision: options.Precision = "fp32",
    tolerance: options.Tolerance = None,
    device: options.Device = None,
    charge: options.Charge = 0,
    spin: options.Spin = None,
) -> None:
    """Simulate the motion of a structure.

    Velocities in FILE are kept; otherwise they are drawn for the temperature. A killed run goes on with the same
    command and --resume, from its last whole frame, with the state of thermostat, barostat and noise: it takes the
    path that it would have taken, up to rounding in --precision. A run that explodes ends with exit code 1 and keeps
    its trajectory.
    """
    with clean_errors():
        from gfmpot.calculators.dynamics import MDConfig

        config = MDConfig(
            ensemble=ensemble,  # type: ignore[arg-type]  # checked there, with a hint
            temperature=temperature,
            pressure=pressure,
            timestep=timestep,
            steps=steps,
            interval=interval,
            friction=friction,
            ttime=ttime,
            ptime=ptime,
            seed=seed,
        )
        log = log or trajectory.with_suffix(".csv")
        for path in (trajectory, log):
            check_folder(path)
        atoms = options.supercell(read_last(file), cells)
        atoms.calc = options.build_calculator(model, head, precision, device, charge, spin, tolerance)
        summary = _simulate(atoms, config, trajectory, log, resume)
        options.tell_choice(atoms.calc)
        _print(summary, trajectory, log, atoms.calc.path)


def _simulate(atoms: Atoms, config: MDConfig, trajectory: Path, log: Path, resume: bool) -> MDSummary:
    from gfmpot.calculators.dynamics import DynamicsError, run_md

    try:
        with _Steps(config.steps, config.timestep) as progress:
            return run_md(atoms, config, trajectory=trajectory, log=log, resume=resume, on_step=progress)
    except DynamicsError as error:
        note(f"error: {error}", "red")
        raise typer.Exit(INCOMPLETE) from None
    except KeyboardInterrupt:
        note(f"interrupted; the same command with --resume goes on from the last frame of {trajectory}")
        raise typer.Exit(INTERRUPTED) from None


class _Steps:
    """Shows how far a run is: a bar in a terminal, elsewhere a line for every tenth."""

    def __init__(self, total: int, timestep: float) -> None:
        self.total, self.timestep, self.first = total, timestep, -1
        err = console(stderr=True)
        columns = TextColumn("{task.completed}/{task.total} steps"), BarColumn(), TextColumn("{task.description}")
        self.bar = Progress(*columns, TimeRemainingColumn(), console=err, disable=not err.is_terminal)
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> _Steps:
        self.began = time.perf_counter()
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, step: int) -> None:
        """After every step."""
        if self.first < 0:
            self.first, self.began = step, time.perf_counter()  # the first one loads and compiles things
            return
        rate = (step - self.first) / (time.perf_counter() - self.began)
        self.bar.update(self.task, completed=step, description=self._speed(rate))
        if self.bar.disable and step * 10 // self.total > (step - 1) * 10 // self.total:
            left = (self.total - step) / rate
            note(f"{step}/{self.total} steps, {self._speed(rate)}, {left:.0f} s left")

    def _speed(self, rate: float) -> str:
        return f"{rate:.1f} steps/s, {rate * self.timestep * 1e-6 * 86400:.3g} ns/day"


def _print(summary: MDSummary, trajectory: Path, log: Path, path: str) -> None:
    drift = None if summary.drift is None else f"{summary.drift:+.3g} meV/atom/ps"
    facts(
        {
            "structure": f"{summary.atoms.get_chemical_formula()}, {len(summary.atoms)} atoms",
            "steps": f"{summary.steps} ({summary.steps_run} now, {summary.wall_time:.1f} s)",
            "speed": f"{summary.ns_per_day:.3g} ns/day" if summary.steps_run else None,
            "evaluated by": path,
            "temperature": f"{summary.temperature_mean:.1f} ± {summary.temperature_std:.1f} K",
            "energy drift": drift or "no conserved quantity",
            "largest force": f"{summary.max_force:.3f} eV/Å",
            "shortest distance": f"{summary.min_distance:.3f} Å",
            "trajectory": trajectory,
            "table": log,
        }
    )
