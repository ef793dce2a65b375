"""Tables of the report of training runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import yaml

from gfmpot.training.report_page import facts, table, text
from gfmpot.training.report_phases import region_rows
from gfmpot.training.report_run import QUANTITIES, UNITS, Run


def overview(run: Run) -> dict[str, Any]:
    """How far a run came, and on what; None where the log does not tell."""
    seconds = next((r["seconds"] for r in reversed(run.train) if isinstance(r.get("seconds"), int | float)), None)
    epoch = next((r["epoch"] for r in reversed(run.train) if isinstance(r.get("epoch"), int | float)), None)
    return {
        "steps": f"{run.steps:,}",
        "epochs": None if epoch is None else round(float(epoch), 2),
        "training time": None if seconds is None else _duration(seconds),
        "starts": len(run.starts) or None,
        "ranks": run.start.get("world"),
        "parallel mode": run.start.get("mode"),
        "hardware": text(run.start["hardware"]) if run.start.get("hardware") else None,
        "gfmpot": run.start.get("version"),
        "unreadable log lines": run.torn or None,
    }


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min"


def error_table(run: Run) -> list[str]:
    """Errors by branch and quantity: of the last validation and, in parentheses, the least."""
    shown = [q for q in QUANTITIES if any(len(run.validated(q, branch)[0]) for branch in run.branches)]
    if not shown:
        return []
    rows = [[branch, *(_last_and_best(run, quantity, branch) for quantity in shown)] for branch in run.branches]
    return [table(["branch", *(f"{q} ({UNITS[q]})" for q in shown)], rows, _ABOUT_ERRORS)]


def error_tables(runs: Sequence[Run]) -> list[str]:
    """The same by branch and run, a table for each quantity."""
    branches = list(dict.fromkeys(branch for run in runs for branch in run.branches))
    tables: list[str] = []
    for quantity in QUANTITIES:
        rows = [[branch, *(_last_and_best(run, quantity, branch) for run in runs)] for branch in branches]
        rows = [row for row in rows if any(row[1:])]
        if rows:
            names = [f"{quantity} ({UNITS[quantity]})", *(run.name for run in runs)]
            tables.append(table(names, rows, "" if tables else _ABOUT_ERRORS))
    return tables


_ABOUT_ERRORS = "Mean absolute errors of the last validation (in parentheses: the least)."


def _last_and_best(run: Run, quantity: str, branch: str) -> str | None:
    values = 1e3 * run.validated(quantity, branch)[1]
    return f"{values[-1]:.4g} ({values.min():.4g})" if len(values) else None


def region_table(run: Run) -> list[str]:
    """Times of all regions over the run."""
    rows = region_rows(run)
    whole = sum(row.mean for row in rows if "/" not in row.path)
    if not whole:
        return []
    cells = [
        [
            "\u2003" * row.path.count("/") + row.path.rpartition("/")[2],
            row.count,
            round(row.mean, 2),
            f"{row.mean / whole:.1%}",
            round(1e3 * row.mean / max(1, run.steps), 3),
            round(row.min, 2),
            round(row.max, 2),
            round(row.max / row.mean, 3) if row.mean else None,
        ]
        for row in rows
    ]
    columns = ["region", "calls", "time (s)", "share", "per step (ms)", "least (s)", "most (s)", "most/mean"]
    return [
        table(columns, cells, "Time by region, mean over ranks; least and most of the ranks, added over intervals.")
    ]


def resource_facts(run: Run) -> list[str]:
    """GPUs, energies, and what could not be read."""
    gpus = [gpu for record in run.telemetry for gpu in record.get("gpu") or []]
    energy = sum(gpu.get("energy_j") or 0 for gpu in gpus)
    processor = sum(record.get("cpu_energy_j") or 0 for record in run.telemetry)
    absent = {key: why for record in run.telemetry for key, why in (record.get("absent") or {}).items()}
    pairs = {
        "GPUs": ", ".join(dict.fromkeys(str(gpu.get("name")) for gpu in gpus)),
        "energy of the GPUs": f"{energy / 3.6e6:.4g} kWh" if energy else None,
        "energy of the processors": f"{processor / 3.6e6:.4g} kWh" if processor else None,
        **{f"not read: {key}": why for key, why in absent.items()},
    }
    return [facts(pairs)] if any(pairs.values()) else []


def configuration(run: Run) -> list[str]:
    """When the run was started, and with which settings the last time."""
    starts = [
        [time.strftime("%Y-%m-%d %H:%M", time.localtime(s["time"])), s.get("step"), s.get("world"), s.get("mode")]
        for s in run.starts
    ]
    parts = [table(["started", "at step", "ranks", "mode"], starts)] if starts else []
    if run.start.get("config"):
        parts.append(f"<pre>{escape(yaml.safe_dump(run.start['config'], sort_keys=False, allow_unicode=True))}</pre>")
    return parts


def differences(runs: Sequence[Run]) -> list[str]:
    """Settings in which runs differ."""
    flat = [dict(_flat(run.start.get("config") or {})) for run in runs]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    unlike = [key for key in keys if any(each.get(key) != flat[0].get(key) for each in flat)]
    rows = [[key, *(text(each.get(key)) for each in flat)] for key in unlike]
    if not rows:
        return ["<p>The runs have the same configuration.</p>"] if any(flat) else []
    return [table(["setting", *(run.name for run in runs)], rows, "Settings in which the runs differ.")]


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return pairs
