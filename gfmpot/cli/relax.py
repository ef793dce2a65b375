"""``gfmpot relax``: relaxed structures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from gfmpot.cli import options, output
from gfmpot.cli.console import clean_errors, note, report, table
from gfmpot.cli.structures import Failure, Frame, read_all
from gfmpot.config import did_you_mean

if TYPE_CHECKING:
    from gfmpot.calculators.relaxation import Relaxed

COLUMNS = [
    *["file", "frame", "formula", "before\n(eV)", "after\n(eV)", "steps", "converged", "max force\n(eV/Å)", "volume"],
]


def relax(
    files: Annotated[list[Path], typer.Argument(help="Anything ASE or pymatgen reads; all frames.")],
    cell: Annotated[bool, typer.Option("--cell/--no-cell", help="Relax the cell, too.")] = False,
    fmax: Annotated[float, typer.Option(help="eV/Å, the largest force to stop at.")] = 0.05,
    steps: Annotated[int, typer.Option(help="The most steps to take.")] = 500,
    optimizer: Annotated[str, typer.Option(metavar="FIRE|LBFGS|BFGS", help="One of ASE's.")] = "FIRE",
    out: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Final structures: a file (format by its suffix), or a folder for .extxyz files."
        ),
    ] = None,
    trajectory: Annotated[
        Path | None, typer.Option(help="Folder for the steps of each relaxation, as ASE .traj files.")
    ] = None,
    model: options.Model = "default",
    head: options.Head = None,
    precision: options.Precision = "fp32",
    tolerance: options.Tolerance = None,
    device: options.Device = None,
    charge: options.Charge = 0,
    spin: options.Spin = None,
) -> None:
    """Relax every structure in FILES.

    The exit code is 1 if a structure could not be read or relaxed, or did not converge.
    """
    with clean_errors():
        _check(optimizer, fmax, steps)
        entries = list(read_all(files))
        frames = [entry for entry in entries if isinstance(entry, Frame)]
        failures = [entry for entry in entries if isinstance(entry, Failure)]
        finals = output.Finals(out, len(frames))
        if trajectory is not None:
            trajectory.mkdir(parents=True, exist_ok=True)
        calculator = options.build_calculator(model, head, precision, device, charge, spin, tolerance)
        rows = []
        with finals:
            for frame, name in zip(frames, _names(frames), strict=True):
                frame.atoms.calc = calculator
                path = trajectory / f"{name}.traj" if trajectory else None
                found = _relaxed(frame, cell=cell, fmax=fmax, steps=steps, optimizer=optimizer, trajectory=path)
                if isinstance(found, Failure):
                    failures.append(found)
                    continue
                finals.add(name, found.frames[-1])
                rows.append(_row(frame, found))
                if not found.converged:
                    failures.append(Failure(str(frame), f"not converged after {found.steps} steps; raise --steps"))
        options.tell_choice(calculator)
        if rows:
            table(COLUMNS, rows)
        if rows and out is None:
            note("the final structures were not written; -o FILE writes them")
        report(failures)


def _check(optimizer: str, fmax: float, steps: int) -> None:
    from gfmpot.calculators.relaxation import OptimizerName

    known = get_args(OptimizerName)
    if optimizer not in known:
        raise ValueError(f"no optimizer {optimizer!r}{did_you_mean(optimizer.upper(), known)}")
    if not fmax > 0 or steps < 0:
        raise ValueError(f"--fmax must be positive and --steps not negative, got {fmax:g} and {steps}")


def _relaxed(frame: Frame, **settings: Any) -> Relaxed | Failure:
    from gfmpot.calculators.relaxation import relax

    try:
        return relax(frame.atoms, **settings)
    except ValueError as error:
        return Failure(str(frame), str(error))


def _row(frame: Frame, relaxed: Relaxed) -> list[object]:
    before, after = relaxed.frames[0], relaxed.frames[-1]
    largest = float((after.get_forces() ** 2).sum(axis=1).max() ** 0.5)
    solid = after.pbc.any() and after.cell.rank == 3
    change = f"{after.get_volume() / before.get_volume() - 1:+.2%}" if solid else None
    ends = [relaxed.energies[0], relaxed.energies[-1]]
    converged = "yes" if relaxed.converged else "no"
    return [frame.file, frame.index, after.get_chemical_formula(), *ends, relaxed.steps, converged, largest, change]


def _names(frames: Sequence[Frame]) -> list[str]:
    """A file name for each: the stem, with the frame if there are several, and a number if two files share a stem."""
    several = {frame.file for frame in frames if frame.index > 0}
    names: list[str] = []
    for frame in frames:
        name = f"{frame.file.stem}-{frame.index}" if frame.file in several else frame.file.stem
        numbered = (f"{name}-{n}" for n in count(2))
        names.append(next(n for n in chain([name], numbered) if n not in names))
    return names
