"""Figures of training runs; several runs are drawn over one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gfmpot.training.report_phases import Phases, phases
from gfmpot.training.report_run import MEANS, QUANTITIES, UNITS, Curve, Run, thinned
from gfmpot.training.report_style import (
    CYCLE,
    FAINT,
    LIGHT,
    MAIN,
    MUTED,
    PHASE_COLOURS,
    Picture,
    legend,
    log_scale,
    panels,
    picture,
    plot,
    short,
    step_axis,
    tidy,
)


def learning_curves(runs: Sequence[Run]) -> Iterator[Picture]:
    """Energy, forces and stress: one panel per branch, all with the same axes."""
    branches = list(dict.fromkeys(branch for run in runs for branch in run.branches))
    for quantity in QUANTITIES:
        shown = [b for b in branches if any(_has_points(run, quantity, b) for run in runs)]
        if shown:
            yield _learning_curves(runs, quantity, shown)


def _learning_curves(runs: Sequence[Run], quantity: str, branches: list[str]) -> Picture:
    columns = min((4, 3), key=lambda columns: -len(branches) % columns)  # which leaves fewer places empty
    figure, axes = panels(len(branches), columns, 3.4 if len(branches) <= 3 else 2.3, sharex=True, sharey=True)
    for axis, branch in zip(axes, branches, strict=True):
        if len(runs) == 1:
            _one_run(axis, runs[0], quantity, branch, branches)
        else:
            for run, colour in zip(runs, _colours(len(runs)), strict=True):
                plot(axis, run.validated(quantity, branch), 1e3, color=colour, label=run.name)
        axis.set_title(branch, fontsize=9.5)
    log_scale(axes[0], short)
    step_axis(axes[0])
    figure.supxlabel("training step", fontsize=9.5)
    figure.supylabel(f"{quantity} MAE{MEANS.get(quantity, '')} ({UNITS[quantity]})", fontsize=9.5)
    legend(figure, max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[1])))
    others = "; grey: validation of the other branches" if len(runs) == 1 and len(branches) > 1 else ""
    which = "training and validation" if len(runs) == 1 else "validation"
    return picture(f"learning-{quantity}", f"Mean absolute error of the {quantity}, {which}{others}.", figure)


def _one_run(axis: Any, run: Run, quantity: str, branch: str, branches: list[str]) -> None:
    for other in branches:
        if other != branch:
            plot(axis, run.validated(quantity, other), 1e3, color=FAINT, linewidth=0.9)
    valid = run.validated(quantity, branch)
    plot(axis, thinned(run.trained(quantity, branch)), 1e3, color=LIGHT, linewidth=1.1, label="training")
    if plot(axis, valid, 1e3, color=MAIN, label="validation"):
        text = f"{1e3 * valid[1][-1]:.3g}"
        axis.annotate(text, (0.98, 0.96), xycoords="axes fraction", ha="right", va="top", color=MAIN, weight="bold")


def optimisation(runs: Sequence[Run]) -> Picture | None:
    """Loss, learning rate and norm of the gradient over steps."""
    wanted = {"loss": "loss", "learning_rate": "learning rate", "gradient_norm": "gradient norm"}
    return _stacked(runs, wanted, "optimisation", "Training loss, learning rate and norm of the gradient.", log=True)


def throughput(runs: Sequence[Run]) -> Picture | None:
    """Structures and atoms per second."""
    wanted = {"structures_per_second": "structures / s", "atoms_per_second": "atoms / s"}
    return _stacked(runs, wanted, "throughput", "Structures and atoms trained on per second, all ranks.", log=False)


def _stacked(runs: Sequence[Run], wanted: dict[str, str], name: str, caption: str, log: bool) -> Picture | None:
    shown = {key: label for key, label in wanted.items() if any(len(run.curve(key)[0]) for run in runs)}
    if not shown:
        return None
    figure, axes = panels(len(shown), 3, 3.0)
    for axis, (key, label) in zip(axes, shown.items(), strict=True):
        for run, colour in zip(runs, _colours(len(runs)), strict=True):
            plot(axis, thinned(run.curve(key)), color=colour, label=run.name)
        _vertical(axis, [run.curve(key) for run in runs], log)
        step_axis(axis)
        axis.set_title(label)
        axis.set_xlabel("training step")
    legend(figure, axes[0])
    return picture(name, caption, figure)


def _vertical(axis: Any, curves: Sequence[Curve], log: bool) -> None:
    values = np.concatenate([curve[1] for curve in curves])
    if log and (values > 0).any():
        log_scale(axis, tidy)
        return
    from matplotlib.ticker import FuncFormatter

    axis.set_ylim(0, 1.1 * values.max() or 1.0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def phase_breakdown(runs: Sequence[Run]) -> Picture | None:
    """Time per step in each phase: over the course of one run, or side by side for several."""
    found = {run.name: spent for run in runs if (spent := phases(run))}
    if not found:
        return None
    draw = _phases_over_time if len(runs) == 1 else _phases_by_run
    return draw(found)


def _phases_over_time(found: dict[str, Phases]) -> Picture:
    spent = next(iter(found.values())).rebinned()
    figure, (axis,) = panels(1, 1, 3.4)
    bottom = np.zeros(len(spent.edges) - 1)
    for (name, seconds), colour in zip(spent.per_step().items(), _phase_colours(list(spent.seconds)), strict=True):
        widths = np.diff(spent.edges)
        axis.bar(
            spent.edges[:-1], 1e3 * seconds, 0.94 * widths, bottom, align="edge", color=colour, label=name, linewidth=0
        )
        bottom += 1e3 * seconds
    axis.set_xlim(spent.edges[0], spent.edges[-1])
    axis.grid(visible=False, axis="x")
    step_axis(axis)
    axis.set_xlabel("training step")
    axis.set_ylabel("time per step (ms)")
    legend(figure, axis)
    return picture("phases", "Wall time per training step by phase, mean over ranks.", figure)


def _phases_by_run(found: dict[str, Phases]) -> Picture:
    names = list(dict.fromkeys(name for spent in found.values() for name in spent.seconds))
    figure, (axis,) = panels(1, 1, 1.2 + 0.4 * len(found))
    left = np.zeros(len(found))
    for name, colour in zip(names, _phase_colours(names), strict=True):
        zero = np.zeros(1)
        per_step = [
            1e3 * float(spent.seconds.get(name, zero).sum()) / (spent.edges[-1] - spent.edges[0])
            for spent in found.values()
        ]
        axis.barh(list(found), per_step, 0.62, left, color=colour, label=name, linewidth=0)
        left += per_step
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("time per step (ms)")
    legend(figure, axis)
    return picture("phases", "Wall time per training step by phase, mean over ranks and over the run.", figure)


def _phase_colours(names: list[str]) -> list[str]:
    spare = (colour for _ in range(len(names)) for colour in CYCLE[::-1])
    return [PHASE_COLOURS.get(name) or next(spare) for name in names]


def _has_points(run: Run, quantity: str, branch: str) -> bool:
    return bool(len(run.validated(quantity, branch)[0]) or len(run.trained(quantity, branch)[0]))


def _colours(count: int) -> list[str]:
    return [MUTED] * count if count > 2 * len(CYCLE) else [CYCLE[i % len(CYCLE)] for i in range(count)]
