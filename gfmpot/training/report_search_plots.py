"""Figures of hyper-parameter searches; several are drawn over one another, or side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfmpot.training.report_run import Floats
from gfmpot.training.report_search import FINISHED, LOSS, Search
from gfmpot.training.report_style import (
    CYCLE,
    FAINT,
    INK,
    LIGHT,
    MAIN,
    MUTED,
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

SPREAD = 20.0
"""Ratio of the ends of a range from which on its axis is logarithmic."""

UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
"""Of time axes; one that has two of them, at least."""

LABELLED = 12
"""Points of a front that have numbers."""


def best_so_far(searches: Sequence[Search]) -> Iterator[Picture]:
    """Trials when they ended, and the best until then: validation losses, or DeepHyper's objectives."""
    if all(np.isfinite(search.losses).any() for search in searches):
        yield _best_so_far(searches, LOSS)
        return
    for column in dict.fromkeys(name for search in searches for name in search.objectives):
        yield _best_so_far([search for search in searches if column in search.objectives], column)


def _best_so_far(searches: Sequence[Search], column: str) -> Picture:
    figure, (axis,) = panels(1, 1, 3.6)
    timed = all(bool(np.isfinite(search.values(FINISHED)).all()) for search in searches)
    colours = [MAIN] if len(searches) == 1 else [CYCLE[i % len(CYCLE)] for i in range(len(searches))]
    label, seconds = _time_axis(searches) if timed else ("trial", None)
    for search, colour in zip(searches, colours, strict=True):
        _one_search(axis, search, column, colour, seconds=seconds, alone=len(searches) == 1)
    if column == LOSS:
        _loss_scale(axis, [search.losses for search in searches])
    axis.set_xlabel(label)
    axis.set_ylabel("validation loss" if column == LOSS else column.replace("_", " "))
    if len(searches) > 1:
        legend(figure, axis)
    else:
        axis.legend(loc="upper right" if column == LOSS else "lower right")
    name = "search-best" if column == LOSS else f"search-{column}"
    better = (
        "Validation losses of the trials and the best so far"
        if column == LOSS
        else "Objectives of the trials and the best so far; larger is better"
    )
    return picture(name, f"{better}.", figure)


def _time_axis(searches: Sequence[Search]) -> tuple[str, float]:
    """Its label, and the seconds of its unit."""
    longest = max(float(search.values(FINISHED).max()) for search in searches)
    unit, seconds = next(each for each in UNITS if longest >= 2 * each[1] or each is UNITS[-1])
    return f"{unit} of searching", seconds


def _one_search(axis: Any, search: Search, column: str, colour: str, *, seconds: float | None, alone: bool) -> None:
    """Over time in units of so many seconds, or over trials."""
    finished = search.values(FINISHED)
    order = np.argsort(finished, kind="stable") if seconds else np.arange(len(search.rows))
    places = finished[order] / seconds if seconds else 1.0 + order
    found = (search.losses if column == LOSS else search.values(column))[order]
    best = (np.fmin if column == LOSS else np.fmax).accumulate(found)
    faint = {"color": LIGHT, "label": "trial"} if alone else {"color": colour, "alpha": 0.35, "linewidth": 0}
    axis.scatter(places, found, s=14, zorder=2, **faint)
    axis.step(places, best, where="post", color=colour, label="best so far" if alone else search.name, zorder=3)
    failed = np.isnan(found)
    if failed.any() and alone:
        foot = {"transform": axis.get_xaxis_transform(), "clip_on": False}
        axis.plot(places[failed], np.zeros(failed.sum()), "x", color=CYCLE[3], markersize=5, label="failed", **foot)


def _loss_scale(axis: Any, losses: Sequence[Floats]) -> None:
    """A logarithmic axis that shows most of the trials, not the few that went astray."""
    every = np.concatenate(losses)
    every = every[np.isfinite(every) & (every > 0)]
    if not len(every):
        return
    low, high = every.min(), min(every.max(), 30 * np.quantile(every, 0.5))
    axis.set_ylim(0.93 * low, 1.15 * high)
    log_scale(axis, tidy if high < 1e4 else short)


