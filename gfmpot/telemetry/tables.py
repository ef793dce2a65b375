"""Times of regions as tables for a terminal and as records for a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from rich import box
from rich.table import Table

from gfmpot.telemetry.ranks import RankTimes
from gfmpot.telemetry.tree import RegionTime


def region_table(times: Mapping[str, RegionTime] | Mapping[str, RankTimes]) -> Table:
    """A table like those of GPTL, indented by nesting; shares are of all time in outermost regions."""
    whole = sum(_seconds(time) for path, time in times.items() if "/" not in path)
    first = next(iter(times.values()), None)
    columns = _RANK_COLUMNS if isinstance(first, RankTimes) else _COLUMNS
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("region", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for path, time in times.items():
        cells = _rank_cells(time) if isinstance(time, RankTimes) else _cells(time)
        share = f"{_seconds(time) / whole:.1%}" if whole else "–"
        table.add_row("  " * path.count("/") + path.rpartition("/")[2], *cells, share)
    return table


_COLUMNS = ("calls", "total (s)", "self (s)", "mean (ms)", "min (ms)", "max (ms)", "share")
_RANK_COLUMNS = ("calls", "mean (s)", "min (s)", "max (s)", "self (s)", "max/mean", "share")


def _cells(time: RegionTime) -> tuple[str, ...]:
    mean = f"{1e3 * time.total / time.count:.3f}" if time.count else "–"
    ends = (f"{1e3 * time.min:.3f}", f"{1e3 * time.max:.3f}") if time.count else ("–", "–")
    return str(time.count), f"{time.total:.3f}", f"{time.own:.3f}", mean, *ends


def _rank_cells(time: RankTimes) -> tuple[str, ...]:
    imbalance = f"{time.max / time.mean:.2f}" if time.mean else "–"
    return str(time.count), f"{time.mean:.3f}", f"{time.min:.3f}", f"{time.max:.3f}", f"{time.own:.3f}", imbalance


def _seconds(time: RegionTime | RankTimes) -> float:
    return time.mean if isinstance(time, RankTimes) else time.total


def region_record(times: Mapping[str, RegionTime] | Mapping[str, RankTimes]) -> dict[str, dict[str, float]]:
    """The times as plain mappings for a log or JSON; regions nobody entered are left out."""
    return {path: asdict(time) for path, time in times.items() if time.count or _seconds(time)}
