"""Report of a hyper-parameter search: the table of trials that DeepHyper writes, and the best so far."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfmpot.training.report_page import Section, facts, figure, table
from gfmpot.training.report_run import Floats
from gfmpot.training.report_style import CYCLE, LIGHT, MAIN, Picture, panels, picture

SHOWN = 25
"""Trials in the table."""

FINISHED = "m:timestamp_gather"


@dataclass(frozen=True)
class Search:
    """Rows of ``results.csv``, as DeepHyper writes it (``Search.search`` in its documentation).

    Columns: ``p:<hyper-parameter>``, ``objective`` (or ``objective_0``, ... for several), ``job_id``, ``job_status``,
    ``m:<metadata>``, among them ``m:timestamp_gather`` in s since the start. Objectives are maximised; that of a failed
    trial is a text which begins with F.
    """

    folder: Path
    rows: list[dict[str, str]]

    @property
    def objectives(self) -> list[str]:
        """Names of the columns."""
        return [name for name in self.rows[0] if name == "objective" or name.startswith("objective_")]

    def values(self, column: str) -> Floats:
        """Numbers of a column, NaN where it has none."""
        return np.array([_number(row.get(column) or "") for row in self.rows])


def read_search(folder: Path) -> Search:
    """Read ``results.csv``.

    Raises:
        ValueError: no trials, or no objective.
    """
    path = folder / "results.csv"
    with path.open(newline="") as file:
        search = Search(folder, list(csv.DictReader(file)))
    if not search.rows or not search.objectives:
        raise ValueError(f"{path}: expected rows with a column 'objective', as DeepHyper writes them")
    return search


def search_sections(search: Search) -> tuple[list[Section], list[Picture]]:
    """What a report says of a search."""
    pictures = list(_best_so_far(search))
    found = search.values(search.objectives[0])
    failed = int(np.isnan(found).sum())
    overview = facts({"trials": len(search.rows), "failed": failed, "best objective": _best(found)})
    parts = [overview, *(part for each in pictures for part in figure(each))]
    return [Section("Search", parts), Section("Trials", [_trials(search, found)])], pictures


def _trials(search: Search, found: Floats) -> str:
    order = [int(i) for i in np.argsort(-found) if np.isfinite(found[i])][:SHOWN]
    parameters = [name for name in search.rows[0] if name.startswith("p:")]
    columns = ["job_id", *search.objectives, *parameters]
    rows = [[_cell(search.rows[i].get(name) or "") for name in columns] for i in order]
    heads = [name.removeprefix("p:").replace("job_id", "trial") for name in columns]
    return table(heads, rows, f"The best {len(rows)} of {len(search.rows)} trials; larger objectives are better.")


def _best_so_far(search: Search) -> Iterator[Picture]:
    finished = search.values(FINISHED)
    timed = bool(np.isfinite(finished).all())
    order = np.argsort(finished, kind="stable") if timed else np.arange(len(search.rows))
    places = finished[order] / 3600 if timed else 1.0 + order
    for column in search.objectives:
        found = search.values(column)[order]
        figure_, (axis,) = panels(1, 1, 3.6)
        axis.scatter(places, found, s=14, color=LIGHT, label="trial", zorder=2)
        axis.step(places, np.fmax.accumulate(found), where="post", color=MAIN, label="best so far", zorder=3)
        failed = np.isnan(found)
        if failed.any():
            foot = {"transform": axis.get_xaxis_transform(), "clip_on": False}
            axis.plot(places[failed], np.zeros(failed.sum()), "x", color=CYCLE[3], markersize=5, label="failed", **foot)
        axis.set_xlabel("hours since the start" if timed else "trial")
        axis.set_ylabel(column.replace("_", " "))
        axis.legend(loc="lower right")
        yield picture(f"search-{column}", "Objectives of the trials and the best so far; larger is better.", figure_)


def _best(found: Floats) -> float | None:
    return float(np.nanmax(found)) if np.isfinite(found).any() else None


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:  # a failure, or a name
        return math.nan


def _cell(cell: str) -> str | float | int:
    number = _number(cell)
    if math.isnan(number):
        return cell
    return int(number) if cell.lstrip("-").isdigit() else number
