"""The tables and the chart of benchmarks/peers.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gfmpot.training.report_style import MAIN, MUTED, panels, style

Row = dict[str, Any]
"""Of one peer in one precision: lists of what was measured, empty where it failed."""


def spread(values: Sequence[float]) -> str:
    """Median (least to most)."""
    return f"{short(median(values))} ({short(min(values))}–{short(max(values))})" if values else "–"


def short(value: float) -> str:
    """Three figures, and no powers of ten where they can be helped."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times_ours(values: Sequence[float], ours: Sequence[float]) -> str:
    """How many times our time."""
    return f"{spread(values)} {median(values) / median(ours):6.2f}×" if values and ours else spread(values)


def error(row: Row) -> str:
    """Absolute and relative."""
    key = "relative force error"
    return f"{row['force error (eV/Å)']:.1e} ({row[key]:.1e})" if key in row else "n/a"


def show(rows: Mapping[str, Row], missing: Mapping[str, str]) -> None:
    """Steps, the rest, and what was run. The first row is what others are compared with."""
    ours: Row = next(iter(rows.values()), {})
    _table(
        "ms per MD step",
        [f"{size} atoms" for size in ours["ms/step"]],
        30,
        {
            label: [times_ours(values, ours["ms/step"][size]) for size, values in row["ms/step"].items()]
            for label, row in rows.items()
        },
    )
    _table(
        "",
        ["structures/s", "cold start (s)", "force error, eV/Å (relative)"],
        30,
        {label: [spread(row["structures/s"]), spread(row["starts (s)"]), error(row)] for label, row in rows.items()},
    )
    for label, row in rows.items():
        weights = "" if row["trained"] else ", untrained weights"
        edges = ", ".join(f"{count:,}" for count in row["edges"].values())
        print(f"{label}: {row['version']}, {row['model']}{weights}; {edges} edges within {row['cutoff']:g} Å")
    for name, reason in missing.items():
        print(f"not measured: {name}: {reason}")


def _table(corner: str, heads: Sequence[str], width: int, lines: Mapping[str, Sequence[str]]) -> None:
    print(f"{corner:16}", *(f"{head:>{width}}" for head in heads))
    for label, cells in lines.items():
        print(f"{label:16}", *(f"{cell:>{width}}" for cell in cells))


def draw(rows: Mapping[str, Row], path: Path) -> None:
    """Bars of the medians, with ranges."""
    sizes = next(iter(rows.values()))["ms/step"]
    values = {f"MD step, {size} atoms (ms)": [row["ms/step"][size] for row in rows.values()] for size in sizes}
    values["Batches of 8-atom cells (structures/s)"] = [row["structures/s"] for row in rows.values()]
    values["Start to first forces (s)"] = [row["starts (s)"] for row in rows.values()]
    errors = [[row["relative force error"]] if "relative force error" in row else [] for row in rows.values()]
    values["Force error of fp32, of the largest force"] = errors
    names = [label + ("" if row["trained"] else " *") for label, row in rows.items()]
    with style():
        figure, axes = panels(len(values), 3, 0.8 + 0.25 * len(rows), sharey=True)
        for axis, (title, columns) in zip(axes, values.items(), strict=True):
            _bars(axis, names, columns)
            axis.set(title=title, xscale="log")
            axis.xaxis.set_minor_formatter("")
            axis.margins(x=0.3)
        axes[0].invert_yaxis()
        figure.supxlabel("* untrained weights: for speed only", fontsize=8)
        figure.savefig(path)


def _bars(axis: Any, names: Sequence[str], columns: Sequence[Sequence[float]]) -> None:
    middle = [median(column) if column else math.nan for column in columns]
    below = [m - min(column, default=math.nan) for m, column in zip(middle, columns, strict=True)]
    above = [max(column, default=math.nan) - m for m, column in zip(middle, columns, strict=True)]
    colours = [MAIN if name.startswith("gfmpot") else MUTED for name in names]
    bars = axis.barh(names, middle, xerr=[below, above], color=colours, error_kw={"lw": 0.8})
    labels = ["" if math.isnan(value) else short(value) for value in middle]
    axis.bar_label(bars, labels, padding=3, fontsize=8)
