"""Figure of what a run used of its machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from gfmpot.training.report_run import Floats, Run, thinned
from gfmpot.training.report_style import CYCLE, LIGHT, MAIN, Picture, legend, panels, picture


def resources(run: Run) -> Picture | None:
    """Use of processor, memory and GPUs over time."""
    hours = run.hours(run.telemetry)
    shown = [(title, unit, lines) for title, unit, key, gpu in _RESOURCES if len(lines := _used(run, key, gpu))]
    if not shown:
        return None
    figure, axes = panels(len(shown), 3, 2.6)
    for axis, (title, unit, lines) in zip(axes, shown, strict=True):
        _lines_or_band(axis, hours, lines)
        axis.set_title(title)
        axis.set_ylabel(unit)
        axis.set_ylim(0, 1.12 * np.nanmax(lines) or 1.0)
        axis.set_xlabel("hours since the start")
    legend(figure, max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[1])))
    return picture("resources", "Use of the machine of rank 0.", figure)


def _lines_or_band(axis: Any, hours: Floats, lines: Floats) -> None:
    """Few devices each with its line, many as their mean and range."""
    time = thinned((hours, hours))[0]
    thin = np.array([thinned((hours, line))[1] for line in lines])
    if len(lines) <= 4:
        for i, (line, colour) in enumerate(zip(thin, CYCLE[: len(lines)], strict=True)):
            axis.plot(time, line, color=colour, label=f"GPU {i}", linewidth=1.3)
        return
    told = thin[:, np.isfinite(thin).any(axis=0)]
    time = time[np.isfinite(thin).any(axis=0)]
    axis.fill_between(time, np.nanmin(told, 0), np.nanmax(told, 0), color=LIGHT, linewidth=0, label="least to most")
    axis.plot(time, np.nanmean(told, 0), color=MAIN, label=f"mean of {len(lines)} GPUs", linewidth=1.3)


_RESOURCES: tuple[tuple[str, str, str, bool], ...] = (
    ("processor, this process", "% of one core", "cpu_percent", False),
    ("resident memory, this process", "GiB", "rss_gib", False),
    ("processor power", "W", "cpu_power_w", False),
    ("GPU utilisation", "%", "utilization_percent", True),
    ("GPU power", "W", "power_w", True),
    ("GPU memory", "GiB", "memory_gib", True),
)


def _used(run: Run, key: str, gpu: bool) -> Floats:
    """Values over the telemetry records: a row for the host, or for each GPU; no rows where never told."""
    told: list[list[Any]] = [[record.get(key) for record in run.telemetry]]
    if gpu:
        lists = [record.get("gpu") or [] for record in run.telemetry]
        count = max(map(len, lists), default=0)
        told = [[gpus[i].get(key) if i < len(gpus) else None for gpus in lists] for i in range(count)]
    lines = np.array(told, dtype=float).reshape(len(told), len(run.telemetry))
    told_of: Floats = lines[np.isfinite(lines).any(axis=1)]
    return told_of
