"""The closing report of a complete run: counts that add up, throughput, where the time went, distributions."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.inference.screening.checking import check
from gfmpot.inference.screening.folder import Folder, read_lines, write_lines
from gfmpot.inference.screening.inputs import Input
from gfmpot.inference.screening.plan import Plan
from gfmpot.inference.screening.tables import read_summary, whole

Report = dict[str, Any]
Summaries = Sequence[Mapping[str, Any]]

COUNTS = ("structures", "written", "not_selected", "quarantined", "atoms", "edges")

DISTRIBUTIONS = {"energy_per_atom": False, "max_force": True, "energy_std": True}
"""Columns that are counted in bins, and whether the bins are logarithmic."""

BINS = 80
SAMPLE = 1_000_000
"""Rows from which the ranges of histograms are taken."""

OUTERMOST = 0.1
"""Per cent of the rows that may lie beyond either end of a histogram."""


NUMBER = re.compile(r"(?<![\w@-])-?\d+(\.\d+)?(e[-+]?\d+)?(?![\w@-])", re.IGNORECASE)
"""Numbers, not those in names."""

LOWEST = 1e-4
"""Of the median, where a logarithmic histogram begins: forces that vanish by symmetry are mere rounding."""


def close(out: str | Path) -> Report:
    """Check a complete run, merge what was left out, and write ``report.json``.

    Args:
        out: folder of the run.

    Returns:
        ``problems`` (as :func:`check`), counts, ``seconds`` in which at least one process worked, ``shares`` of the
        processes, ``phases`` in seconds over all of them, ``paths`` by which the model was evaluated, ``reasons`` of
        the quarantine and ``histograms``.

    Raises:
        FileNotFoundError: no run there.
        ValueError: not all of its blocks are done, or a damaged file.
    """
    folder = Folder(out)
    plan = Plan.read(folder)
    missing = len(plan.blocks()) - len(folder.done())
    if missing > 0:
        raise ValueError(f"{missing} of {len(plan.blocks())} blocks in {out} are not done: the same command goes on")
    summaries = [read_summary(folder.table(n)) for n in sorted(folder.done())]
    unreadable = [_unreadable(item) for item in plan.inputs if item.problem]
    quarantine = folder.path / "quarantine.jsonl"
    write_lines(quarantine, chain(unreadable, read_lines(sorted(folder.quarantine.glob("block-*.jsonl")))))
    shares = [_share(part) for part in _by_process(summaries)]
    report = {
        "problems": check(out),
        **{name: sum(summary[name] for summary in summaries) for name in COUNTS},
        "files": len(plan.inputs),
        "unreadable_files": len(unreadable),
        "passed_over": dict(plan.passed_over),
        "blocks": len(summaries),
        "seconds": _covered([(share["began"], share["ended"]) for share in shares]),
        "shares": shares,
        "phases": _added(summary["seconds"] for summary in summaries),
        "paths": _added({summary["path"]: summary["structures"]} for summary in summaries),
        "reasons": _reasons(quarantine),
        "options": dict(plan.options),
    }
    report["histograms"] = histograms(folder, report["written"])
    with whole(folder.report) as partial:
        partial.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    return report


def histograms(folder: Folder, rows: int) -> dict[str, Any]:
    """Of each of :data:`DISTRIBUTIONS`: ``edges``, ``counts``, and rows ``below``, ``above`` and ``undefined``."""
    found = {}
    for column, logarithmic in DISTRIBUTIONS.items():
        edges = _edges(_values(folder, column, every=-(-rows // SAMPLE) or 1), logarithmic)
        if edges is None:
            continue
        counts, below, above, defined = np.zeros(BINS, dtype=np.int64), 0, 0, 0
        for values in _values(folder, column):
            counts += np.histogram(values, edges)[0]
            below, above = below + int((values < edges[0]).sum()), above + int((values > edges[-1]).sum())
            defined += len(values)
        beyond = {"below": below, "above": above, "undefined": rows - defined}
        found[column] = {"edges": edges.tolist(), "counts": counts.tolist(), **beyond}
    return found


def _edges(parts: Iterable[NDArray[np.float64]], logarithmic: bool) -> NDArray[np.float64] | None:
    """Ends of the bins; None if there is nothing to count."""
    values = np.concatenate([np.zeros(0), *parts])
    values = values[values > 0] if logarithmic else values
    if len(values) == 0:
        return None
    low, high = (float(x) for x in np.percentile(values, [OUTERMOST, 100 - OUTERMOST]))
    if logarithmic:
        low = max(low, float(np.median(values)) * LOWEST)
        return np.geomspace(low / 1.01, high * 1.01, BINS + 1)
    margin = max(1e-3 * (high - low), 1e-6)
    return np.linspace(low - margin, high + margin, BINS + 1)


def _values(folder: Folder, column: str, every: int = 1) -> Iterator[NDArray[np.float64]]:
    """What is defined in a column, part by part, or every so-manyth row of it."""
    import pyarrow.dataset as ds

    before = 0
    for batch in ds.dataset(folder.results).to_batches(columns=[column]):
        values = batch[column].to_numpy(zero_copy_only=False)[-before % every :: every]
        before += len(batch)
        yield values[np.isfinite(values)]


def _unreadable(item: Input) -> dict[str, Any]:
    """A line of the quarantine for all that follows what can be read."""
    return {"file": item.path, "index": item.records or None, "formula": None, "reason": item.problem}


def _by_process(summaries: Summaries) -> list[list[Mapping[str, Any]]]:
    parts: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for summary in summaries:
        parts.setdefault((summary["process"], summary["since"]), []).append(summary)
    return sorted(parts.values(), key=lambda part: (part[0]["since"], part[0]["rank"]))


def _share(summaries: Summaries) -> dict[str, Any]:
    """What one process did: from its first block to its last."""
    first = summaries[0]
    began, ended = min(map(itemgetter("began"), summaries)), max(map(itemgetter("ended"), summaries))
    counts = {name: sum(summary[name] for summary in summaries) for name in ("structures", "atoms", "edges")}
    seconds = max(ended - began, 1e-9)
    return {
        "rank": first["rank"],
        "process": first["process"],
        "began": began,
        "ended": ended,
        **counts,
        "structures_per_second": counts["structures"] / seconds,
        "atoms_per_second": counts["atoms"] / seconds,
        "phases": _added(summary["seconds"] for summary in summaries),
    }


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of some intervals."""
    total, reached = 0.0, -np.inf
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return float(total)


def _added(mappings: Iterable[Mapping[str, float]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for mapping in mappings:
        total.update(mapping)
    return dict(total)


def _reasons(quarantine: Path) -> dict[str, int]:
    """How often structures were left out for what reason, numbers and names aside, the most frequent first."""
    kinds = Counter(NUMBER.sub("…", line["reason"]) for line in read_lines([quarantine]))
    return dict(kinds.most_common(20))
