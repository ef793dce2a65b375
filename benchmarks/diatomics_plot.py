"""Curves of diatomics.py as small multiples: a periodic table of elements, and a triangle of pairs of elements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diatomics_measures import Curve, Pair, covalent_sum
from pymatgen.core import Element

Rows = Mapping[Pair, Mapping[str, Any]]
Curves = Mapping[Pair, Curve]

GOOD, ROUGH, BAD, POINTS = "#2f6db0", "#c98a00", "#b0413e", "#222222"
LABELS = {GOOD: "repulsive and smooth, no well at short range", ROUGH: "repulsive, but not smooth or with a well"}
LABELS |= {BAD: "attractive at short range"}

LINEAR = 10.0
"""eV: energies up to this are drawn on a linear axis, and larger ones on a logarithmic one."""

LIMITS = (-150.0, 3000.0)
TICKS = (-100, -10, -5, 0, 5, 10, 100, 1000)
LABELLED = (-100, -10, 0, 10, 1000)
SHARES = (0.3, 2.55)
TABLE, COLUMNS = 30, 6
"""So many elements make a periodic table; fewer stand side by side, so many in a row."""

F_BLOCK = {57: 8, 89: 9}
"""First element, and the row that it begins, with a gap below the table."""

GAP = 0.2
"""Height of rows without panels."""


def draw(curves: Curves, rows: Rows, references: Curves, path: Path) -> list[Path]:
    """Elements into ``path``, pairs of elements beside it; what was written."""
    same = [pair for pair in curves if pair[0] == pair[1]]
    few = len(same) < TABLE
    elements = {pair: divmod(i, COLUMNS) if few else _place(pair[0]) for i, pair in enumerate(same)}
    mixed = [pair for pair in curves if pair[0] != pair[1]]
    symbols = sorted({symbol for pair in mixed for symbol in pair}, key=lambda symbol: Element(symbol).Z)
    places = {(a, b): (symbols.index(b) - 1, symbols.index(a)) for a, b in mixed}
    files = {path: elements, path.with_name(f"{path.stem}-pairs{path.suffix}"): places}
    for file, cells in files.items():
        if cells:
            _figure(cells, curves, rows, references).savefig(file, dpi=130)
    return [file for file, cells in files.items() if cells]


def _place(symbol: str) -> tuple[int, int]:
    """Row and column in the periodic table, the f-block below it."""
    element = Element(symbol)
    for first, row in F_BLOCK.items():
        if first <= element.Z < first + 15:
            return row, 2 + element.Z - first
    return element.row - 1, element.group - 1


def _figure(cells: Mapping[Pair, tuple[int, int]], curves: Curves, rows: Rows, references: Curves) -> Any:
    from matplotlib.figure import Figure

    used = {row for row, _ in cells.values()}
    heights = [1.0 if row in used else GAP for row in range(max(used) + 1)]
    columns = max(column for _, column in cells.values()) + 1
    figure = Figure(figsize=(max(6.5, 1.1 * columns + 0.6), 1.1 * sum(heights) + 1.0))
    grid = figure.add_gridspec(len(heights), columns, wspace=0.06, hspace=0.08, height_ratios=heights)
    grid.update(left=0.6 / figure.get_figwidth(), right=0.995, top=0.995, bottom=1.0 / figure.get_figheight())
    taken = {place: pair for pair, place in cells.items()}
    for (row, column), pair in taken.items():
        axis = figure.add_subplot(grid[row, column])
        _panel(axis, pair, curves[pair], rows[pair], references.get(pair))
        axis.tick_params(labelleft=(row, column - 1) not in taken, labelbottom=(row + 1, column) not in taken)
    _legend(figure, any(pair in references for pair in cells))
    return figure


def _panel(axis: Any, pair: Pair, curve: Curve, row: Mapping[str, Any], reference: Curve | None) -> None:
    s, colour = covalent_sum(pair), _colour(row)
    axis.axhline(0, color="#d0d0d0", linewidth=0.6)
    axis.axvline(1, color="#d0d0d0", linewidth=0.6)
    axis.plot(curve.distance / s, curve.energy, color=colour, linewidth=1.3)
    if reference is not None:
        axis.plot(reference.distance / s, reference.energy, "o", color=POINTS, markersize=1.8, markeredgewidth=0)
    axis.set_yscale("symlog", linthresh=LINEAR, linscale=3.0)
    axis.set(xlim=SHARES, ylim=LIMITS, xticks=(1, 2), yticks=TICKS)
    axis.set_yticklabels([f"{tick:g}" if tick in LABELLED else "" for tick in TICKS])
    axis.yaxis.minorticks_off()
    axis.tick_params(length=2, labelsize=7, pad=1.5, colors="#555555")
    for side in axis.spines.values():
        side.set(color="#b0b0b0", linewidth=0.6)
    name = pair[0] if pair[0] == pair[1] else "–".join(pair)
    axis.text(0.95, 0.93, name, transform=axis.transAxes, ha="right", va="top", weight="bold", color=colour, size=9)


def _colour(row: Mapping[str, Any]) -> str:
    if not row["is_repulsive"]:
        return BAD
    return GOOD if row["is_smooth"] and row["has_no_well"] else ROUGH


def _legend(figure: Any, referenced: bool) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour, label=label) for colour, label in LABELS.items()]
    if referenced:
        lines.append(Line2D([], [], color=POINTS, marker="o", linestyle="", markersize=3, label="reference"))
    figure.legend(handles=lines, loc="lower center", ncols=2, frameon=False, fontsize=9)
    height = figure.get_figheight()
    figure.text(0.5, 0.62 / height, "distance / sum of covalent radii", ha="center", fontsize=9)
    label = "E − E(separated) (eV), linear up to 10"
    figure.text(0.12 / figure.get_figwidth(), 0.5 + 0.3 / height, label, rotation=90, va="center", fontsize=9)
