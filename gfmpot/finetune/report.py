"""What came of a task: tables beside the paper's numbers, files to compute with."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfmpot import __version__
from gfmpot.atomic import atomic
from gfmpot.finetune.examples import Examples
from gfmpot.finetune.report_plots import pictures_of
from gfmpot.finetune.running import Outcome
from gfmpot.finetune.task import Measure, Paper, Task

MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One line of a table: mean and standard deviation over seeds, in the units of the measures."""

    name: str
    structures: int
    """That it was trained on."""

    means: tuple[float | None, ...]
    deviations: tuple[float | None, ...]
    """None for a single run."""

    minutes: float | None
    paper: tuple[float | None, ...] = ()


def write_report(task: Task, examples: Examples, outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write ``results.json``, ``results.md`` and figures into ``folder``.

    Returns:
        The page in Markdown.
    """
    rows = table_of(task, outcomes)
    sides = {str(side): len(part) for side, part in examples.sides.items()}
    content = {
        "task": task.name,
        "title": task.title,
        "sides": sides,
        "left_out": dict(examples.left_out),
        "measures": [measure.column for measure in task.measures],
        "rows": [vars(row) for row in rows],
        "runs": [{"run": run.setting.name, "metrics": dict(run.metrics), "facts": dict(run.facts)} for run in outcomes],
        "environment": environment(),
    }
    with atomic(folder / "results.json") as partial:
        partial.write_text(json.dumps(content, indent=1))
    captions = {}
    for picture in pictures_of(task, outcomes):
        (folder / f"{picture.name}.png").write_bytes(picture.png)
        captions[f"{picture.name}.png"] = picture.caption
    page = folder / "results.md"
    with atomic(page) as partial:
        partial.write_text(markdown(task, sides, rows, captions, examples.left_out, remarks(outcomes)))
    return page


def remarks(outcomes: Sequence[Outcome]) -> list[str]:
    """What a user should know of runs besides their errors."""
    return [
        f"{run.setting.name}: training did not help. After none of its {run.facts['steps']} steps was the validation "
        "loss lower than with the weights that it began with, so these were kept. Give it more epochs."
        for run in outcomes
        if run.facts.get("kept_step") == 0
    ]


def environment() -> dict[str, Any]:
    """Versions and machine, for files of results."""
    return {
        "gfmpot": __version__,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def table_of(task: Task, outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each setting, whatever its seeds."""
    families: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        families.setdefault(outcome.setting.family, []).append(outcome)
    return [_row(task, name, runs) for name, runs in families.items()]


def _row(task: Task, name: str, runs: Sequence[Outcome]) -> Row:
    values = [[_value(run.metrics, measure) for run in runs] for measure in task.measures]
    known = [[x for x in column if x is not None] for column in values]
    hours = [float(run.facts["hours"]) for run in runs if "hours" in run.facts]
    return Row(
        name,
        int(runs[0].facts.get("train", 0)),
        tuple(float(np.mean(column)) if column else None for column in known),
        tuple(float(np.std(column, ddof=1)) if len(column) > 1 else None for column in known),
        60 * float(np.mean(hours)) if hours else None,
        tuple(task.paper.results.get(runs[0].setting.strategy, ())) if task.paper else (),
    )


def _value(metrics: Mapping[str, float], measure: Measure) -> float | None:
    return measure.factor * metrics[measure.key] if measure.key in metrics else None


def columns_of(task: Task) -> list[str]:
    """Headings of the table."""
    paper = [f"paper: {task.measures[i].column}" for i in _of_interest(task)]
    return ["strategy", "trained on", *(m.column for m in task.measures), "minutes", *paper]


def _of_interest(task: Task) -> list[int]:
    """Which measures the paper has numbers of."""
    rows = list(task.paper.results.values()) if task.paper else []
    return [i for i in range(len(task.measures)) if any(row[i] is not None for row in rows)]


def cells_of(task: Task, row: Row) -> list[str]:
    """The row as texts."""
    pairs = zip(row.means, row.deviations, strict=True)
    own = [MISSING if mean is None else _with_deviation(mean, deviation) for mean, deviation in pairs]
    known = row.paper or (None,) * len(task.measures)
    paper = [MISSING if known[i] is None else f"{known[i]:g}" for i in _of_interest(task)]
    minutes = MISSING if row.minutes is None else f"{row.minutes:.1f}"
    return [row.name, str(row.structures), *own, minutes, *paper]


def _with_deviation(mean: float, deviation: float | None) -> str:
    text = f"{mean:.3g}" if abs(mean) < 1000 else f"{mean:.0f}"
    spread = "" if deviation is None else f" ± {deviation:.2g}" if deviation < 100 else f" ± {deviation:.0f}"
    return text + spread


def markdown(
    task: Task,
    sides: Mapping[str, int],
    rows: Sequence[Row],
    captions: Mapping[str, str],
    left_out: Mapping[str, int],
    remarks: Sequence[str],
) -> str:
    """The page; ``captions`` are those of figures, by the names of their files."""
    lines = markdown_table(columns_of(task), [cells_of(task, row) for row in rows])
    counted = ", ".join(f"{count} {side}" for side, count in sides.items())
    forces = " Those of forces are of components." if task.forces else ""
    text = [f"# {task.title}", f"Errors on the test side; structures: {counted}.{forces}", lines]
    text.append(f"Trained for {task.epochs:g} epochs in batches of {task.batch}.")
    text += ["\n".join(f"- {remark}" for remark in remarks)] if remarks else []
    text += [f"Left out: {', '.join(f'{n} ({why})' for why, n in left_out.items())}."] if left_out else []
    text += [_of_paper(task.paper)] if task.paper else []
    text += ["\n".join(f"- {note}" for note in task.notes)] if task.notes else []
    text += [f"![{caption}]({figure})\n\n{caption}" for figure, caption in captions.items()]
    return "\n\n".join(text) + "\n"


def _of_paper(paper: Paper) -> str:
    setting = f": {paper.setting}" if paper.setting else ""
    return (
        f"The paper's numbers are those of {paper.table}{setting}. They are validation errors of its own model and "
        "split. Learning rates here are ours: in the text of its Table VII that we have, they are blank."
    )
