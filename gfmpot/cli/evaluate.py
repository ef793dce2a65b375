"""``gfmpot evaluate``: errors of a model on labelled data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from gfmpot.cli import options, output
from gfmpot.cli.console import clean_errors, console, note, report

if TYPE_CHECKING:
    from gfmpot.cli.evaluate_data import Part
    from gfmpot.inference import Predictor
    from gfmpot.inference.comparison import Outcome
    from gfmpot.models import Potential

LINES = 60.0
"""s between lines in a log."""


def evaluate(
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA...", help="Stores (.bp), packed files (.npz), or labelled structures: see above."),
    ],
    model: options.Model = "default",
    head: Annotated[
        str | None,
        typer.Option("--head", help="Branch to evaluate, or blend.", show_default="of a store, its branch"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", metavar="test|valid|train|all", help="By group.", show_default="test; of structures, all"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many structures of each, evenly spread.")
    ] = None,
    precision: options.Precision = "fp32",
    device: options.Device = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers, too (eV and Å).")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FOLDER", help="Draw predictions over labels, and keep both.")
    ] = None,
    worst: Annotated[
        int,
        typer.Option("--worst", min=0, metavar="N", help="List N structures that make most of the error of forces."),
    ] = 0,
    energy_key: Annotated[str, typer.Option(help="Name of the label in a file of structures.")] = "energy",
    forces_key: Annotated[str, typer.Option(help="Name of the forces in the file.")] = "forces",
    stress_key: Annotated[str, typer.Option(help="The same of the stress.")] = "stress",
) -> None:
    """Errors of a model on labelled DATA.

    A store knows the branch that it belongs to; for a packed file, or any file with labels that ASE reads (.extxyz,
    .db, .traj), say which head answers. Splits of files are those that training makes by default. With --head blend,
    energies are compared up to an energy per element, which is fitted to the errors.

    Errors of forces are norms of error vectors, except in the column "component". The cosine is that between predicted
    forces and those above 0.01 eV/Å. What cannot be evaluated is listed at the end and makes the exit code 1;
    structures with elements that the head lacks are only counted.
    """
    with clean_errors():
        from gfmpot.cli import evaluate_report
        from gfmpot.cli.evaluate_data import check_split, open_part
        from gfmpot.data.sources._ase import Labels
        from gfmpot.models import load

        check_split(split)
        _check_outputs(json_file, plot)
        potential, labels = load(model), Labels(energy_key, forces_key, stress_key)
        with _reading():
            parts = [open_part(path, head, split, potential.branch_names, labels) for path in data]
        predictors = _Predictors(potential, precision, device)
        done = [(part, _evaluated(part, predictors(part.head), limit)) for part in parts]
        predictors.tell_choices()
        rows = evaluate_report.show(done)
        if worst:
            rows = evaluate_report.show_worst(done, rows, worst)
        if json_file is not None:
            evaluate_report.write(json_file, rows, model, precision)
        if plot is not None:
            evaluate_report.draw(done, plot)
        report(list(evaluate_report.failures(done)))


class _Predictors:
    """One for each head."""

    def __init__(self, model: Potential, precision: str, device: str | None) -> None:
        self._model, self._precision, self._device = model, precision, device
        self._made: dict[str, Predictor] = {}

    def __call__(self, head: str) -> Predictor:
        from gfmpot.cli.evaluate_data import BLEND
        from gfmpot.inference import build_predictor

        if head not in self._made:
            branch = None if head == BLEND else head
            self._made[head] = build_predictor(self._model, precision=self._precision, head=branch, device=self._device)
        return self._made[head]

    def tell_choices(self) -> None:
        """Say what ``--precision auto`` has chosen."""
        for head, predictor in self._made.items():
            if choice := getattr(predictor, "choice", None):
                note(f"{head}: {choice}")


def _check_outputs(json_file: Path | None, plot: Path | None) -> None:
    if json_file is not None:
        output.check_output(json_file, (".json",))
    if plot is not None:
        from gfmpot.training.report_style import style

        if plot.exists() and not plot.is_dir():
            raise ValueError(f"--plot {plot}: expected a folder, got a file")
        output.check_folder(plot)
        with style():  # which says if matplotlib is missing
            plot.mkdir(exist_ok=True)


def _evaluated(part: Part, predictor: Predictor, limit: int | None) -> Outcome:
    from gfmpot.inference.comparison import compare
    from gfmpot.training.corpus import evenly

    chosen = part.chosen[evenly(len(part.chosen), limit)]
    with _progress(str(part), len(chosen)) as watch:
        return compare(predictor, part.data, chosen, watch)


def _reading() -> AbstractContextManager[object]:
    """Say that something is going on, in a terminal: large files of structures take their time."""
    target = console(stderr=True)
    return target.status("reading") if target.is_terminal else nullcontext()


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left in a terminal; a line now and then where output goes into a file."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    target, begun, told, done = console(stderr=True), monotonic(), [monotonic()], [0, 0]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=target, transient=True, disable=not target.is_terminal) as p:
        task = p.add_task(what, total=total, rate="")

        def add(structures: int, atoms: int) -> None:
            done[:] = done[0] + structures, done[1] + atoms
            seconds = max(monotonic() - begun, 1e-9)
            rate = f"{done[0] / seconds:,.0f} structures/s, {done[1] / seconds:,.0f} atoms/s"
            p.update(task, completed=done[0], rate=rate)
            if p.disable and monotonic() - told[0] > LINES:
                told[0] = monotonic()
                left = seconds * (total - done[0]) / max(done[0], 1)
                note(f"{what}: {done[0]:,} of {total:,} structures, {rate}, {left:,.0f} s left")

        yield add
