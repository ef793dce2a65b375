"""``gfmpot relax``: relaxed structures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from gfmpot.cli import options, output
from gfmpot.cli.console import clean_errors, note, report, table
from gfmpot.cli.structures import Failure, Frame, read_all
from gfmpot.config import did_you_mean

if TYPE_CHECKING:
    from ase import Atoms

    from gfmpot.calculators import GFMCalculator

COLUMNS = [
    *["file", "frame", "formula", "before\n(eV)", "after\n(eV)", "steps", "converged", "max force\n(eV/Å)", "volume"],
]


def relax(
    files: Annotated[list[Path], typer.Argument(help="Anything ASE or pymatgen reads; all frames.")],
    cell: Annotated[bool, typer.Option("--cell/--no-cell", help="Relax the cell, too, of what has a volume.")] = False,
    fmax: Annotated[float, typer.Option(help="eV/Å, the largest force to stop at.")] = 0.05,
    steps: Annotated[int, typer.Option(help="The most steps to take.")] = 500,
    optimizer: Annotated[str, typer.Option(metavar="FIRE|LBFGS|BFGS", help="One of ASE's.")] = "FIRE",
    engine: Annotated[
        str,
        typer.Option(metavar="ase|batched", help="One by one with ASE, or many together: the same steps, sooner."),
    ] = "ase",
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
        from gfmpot.testing.structures import has_volume

        _check(engine, optimizer, fmax, steps)
        entries = list(read_all(files))
        frames = [entry for entry in entries if isinstance(entry, Frame)]
        failures = [entry for entry in entries if isinstance(entry, Failure)]
        finals, names = output.Finals(out, len(frames)), _names(frames)
        if trajectory is not None:
            trajectory.mkdir(parents=True, exist_ok=True)
        calculator = options.build_calculator(model, head, precision, device, charge, spin, tolerance)
        cells = [cell and has_volume(frame.atoms) for frame in frames]
        settings = {"fmax": fmax, "steps": steps, "optimizer": optimizer}
        ends: dict[int, _End | Failure] = {}
        with finals:
            for place, end in ENGINES[engine](frames, names, cells, calculator, trajectory, settings):
                ends[place] = end
                if isinstance(end, _End):
                    finals.add(place, names[place], end.after)
        rows = [_row(frame, end) for i, frame in enumerate(frames) if isinstance(end := ends[i], _End)]
        options.tell_choice(calculator)
        if rows:
            table(COLUMNS, rows)
            if cell and not all(cells):
                note(f"{cells.count(False)} without a volume, of which positions alone were relaxed")
            note(f"wrote {out}" if out else "the final structures were not written; -o FILE writes them")
        report([*failures, *filter(None, (_failure(frame, ends[i]) for i, frame in enumerate(frames)))])


@dataclass(frozen=True)
class _End:
    """Of one relaxation."""

    before: Atoms
    after: Atoms
    steps: int
    converged: bool


Ends: TypeAlias = Iterator["tuple[int, _End | Failure]"]


def _one_by_one(
    frames: Sequence[Frame],
    names: Sequence[str],
    cells: Sequence[bool],
    calculator: GFMCalculator,
    trajectory: Path | None,
    settings: Mapping[str, Any],
) -> Ends:
    from gfmpot.calculators.relaxation import relax

    for place, (frame, name, cell) in enumerate(zip(frames, names, cells, strict=True)):
        frame.atoms.calc = calculator
        steps = trajectory and trajectory / f"{name}.traj"
        try:
            found = relax(frame.atoms, cell=cell, trajectory=steps, **settings)
        except ValueError as error:
            yield place, Failure(str(frame), str(error))
        else:
            yield place, _End(found.frames[0], found.frames[-1], found.steps, found.converged)


def _together(
    frames: Sequence[Frame],
    names: Sequence[str],
    cells: Sequence[bool],
    calculator: GFMCalculator,
    trajectory: Path | None,
    settings: Mapping[str, Any],
) -> Ends:
    from gfmpot.calculators.batch_progress import progress_bar
    from gfmpot.calculators.batched import relax_as_done

    starts = [frame.atoms for frame in frames]
    with progress_bar(len(frames), shown=True) as bar:
        for place, found in relax_as_done(
            starts, calculator, cell=cells, trajectories=trajectory, names=names, **settings
        ):
            bar.advance(1)
            bar.tell(found.converged)
            failure = Failure(str(frames[place]), found.error or "")
            yield place, failure if found.error else _End(found.start, found.atoms, found.steps, found.converged)


ENGINES = {"ase": _one_by_one, "batched": _together}


def _check(engine: str, optimizer: str, fmax: float, steps: int) -> None:
    from gfmpot.calculators.relaxation import check_settings

    if engine not in ENGINES:
        raise ValueError(f"no engine {engine!r}{did_you_mean(engine, ENGINES)}")
    check_settings(optimizer, fmax, steps, batched=engine == "batched")


def _row(frame: Frame, end: _End) -> list[object]:
    before, after = end.before, end.after
    largest = float((after.get_forces() ** 2).sum(axis=1).max() ** 0.5)
    solid = after.pbc.any() and after.cell.rank == 3
    change = f"{after.get_volume() / before.get_volume() - 1:+.2%}" if solid else None
    energies = [float(atoms.get_potential_energy()) for atoms in (before, after)]
    converged = "yes" if end.converged else "no"
    return [frame.file, frame.index, after.get_chemical_formula(), *energies, end.steps, converged, largest, change]


def _failure(frame: Frame, end: _End | Failure) -> Failure | None:
    if isinstance(end, Failure) or end.converged:
        return end if isinstance(end, Failure) else None
    return Failure(str(frame), f"not converged after {end.steps} steps; raise --steps")


def _names(frames: Sequence[Frame]) -> list[str]:
    """A file name for each: the stem, with the frame if there are several, and a number if two files share a stem."""
    several = {frame.file for frame in frames if frame.index > 0}
    names: list[str] = []
    for frame in frames:
        name = f"{frame.file.stem}-{frame.index}" if frame.file in several else frame.file.stem
        numbered = (f"{name}-{n}" for n in count(2))
        names.append(next(n for n in chain([name], numbered) if n not in names))
    return names
