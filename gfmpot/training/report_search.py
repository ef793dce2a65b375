"""Report of hyper-parameter searches: tables of trials, and what their figures are drawn from."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfmpot.telemetry import read_records
from gfmpot.training.report_page import Section, facts, figure, table
from gfmpot.training.report_run import Curve, Floats
from gfmpot.training.report_style import Picture

SHOWN = 25
"""Trials in a table."""

FINISHED = "m:timestamp_gather"
LOSS = "m:validation_loss"
WORTH_SHOWING = (LOSS, "m:epochs", "m:seconds_per_epoch", "m:peak_memory_gib", "m:parameters")


@dataclass(frozen=True)
class Search:
    """Rows of ``results.csv``, as DeepHyper writes it (``Search.search`` in its documentation).

    Columns: ``p:<hyper-parameter>``, ``objective`` (or ``objective_0``, ... for several), ``job_id``, ``job_status``,
    ``m:<metadata>``, among them ``m:timestamp_gather`` in s since the start. Objectives are maximised; that of a failed
    trial is a text which begins with F. Those of ``gfmpot hpo`` have validation losses and measurements, too.
    """

    folder: Path
    rows: list[dict[str, str]]
    name: str = "search"

    @property
    def objectives(self) -> list[str]:
        """Names of the columns."""
        return [name for name in self.rows[0] if name == "objective" or name.startswith("objective_")]

    @property
    def parameters(self) -> list[str]:
        """Names of the columns."""
        return [name for name in self.rows[0] if name.startswith("p:")]

    @property
    def losses(self) -> Floats:
        """Validation losses; NaN of failed trials, and without the column."""
        losses = self.values(LOSS)
        return np.where(np.isfinite(self.values(self.objectives[0])) & (losses > 0), losses, np.nan)

    def values(self, column: str) -> Floats:
        """Numbers of a column, NaN where it has none."""
        return np.array([_number(row.get(column) or "") for row in self.rows])

    def curves(self) -> dict[int, Curve]:
        """Validation losses over epochs by row, of trials that have kept them."""
        found: dict[int, Curve] = {}
        for i, row in enumerate(self.rows):
            file = self.folder / "trials" / f"{int(_number(row.get('job_id') or '-1')):04d}" / "progress.jsonl"
            records = read_records(file)[0] if file.is_file() else []
            points = {r["epoch"]: r["loss"] for r in records if isinstance(r.get("loss"), int | float)}
            if points:
                epochs = sorted(points)
                found[i] = np.array(epochs, dtype=float), np.array([points[e] for e in epochs], dtype=float)
        return found


def read_search(folder: Path) -> Search:
    """Read ``results.csv``.

    Raises:
        ValueError: no trials, or no objective.
    """
    path = folder / "results.csv"
    with path.open(newline="") as file:
        search = Search(folder, list(csv.DictReader(file)), folder.resolve().name)
    if not search.rows or not search.objectives:
        raise ValueError(f"{path}: expected rows with a column 'objective', as DeepHyper writes them")
    return search


def search_sections(search: Search) -> tuple[list[Section], list[Picture]]:
    """What a report says of a search."""
    from gfmpot.training.report_importance import importance
    from gfmpot.training.report_search_plots import best_so_far, parallel_coordinates, pareto, trajectories

    found = search.values(search.objectives[0])
    best, curves = list(best_so_far([search])), trajectories([search])
    coordinates, front, (matters, why_not) = parallel_coordinates(search), pareto([search]), importance(search)
    progress = [*best, *([curves] if curves else [])]
    sections = [
        Section("Search", [facts(_overview(search)), *(part for each in progress for part in figure(each))]),
        Section(
            "Configurations", [*figure(coordinates), *figure(matters), *([f"<p>{why_not}</p>"] if why_not else [])]
        ),
        Section("Cost", figure(front)),
        Section("Trials", [_trials(search, found), *_failures(search)]),
    ]
    return sections, [each for each in (*progress, coordinates, matters, front) if each is not None]


def searches_sections(searches: Sequence[Search]) -> tuple[list[Section], list[Picture]]:
    """What a report says of several searches."""
    from gfmpot.training.report_search_plots import best_so_far, pareto, trajectories

    best, curves, front = list(best_so_far(searches)), trajectories(searches), pareto(searches)
    every = [_overview(search) for search in searches]
    names = list(dict.fromkeys(name for each in every for name in each))
    overview = table(["", *(search.name for search in searches)], [[n, *(e.get(n) for e in every)] for n in names])
    progress = [*best, *([curves] if curves else [])]
    winners = [_best_row(search) for search in searches]
    sections = [
        Section("Searches", [overview, *(part for each in progress for part in figure(each))]),
        Section("Cost", figure(front)),
        Section("Best configurations", [table(["search", "trial", "configuration"], [row for row in winners if row])]),
    ]
    return sections, [each for each in (*progress, front) if each is not None]


def _overview(search: Search) -> dict[str, str | float | int | None]:
    found = search.values(search.objectives[0])
    status = Counter(row.get("m:status") or "" for row in search.rows)
    failed = ", ".join(f"{count} {name}" for name, count in status.items() if name not in ("", "completed", "stopped"))
    finished = search.values(FINISHED)
    losses = search.losses
    return {
        "trials": len(search.rows),
        "failed": int(np.isnan(found).sum()),
        "reasons": failed.replace("_", " ") or None,
        "stopped early": status["stopped"] or None,
        "hours": float(np.nanmax(finished)) / 3600 if np.isfinite(finished).any() else None,
        "best objective": None if np.isfinite(losses).any() else _best(found),
        "best validation loss": float(np.nanmin(losses)) if np.isfinite(losses).any() else None,
        "of trial": search.rows[int(np.nanargmax(found))].get("job_id") if np.isfinite(losses).any() else None,
    }


def _best_row(search: Search) -> list[str] | None:
    found = search.values(search.objectives[0])
    if not np.isfinite(found).any():
        return None
    row = search.rows[int(np.nanargmax(found))]
    chosen = ", ".join(f"{name.removeprefix('p:')} {_short(row[name])}" for name in search.parameters)
    return [search.name, row.get("job_id") or "", chosen]


def _short(cell: str) -> str:
    number = _number(cell)
    return cell if math.isnan(number) else f"{number:.4g}"


def _trials(search: Search, found: Floats) -> str:
    order = [int(i) for i in np.argsort(-found) if np.isfinite(found[i])][:SHOWN]
    measured = [name for name in WORTH_SHOWING if name in search.rows[0]]
    objectives = [] if LOSS in measured else search.objectives  # which is the same number with the other sign
    columns = ["job_id", *objectives, *measured, *search.parameters]
    rows = [[_cell(search.rows[i].get(name) or "") for name in columns] for i in order]
    heads = [name[2:].replace("_", " ") if name[:2] == "m:" else name.removeprefix("p:") for name in columns]
    about = "smaller losses" if LOSS in measured else "larger objectives"
    heads[0] = "trial"
    return table(heads, rows, f"The best {len(rows)} of {len(search.rows)} trials; {about} are better.")


def _failures(search: Search) -> list[str]:
    """Trials without a loss, and why."""
    rows = [row for row in search.rows if row.get("m:status") not in (None, "", "completed", "stopped")]
    cells = [[_cell(r["job_id"]), r["m:status"].replace("_", " "), r.get("m:reason") or ""] for r in rows[:SHOWN]]
    about = f"{len(cells)} of {len(rows)} trials that failed." if rows else ""
    return [table(["trial", "failure", "reason"], cells, about)] if rows else []


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
