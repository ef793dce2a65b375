"""What came of Matbench's folds: tables beside the paper's numbers, the official record, files to compute with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfmpot import __version__
from gfmpot.atomic import atomic
from gfmpot.finetune.examples import Examples
from gfmpot.finetune.matbench import HELD_BACK, FoldRun
from gfmpot.finetune.matbench_package import Official, Scores, write_record
from gfmpot.finetune.metrics import Metrics
from gfmpot.finetune.report import Row, cells_of, columns_of, environment, markdown_table
from gfmpot.finetune.setting import Setting
from gfmpot.finetune.task import Task

RECORD = "results.json.gz"
"""What the leaderboard calls it."""

OF_FOLDS = {"class": ("roc_auc", "f1", "accuracy"), "number": ("mae", "rmse", "max_error")}


@dataclass(frozen=True)
class SettingRuns:
    """The folds of one setting."""

    setting: Setting
    runs: Sequence[FoldRun]
    record: Path | None = None
    """The official one; None while folds are missing."""

    scores: Sequence[Scores] = ()
    """Of the folds, as ``matbench`` computes them for the record."""

    @property
    def minutes(self) -> float:
        """Of training."""
        return 60 * sum(float(run.outcome.facts["hours"]) for run in self.runs)


def recorded(
    official: Official, examples: Examples, setting: Setting, runs: Sequence[FoldRun], folder: Path, *, published: bool
) -> SettingRuns:
    """The runs with their official record, ``folder/<setting>/results.json.gz``, if all folds are there.

    Args:
        official: the task.
        examples: with what is true.
        setting: of the runs.
        runs: of folds, in their order.
        folder: of all results.
        published: whether the data are the published file; the record says so.

    Raises:
        ValueError: predictions that Matbench does not accept.
    """
    if len(runs) < len(official.folds):
        return SettingRuns(setting, runs)
    path = folder / setting.name / RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    values = dict(zip(examples.keys, examples.values.tolist(), strict=True))
    about = {"software": f"gfmpot {__version__}", "setting": setting.name, "data_are_the_published_file": published}
    scores = write_record(official, values, [run.answers for run in runs], about, path)
    return SettingRuns(setting, runs, path, scores)


def over_folds(runs: Sequence[FoldRun]) -> Metrics:
    """Means over folds; ``std``, the standard deviation of MAE or ROC AUC over them; the largest ``max_error``."""
    metrics = [run.outcome.metrics for run in runs]
    common = set.intersection(*(set(own) for own in metrics))
    found = {key: float(np.mean([own[key] for own in metrics])) for key in sorted(common)}
    ranked = "roc_auc" if "roc_auc" in common else "mae"
    if ranked in common and len(runs) > 1:
        found["std"] = float(np.std([own[ranked] for own in metrics]))
    if "max_error" in common:
        found["max_error"] = max(own["max_error"] for own in metrics)
    return found


def rows_of(task: Task, settings: Sequence[SettingRuns]) -> list[Row]:
    """A row for each setting, as :mod:`gfmpot.finetune.report` has them."""
    return [_row(task, one) for one in settings]


def _row(task: Task, one: SettingRuns) -> Row:
    found = over_folds(one.runs)
    means = tuple(found.get(measure.key) for measure in task.measures)
    trained = round(float(np.mean([run.outcome.facts["train"] for run in one.runs])))
    paper = tuple(task.paper.results.get(one.setting.strategy, ())) if task.paper else ()
    name = one.setting.family if one.record else f"{one.setting.family}, {_folds(one.runs)}"
    return Row(name, trained, means, (None,) * len(means), one.minutes, paper)


def _folds(runs: Sequence[FoldRun]) -> str:
    return f"fold{'s' if len(runs) > 1 else ''} {', '.join(str(run.fold) for run in runs)} only"


def notes_of(task: Task, settings: Sequence[SettingRuns], *, published: bool) -> list[str]:
    """What a reader must know to compare."""
    notes = [
        f"The folds are Matbench's own. Weights are chosen by {HELD_BACK:.0%} of a fold's training structures, drawn "
        "by hashes of their names, and its test structures are looked at once, at the end. In the paper the test fold "
        "was the validation split, too; where weights are chosen by what is tested, errors come out lower."
    ]
    if task.target.is_class:
        notes.append(
            "ROC AUC is that of probabilities. The record holds another number by that name: matbench 0.6 rounds "
            "probabilities to classes before, which makes it the balanced accuracy (materialsproject/matbench#137)."
        )
    if not published:
        notes.append("The data are not the file that Matbench has published (its SHA-256 differs): do not submit them.")
    for one in settings:
        notes += [f"{one.setting.name}: {text}" for text in _of_elements(one.runs)]
        if one.record is None:
            notes.append(f"{one.setting.name}: {_folds(one.runs)}; the official record needs all, and is not written.")
    return notes


def _of_elements(runs: Sequence[FoldRun]) -> list[str]:
    texts = []
    if unknown := sum(run.unknown for run in runs):
        texts.append(
            f"{unknown / len(runs):g} structures per fold were not trained on, since the pretrained model has never "
            "seen one of their elements."
        )
    if unseen := sum(run.unseen for run in runs):
        texts.append(f"{unseen} test structures of all folds have an element that was not trained on.")
    return texts


def write_matbench_report(task: Task, settings: Sequence[SettingRuns], folder: Path, notes: Sequence[str]) -> Path:
    """Write ``results.json`` and ``results.md`` into ``folder``.

    Returns:
        The page in Markdown.
    """
    rows = rows_of(task, settings)
    content = {
        "task": task.name,
        "unit": task.target.unit,
        "measures": [measure.column for measure in task.measures],
        "rows": [vars(row) for row in rows],
        "runs": [_described(one) for one in settings],
        "notes": list(notes),
        "environment": environment(),
    }
    with atomic(folder / "results.json") as partial:
        partial.write_text(json.dumps(content, indent=1))
    parts = [f"# {task.title}", markdown_table(columns_of(task), [cells_of(task, row) for row in rows])]
    parts += [f"The paper's numbers are those of {task.paper.table}."] if task.paper else []
    parts += ["## Folds", markdown_table(fold_columns(task), fold_cells(task, settings))]
    parts.append("\n".join(f"- {note}" for note in notes))
    with atomic(folder / "results.md") as partial:
        partial.write_text("\n\n".join(parts) + "\n")
    return folder / "results.md"


def fold_columns(task: Task) -> list[str]:
    """Headings of the table of folds."""
    unit = f" ({task.target.unit})" if task.target.unit else ""
    return ["run", "fold", *(f"{key.replace('_', ' ')}{unit}" for key in _keys(task)), "trained on", "validated by"]


def fold_cells(task: Task, settings: Sequence[SettingRuns]) -> list[list[str]]:
    """The table of folds as texts."""
    return [
        [
            one.setting.name,
            str(run.fold),
            *(f"{run.outcome.metrics[key]:.4g}" if key in run.outcome.metrics else "–" for key in _keys(task)),
            str(run.outcome.facts["train"]),
            str(run.validated),
        ]
        for one in settings
        for run in one.runs
    ]


def _keys(task: Task) -> tuple[str, ...]:
    return OF_FOLDS["class" if task.target.is_class else "number"]


def _described(one: SettingRuns) -> Mapping[str, Any]:
    """A setting's folds for ``results.json``."""
    scores: Sequence[Scores | None] = one.scores or [None] * len(one.runs)
    folds = [
        {
            "fold": run.fold,
            "metrics": dict(run.outcome.metrics),
            "matbench": own,
            "trained_on": run.outcome.facts["train"],
            "validated_by": run.validated,
            "unknown_elements": run.unknown,
            "unseen_elements": run.unseen,
        }
        for run, own in zip(one.runs, scores, strict=True)
    ]
    return {"run": one.setting.name, "over_folds": over_folds(one.runs), "record": bool(one.record), "folds": folds}
