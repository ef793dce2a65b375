"""How figures of reports look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np

from gfmpot.training.report_run import Curve

WIDTH = 11.0
"""Inches of a figure that fills the page."""

INK, MUTED, FAINT = "#2b2b2b", "#767676", "#d9d9d9"
MAIN, LIGHT = "#2f6db0", "#a9c6e8"
"""Of validation and training."""

CYCLE = ("#2f6db0", "#d9822b", "#3f9060", "#b0413e", "#7d5ba6", "#2a9d9d", "#8c6d1f", "#c06c9b")

PHASE_COLOURS = {
    "data": "#d9a441",
    "forward": "#2f6db0",
    "backward": "#7fb0e0",
    "optimizer": "#3f9060",
    "communication": "#b0413e",
    "validate": "#7d5ba6",
    "checkpoint": "#2a9d9d",
    "other": "#c4c4c4",
}

STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9a9a9a",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": "#5a5a5a",
    "ytick.color": "#5a5a5a",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.dpi": 130,
}


@dataclass(frozen=True)
class Picture:
    """A finished figure."""

    name: str
    caption: str
    png: bytes


@contextmanager
def style() -> Iterator[None]:
    """Figures made inside look as they should.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise ValueError('reports are drawn with matplotlib: pip install "gfmpot[plot]"') from error
    with mpl.rc_context(STYLE):
        yield


def panels(count: int, columns: int, height: float, **keywords: Any) -> tuple[Any, list[Any]]:
    """A figure that fills the page, with ``count`` axes of ``height`` inches, row by row."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **keywords).flat)
    for unused in axes[count:]:
        unused.remove()
    for axis in axes[max(0, count - columns) : count]:
        axis.tick_params(labelbottom=True)  # also where nothing is left below in a figure of shared axes
    return figure, axes[:count]


def picture(name: str, caption: str, figure: Any) -> Picture:
    """The figure as PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Picture(name, caption, buffer.getvalue())


def plot(axis: Any, curve: Curve, scale: float = 1.0, **keywords: Any) -> bool:
    """Draw a curve if it has points; one that has a single point is a dot. Whether it had any."""
    steps, values = curve
    if not len(steps):
        return False
    axis.plot(steps, scale * values, **({"marker": "o", "markersize": 4} if len(steps) == 1 else {}), **keywords)
    return True


def log_scale(axis: Any, number: Callable[[float], str]) -> None:
    """A logarithmic vertical axis with plain numbers; labels at 2 and 5, too, where decades are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    decades = np.log10(high / low) if low > 0 else 3.0
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.yaxis.set_minor_formatter(NullFormatter())


def step_axis(axis: Any) -> None:
    """A horizontal axis of steps: 20k rather than 20000."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """20000 as 20k, 1500000 as 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def tidy(value: float) -> str:
    """0.00001 as 1e-5, 0.002 as it is."""
    return f"{value:g}" if abs(value) >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def legend(figure: Any, axis: Any, columns: int = 8) -> None:
    """Of all lines of one axis, above the figure."""
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper center", ncols=min(columns, len(labels)))