def trajectories(searches: Sequence[Search]) -> Picture | None:
    """Validation losses over epochs of all trials, one panel per search; nothing without them."""
    every = [(search, curves) for search in searches if (curves := search.curves())]
    if not every:
        return None
    figure, axes = panels(len(every), 3, 3.0 if len(every) > 1 else 3.4, sharex=True, sharey=True)
    for axis, (search, curves) in zip(axes, every, strict=True):
        losses = search.losses
        best = int(np.nanargmin(losses)) if np.isfinite(losses).any() else -1
        for i, curve in curves.items():
            if i != best:
                plot(axis, curve, color=LIGHT if np.isfinite(losses[i]) else FAINT, linewidth=0.9)
        if best in curves:
            plot(axis, curves[best], color=MAIN, linewidth=1.8, label=f"trial {search.rows[best]['job_id']}, the best")
            axis.legend(loc="upper right")
        axis.set_title(search.name if len(every) > 1 else "")
    _loss_scale(axes[0], [curve[1] for _, curves in every for curve in curves.values()])
    step_axis(axes[0])
    figure.supxlabel("epoch", fontsize=9.5)
    figure.supylabel("validation loss", fontsize=9.5)
    return picture(
        "search-trajectories", "Validation loss of every trial over its epochs; grey: of failed ones.", figure
    )


@dataclass(frozen=True)
class _Column:
    """One axis of parallel coordinates."""

    name: str
    places: Floats
    """0 … 1 from bottom to top."""

    ends: tuple[str, str]
    names: tuple[tuple[float, str], ...] = ()
    """Of choices, and where they are."""


def parallel_coordinates(search: Search) -> Picture | None:
    """One line per successful trial through all its hyper-parameters to its validation loss."""
    losses = search.losses
    done = np.flatnonzero(np.isfinite(losses))
    varied = [name for name in search.parameters if len({search.rows[i][name] for i in done}) > 1]
    if len(done) < 2 or not varied or len(set(losses[done])) < 2:
        return None
    columns = [_column(name.removeprefix("p:"), [search.rows[i][name] for i in done]) for name in varied]
    columns.append(_numbers("validation\nloss", losses[done]))
    figure, (axis,) = panels(1, 1, 4.6)
    rank = np.argsort(np.argsort(losses[done])) / (len(done) - 1)
    rng = np.random.default_rng(0)  # lines through the same choice are spread a little
    for i in np.argsort(-rank):
        heights = [c.places[i] + (0.03 * rng.uniform(-1, 1) if c.names else 0.0) for c in columns]
        good = rank[i] <= 0.1
        shade = CYCLE[1] if rank[i] == 0 else MAIN if good else LIGHT
        axis.plot(heights, color=shade, linewidth=2.2 if good else 0.9, zorder=3 - rank[i], alpha=1 if good else 0.7)
    for x, column in enumerate(columns):
        _draw_column(axis, x, column)
    axis.set_xlim(-0.5, len(columns) - 0.4)
    axis.set_ylim(-0.1, 1.1)
    axis.set_xticks(range(len(columns)), [c.name.replace(".", "\n", 1).replace("_", "\n") for c in columns], fontsize=8)
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(axis="x", length=0)
    about = "Configurations of the trials and their validation losses: orange the best, blue the best tenth."
    return picture("search-coordinates", about, figure)


def _draw_column(axis: Any, x: int, column: _Column) -> None:
    axis.axvline(x, 0.083, 0.917, color=MUTED, linewidth=0.8, zorder=4)
    halo = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.75}
    for place, name in column.names:
        axis.text(x + 0.04, place, name, va="center", fontsize=8, color=INK, zorder=5, bbox=halo)
    if not column.names:
        for place, text, side in ((-0.03, column.ends[0], "top"), (1.03, column.ends[1], "bottom")):
            axis.text(x, place, text, ha="center", va=side, fontsize=8, color=MUTED)


