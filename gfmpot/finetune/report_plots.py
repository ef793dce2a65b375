"""Figures of a task: parity, learning curves, errors over the size of the training side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.finetune.running import PREDICTIONS, Outcome
from gfmpot.finetune.task import Task
from gfmpot.telemetry import read_records
from gfmpot.training.report_parity import draw_parity
from gfmpot.training.report_style import (
    CYCLE,
    MAIN,
    MUTED,
    Picture,
    legend,
    log_scale,
    panels,
    picture,
    plot,
    step_axis,
    style,
    tidy,
)

Floats = NDArray[np.float64]


def pictures_of(task: Task, outcomes: Sequence[Outcome]) -> Iterator[Picture]:
    """All that can be drawn; nothing without matplotlib, which is an extra."""
    try:
        with style():
            yield _parity(task, _shown(outcomes))
            curves = _learning_curves(task, _shown(outcomes))
            if curves:
                yield curves
            if len({run.facts.get("train") for run in outcomes}) > 1:
                yield _sizes(task, outcomes)
    except ValueError as error:
        if "matplotlib" not in str(error):
            raise


def _shown(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The first seed of each strategy and precision, with the largest training side."""
    found: dict[tuple[str, str], Outcome] = {}
    for run in outcomes:
        kind = run.setting.strategy, run.setting.precision
        if kind not in found or int(run.facts.get("train", 0)) > int(found[kind].facts.get("train", 0)):
            found[kind] = run
    return list(found.values())


def _parity(task: Task, runs: Sequence[Outcome]) -> Picture:
    """Predictions over labels of the test side, or, of a class, how often it is true over its probability."""
    pairs = [(run, _read(run)) for run in runs]
    quantities = [q for q in ("energy", "forces", "value") if f"{q}_reference" in pairs[0][1]]
    quantities = [q for q in quantities if np.isfinite(pairs[0][1][f"{q}_reference"]).any()]
    figure, axes = panels(len(runs) * len(quantities), len(runs), 3.9)
    figure.set_figwidth(3.7 * len(runs))
    places = iter(axes)
    for quantity in quantities:
        for run, arrays in pairs:
            axis = next(places)
            reference, predicted = (arrays[f"{quantity}_{which}"].ravel() for which in ("reference", "predicted"))
            if task.target.is_class:
                _reliability(axis, reference, predicted)
            else:
                draw_parity(axis, reference, predicted)
                unit = _unit(task, quantity)
                axis.set(xlabel=f"reference ({unit})", ylabel=f"predicted ({unit})")
            named = quantity if quantity != "value" else task.target.name.replace("_", " ")
            axis.set_title(f"{run.setting.family}: {named}")
    caption = f"Predictions over labels of the test side{_zero(task)}; of several seeds, the first."
    if task.target.is_class:
        caption = "How often it is true, over its probability, on the test side; of several seeds, the first."
    return picture("parity", caption, figure)


def _unit(task: Task, quantity: str) -> str:
    if quantity == "energy":
        return "eV" if task.relative else "eV/atom"
    return "eV/Å" if quantity == "forces" else task.target.unit


def _zero(task: Task) -> str:
    """From where the energies of parity plots count."""
    if task.target.kind != "energy" or task.target.unit == "eV/atom":
        return ""
    return "; energies are less " + (
        "the mean of their group" if task.relative else "one energy per element, fitted to the training side"
    )


def _reliability(axis: Any, labels: Floats, probabilities: Floats, bins: int = 10) -> None:
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    used = count > 0
    said = np.bincount(place, probabilities, bins)[used] / count[used]
    true = np.bincount(place, labels, bins)[used] / count[used]
    axis.plot((0, 1), (0, 1), color=MUTED, linewidth=0.8)
    axis.plot(said, true, marker="o", markersize=4, color=MAIN)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="probability", ylabel="share that is true")


def _learning_curves(task: Task, runs: Sequence[Outcome]) -> Picture | None:
    """Validation errors while training."""
    names = [name for name in ("energy_mae", "forces_mae", "loss") if any(len(_curve(run, name)[0]) for run in runs)]
    names = [name for name in names if name != "loss" or len(names) == 1]
    if not names:
        return None
    figure, axes = panels(len(names), 2, 3.4)
    figure.set_figwidth(5.2 * len(names))
    titles = {"energy_mae": "energy (eV/atom)", "forces_mae": "forces (eV/Å, norm)", "loss": "validation loss"}
    for axis, name in zip(axes, names, strict=True):
        for colour, run in zip(CYCLE * 9, runs, strict=False):
            plot(axis, _curve(run, name), label=run.setting.family, color=colour)
        _scale(axis)
        step_axis(axis)
        axis.set(xlabel="step", title=titles[name])
    legend(figure, axes[0])
    return picture("curves", f"{task.title}: errors on the validation side while training.", figure)


def _scale(axis: Any) -> None:
    """Logarithmic, unless errors differ so little that hardly any number would stand beside it."""
    low, high = axis.dataLim.intervaly
    if high > 3 * low > 0:
        log_scale(axis, tidy)


def _curve(run: Outcome, name: str) -> tuple[Floats, Floats]:
    """Steps and validation errors from the log of a run."""
    path = run.folder / "log.jsonl"
    points: dict[int, float] = {}
    for record in read_records(path)[0] if path.exists() else []:
        if record.get("kind") == "valid":
            found = next(iter(record["branches"].values()), {}) if "branches" in record else record
            if name in found:
                points[int(record["step"])] = float(found[name])
    return np.array(sorted(points), dtype=np.float64), np.array([points[step] for step in sorted(points)])


def _sizes(task: Task, outcomes: Sequence[Outcome]) -> Picture:
    """Test errors over the size of the training side."""
    figure, axes = panels(len(task.measures), 2, 3.4)
    figure.set_figwidth(5.2 * min(2, len(task.measures)))
    strategies = list(dict.fromkeys(run.setting.strategy for run in outcomes))
    every = sorted({int(run.facts["train"]) for run in outcomes})
    for axis, measure in zip(axes, task.measures, strict=True):
        for colour, strategy in zip(CYCLE, strategies, strict=False):
            own = [run for run in outcomes if run.setting.strategy == strategy and measure.key in run.metrics]
            sizes = sorted({int(run.facts["train"]) for run in own})
            means = [
                np.mean([measure.factor * r.metrics[measure.key] for r in own if r.facts["train"] == size])
                for size in sizes
            ]
            axis.plot(sizes, means, marker="o", markersize=4, label=strategy, color=colour)
        axis.set_xscale("log")
        axis.set_xticks(every, [f"{size:,}" for size in every])
        axis.set_xticks([], minor=True)
        _scale(axis)
        axis.set(xlabel="training structures", title=measure.column)
    legend(figure, axes[0])
    return picture("sizes", f"{task.title}: test errors over the number of training structures.", figure)


def _read(run: Outcome) -> dict[str, Floats]:
    with np.load(run.folder / PREDICTIONS, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != "keys"}
