"""Where the time of a run went: the regions of its training records, added up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gfmpot.training.report_run import Floats, Record, Run

CONTAINERS = ("epoch", "step")
"""Regions that hold the phases and are none."""

OTHER = "other"
"""Time in no phase."""


@dataclass(frozen=True)
class Phases:
    """Seconds in each phase, mean over ranks, over the intervals between training records."""

    edges: Floats
    """Steps, one more than intervals."""

    seconds: dict[str, Floats]

    def rebinned(self, bars: int = 60) -> Phases:
        """At most so many intervals, neighbours added up."""
        n = len(self.edges) - 1
        starts = np.unique(np.linspace(0, n, min(n, bars) + 1).astype(int))
        seconds = {name: np.add.reduceat(values, starts[:-1]) for name, values in self.seconds.items()}
        return Phases(self.edges[starts], seconds)

    def per_step(self) -> dict[str, Floats]:
        """Seconds per training step."""
        return {name: values / np.diff(self.edges) for name, values in self.seconds.items()}


@dataclass(frozen=True)
class RegionRow:
    """A region over the whole run, s."""

    path: str
    count: int
    mean: float
    min: float
    max: float
    """Sums over intervals of the mean, least and most over ranks."""


def phases(run: Run) -> Phases | None:
    """Phases over the run, what is in none as "other"; None where the log has no regions."""
    records = [record for record in run.train if record.get("regions")]
    if not records:
        return None
    edges = [_first_step(run, records[0]), *(record["step"] for record in records)]
    spent = [_by_phase(record) for record in records]
    names = list(dict.fromkeys(name for phase in spent for name in phase if name != OTHER))
    seconds = {name: np.array([phase.get(name, 0.0) for phase in spent]) for name in [*names, OTHER]}
    if not seconds[OTHER].any():
        del seconds[OTHER]
    return Phases(np.array(edges, dtype=float), seconds)


def region_rows(run: Run) -> list[RegionRow]:
    """All regions of a run, those inside a region after it."""
    regions = [record["regions"] for record in run.train if record.get("regions")]

    def added(path: str, key: str) -> float:
        return sum((each.get(path) or {}).get(key) or 0 for each in regions)

    paths = _nested(path for each in regions for path in each)
    return [RegionRow(path, int(added(path, "count")), *(added(path, key) for key in _SUMS)) for path in paths]


_SUMS = ("mean", "min", "max")


def _first_step(run: Run, first: Record) -> float:
    """Where the first interval began: at the start, else one interval before."""
    begun = [start["step"] for start in run.starts if isinstance(start.get("step"), int)]
    following = next((record["step"] for record in run.train if record["step"] > first["step"]), 2 * first["step"])
    guess = max(0, 2 * first["step"] - following)
    return float(max((step for step in begun if step < first["step"]), default=min(guess, first["step"] - 1)))


def _by_phase(record: Record) -> dict[str, float]:
    means = {path: float((times or {}).get("mean") or 0) for path, times in record["regions"].items()}
    found: dict[str, float] = {}
    inside = whole = 0.0
    for path, mean in means.items():
        parts = path.split("/")
        depth = next((i for i, part in enumerate(parts) if part not in CONTAINERS), len(parts))
        if depth == len(parts) - 1:
            found[parts[-1]] = found.get(parts[-1], 0.0) + mean
            inside += mean if depth else 0.0
        elif len(parts) == 1:
            whole += mean
    return {**found, OTHER: max(0.0, whole - inside)}


def _nested(paths: Iterable[str]) -> list[str]:
    """Each once, in order of appearance, but what is inside a region directly after it."""
    order: dict[str, int] = {}
    unique = dict.fromkeys(paths)
    for path in unique:
        for above in _above(path):
            order.setdefault(above, len(order))
    return sorted(unique, key=lambda path: [order[above] for above in _above(path)])


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]