def _column(name: str, cells: Sequence[str]) -> _Column:
    try:
        return _numbers(name, np.array([float(cell) for cell in cells]))
    except ValueError:
        known = sorted(set(cells))
        height = {cell: i / max(1, len(known) - 1) for i, cell in enumerate(known)}
        return _Column(
            name, np.array([height[cell] for cell in cells]), ("", ""), tuple((h, c) for c, h in height.items())
        )


def _numbers(name: str, values: Floats) -> _Column:
    low, high = values.min(), values.max()
    ends = tidy(float(f"{low:.3g}")), tidy(float(f"{high:.3g}"))
    if low > 0 and high / low > SPREAD:
        values, low, high = np.log(values), np.log(low), np.log(high)
    return _Column(name, (values - low) / (high - low), ends)


def pareto(searches: Sequence[Search]) -> Picture | None:
    """Validation loss over seconds per epoch and over cost per epoch, with the trials that no other one beats."""
    points = [_Points.of(search) for search in searches]
    points = [each for each in points if len(each.loss)]
    if not points:
        return None
    joules = all(np.isfinite(each.joules).all() for each in points)
    costs = [("seconds per epoch", [p.seconds for p in points])]
    cost = [p.joules if joules else p.core_seconds for p in points]
    if all(np.isfinite(c).all() for c in cost):
        costs.append(("joules per epoch" if joules else "core-seconds per epoch", cost))
    figure, axes = panels(len(costs), 2, 3.8, sharey=True)
    colours = [MAIN] if len(points) == 1 else [CYCLE[i % len(CYCLE)] for i in range(len(points))]
    for axis, (label, values) in zip(axes, costs, strict=True):
        for each, x, colour in zip(points, values, colours, strict=True):
            axis.scatter(x, each.loss, s=16, color=colour, alpha=0.4, linewidth=0)
            _draw_front(axis, x, each, colour if len(points) > 1 else INK, numbered=len(points) == 1)
        axis.set_xscale("log")
        _plain_ticks(axis)
        axis.set_xlabel(label)
    _loss_scale(axes[0], [each.loss for each in points])
    axes[0].set_ylabel("validation loss")
    if len(points) > 1:
        legend(figure, axes[0])
    about = "Validation loss and cost of the trials; lines join those that no other one beats in both"
    return picture("search-pareto", f"{about}{'' if len(points) > 1 else ', with their numbers'}.", figure)


@dataclass(frozen=True)
class _Points:
    """Successful trials with a time per epoch."""

    name: str
    trials: list[str]
    loss: Floats
    seconds: Floats
    joules: Floats
    """Per epoch."""

    core_seconds: Floats
    """Per epoch."""

    @classmethod
    def of(cls, search: Search) -> _Points:
        loss, seconds, epochs = search.losses, search.values("m:seconds_per_epoch"), search.values("m:epochs")
        keep = np.flatnonzero(np.isfinite(loss) & np.isfinite(seconds) & (epochs > 0))
        joules, cores = (search.values(f"m:{name}")[keep] / epochs[keep] for name in ("joules", "core_seconds"))
        trials = [search.rows[i].get("job_id") or "" for i in keep]
        return cls(search.name, trials, loss[keep], seconds[keep], joules, cores)


def front(costs: Floats, losses: Floats) -> list[int]:
    """Indices of the points with the lowest loss of all that cost as much or less, by cost."""
    order = np.lexsort((losses, costs))
    before = np.minimum.accumulate(np.concatenate([[np.inf], losses[order][:-1]]))
    return [int(i) for i, least in zip(order, before, strict=True) if losses[i] < least]


def _draw_front(axis: Any, costs: Floats, points: _Points, colour: str, *, numbered: bool) -> None:
    best = front(costs, points.loss)
    axis.step(costs[best], points.loss[best], where="post", color=colour, linewidth=1.1, zorder=3, label=points.name)
    axis.plot(costs[best], points.loss[best], "o", color=colour, markersize=4, zorder=4)
    for i in best[-LABELLED:] if numbered else []:
        place = {"textcoords": "offset points", "fontsize": 8, "color": INK}
        axis.annotate(points.trials[i], (costs[i], points.loss[i]), (4, 4), **place)


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value) if value >= 1e3 else tidy(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())
