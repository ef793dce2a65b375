"""Parity plots: predictions over references."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from gfmpot.training.report_run import Floats, Run
from gfmpot.training.report_style import INK, MAIN, MUTED, Picture, panels, picture

UNITS = {"energy": ("eV/atom", "meV/atom"), "forces": ("eV/Å", "meV/Å"), "stress": ("eV/Å³", "meV/Å³")}
DENSE = 3000
"""Points from which on they are counted in cells."""


def parity_plots(run: Run) -> tuple[list[Picture], list[str]]:
    """One figure for each branch that has predictions on file, and what is wrong with other files."""
    pictures, problems = [], []
    for branch, file in run.parity.items():
        try:
            pictures.append(_parity(branch, read_pairs(file)))
        except (OSError, ValueError, BadZipFile) as error:
            problems.append(f"{branch}: {error}")
    return pictures, problems


def read_pairs(file: Path) -> dict[str, tuple[Floats, Floats]]:
    """References and predictions by quantity, without what is not finite.

    Raises:
        OSError: no such file.
        ValueError: no pairs, or a reference and a prediction of different lengths.
        BadZipFile: not a whole npz file.
    """
    with np.load(file, allow_pickle=False) as arrays:
        found = {
            quantity: (arrays[f"{quantity}_reference"].ravel(), arrays[f"{quantity}_predicted"].ravel())
            for quantity in UNITS
            if {f"{quantity}_reference", f"{quantity}_predicted"} <= set(arrays)
        }
    pairs = {quantity: _finite(file, quantity, *pair) for quantity, pair in found.items()}
    if not any(len(reference) for reference, _ in pairs.values()):
        raise ValueError(f"{file} holds no finite pairs, such as energy_reference and energy_predicted")
    return {quantity: pair for quantity, pair in pairs.items() if len(pair[0])}


def _finite(file: Path, quantity: str, reference: Floats, predicted: Floats) -> tuple[Floats, Floats]:
    if len(reference) != len(predicted):
        raise ValueError(f"{file}: {len(reference)} references and {len(predicted)} predictions of {quantity}")
    finite = np.isfinite(reference) & np.isfinite(predicted)
    return reference[finite], predicted[finite]


def _parity(branch: str, pairs: dict[str, tuple[Floats, Floats]]) -> Picture:
    figure, axes = panels(len(pairs), 3, 4.3)
    figure.set_figwidth(4.4 * len(pairs))
    for axis, (quantity, (reference, predicted)) in zip(axes, pairs.items(), strict=True):
        draw_parity(axis, reference, predicted)
        unit, small = UNITS[quantity]
        axis.set_xlabel(f"reference ({unit})")
        axis.set_ylabel(f"predicted ({unit})")
        axis.set_title(quantity)
        axis.annotate(
            _errors(predicted - reference, small),
            (0.03, 0.97),
            xycoords="axes fraction",
            va="top",
            color=INK,
            fontsize=9,
        )
    figure.suptitle(branch, x=0.02, ha="left", fontsize=11, weight="bold")
    return picture(f"parity-{_file_name(branch)}", f"{branch}: predictions over references.", figure)


def draw_parity(axis: Any, reference: Floats, predicted: Floats) -> None:
    """Predictions (M,) over references (M,), as points or, where they are many, as their density."""
    low, high = min(reference.min(), predicted.min()), max(reference.max(), predicted.max())
    margin = 0.04 * (high - low) or 0.5
    ends = (low - margin, high + margin)
    axis.plot(ends, ends, color=MUTED, linewidth=0.8, zorder=1)
    if len(reference) > DENSE:
        _dense(axis, reference, predicted, ends)
    else:
        axis.scatter(reference, predicted, s=9, color=MAIN, alpha=0.45, linewidths=0, zorder=2)
    axis.set(xlim=ends, ylim=ends, aspect="equal")
    axis.locator_params(nbins=5)


def _dense(axis: Any, reference: Floats, predicted: Floats, ends: tuple[float, float]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("parity", ["#b9d2ec", MAIN, "#14304f"])
    axis.hexbin(
        reference,
        predicted,
        gridsize=110,
        bins="log",
        mincnt=1,
        extent=(*ends, *ends),
        cmap=shades,
        linewidths=0.1,
        zorder=2,
    )


def _errors(difference: Floats, unit: str) -> str:
    mae, rmse = 1e3 * np.abs(difference).mean(), 1e3 * np.sqrt(np.mean(difference**2))
    each = "" if unit.endswith("atom") else " per component"
    return f"MAE {_short(mae)} {unit}{each}\nRMSE {_short(rmse)} {unit}\nn = {len(difference):,}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _file_name(branch: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in branch)
