"""The closing report of a screening: text for the terminal and for ``report.txt``, and a figure of distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gfmpot.cli.console import console, note
from gfmpot.cli.screen_progress import duration
from gfmpot.inference.screening.closing import DISTRIBUTIONS

Report = Mapping[str, Any]

PHASES = {"read": "read", "graph": "graphs", "wait": "wait", "evaluate": "model", "write": "write"}

LABELS = {
    "energy_per_atom": "energy (eV/atom)",
    "max_force": "largest force (eV/Å)",
    "energy_std": "estimated error of the energy (eV)",
}


MOST_ROWS = 16
"""Processes and reasons that are listed one by one."""


def tell(report: Report, folder: Path) -> None:
    """Print the report, and keep it as ``report.txt`` with ``distributions.png`` beside it."""
    parts: list[Text | Table] = [*_lines(report), _processes(report["shares"])]
    if report["reasons"]:
        parts += [Text("In quarantine.jsonl:"), _reasons(report["reasons"])]
    console().print(*parts, sep="\n")
    with (folder / "report.txt").open("w") as file:
        Console(file=file, width=140).print(*parts, sep="\n")
    if report["histograms"]:
        draw(report["histograms"], folder / "distributions.png")


def _lines(report: Report) -> list[Text]:
    seconds = max(report["seconds"], 1e-9)
    rates = f"{report['structures'] / seconds:,.0f} structures/s, {report['atoms'] / seconds:,.0f} atoms/s"
    kinds = ("written", "not_selected", "quarantined")
    counts = ", ".join(f"{report[kind]:,} {kind.replace('_', ' ')}" for kind in kinds)
    paths, unreadable = ", ".join(report["paths"]), report["unreadable_files"]
    files = f"{report['files']:,} files" + (f", {unreadable:,} of them unreadable" if unreadable else "")
    return [
        Text(f"{report['structures']:,} structures from {files}: {counts}"),
        Text(f"{report['atoms']:,} atoms, {report['edges']:,} edges in {duration(seconds)}: {rates} ({paths})"),
    ]


def _processes(shares: Sequence[Mapping[str, Any]]) -> Table:
    """Throughput of each process, those of earlier starts included, and on what it and its readers spent their time."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("rank", "structures", "s", "structures\nper s", "atoms\nper s", *PHASES.values()):
        table.add_column(column, justify="right", no_wrap=True)
    for share in shares[:MOST_ROWS]:
        seconds = share["ended"] - share["began"]
        rates = (f"{share[name]:,.0f}" for name in ("structures_per_second", "atoms_per_second"))
        phases = (f"{share['phases'].get(name, 0.0) / max(seconds, 1e-9):.0%}" for name in PHASES)
        counts = (str(share["rank"]), f"{share['structures']:,}", f"{seconds:.1f}")
        table.add_row(*counts, *rates, *phases)
    more = f"and {len(shares) - MOST_ROWS} more in report.json; " if len(shares) > MOST_ROWS else ""
    table.caption = f"{more}readers work side by side: what they read and build may be above 100 %"
    return table


def _reasons(reasons: Mapping[str, int]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    for reason, count in list(reasons.items())[:MOST_ROWS]:
        table.add_row(f"{count:,}", Text(reason))
    return table


def draw(histograms: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """The distributions side by side; without matplotlib, a note."""
    from gfmpot.training.report_style import MAIN, MUTED, panels, style

    try:
        with style():
            figure, axes = panels(len(histograms), 3, 3.2)
            for axis, (column, found) in zip(axes, histograms.items(), strict=True):
                axis.stairs(found["counts"], found["edges"], fill=True, color=MAIN)
                axis.set(xlabel=LABELS[column], ylabel="structures")
                axis.text(0.02, 1.02, _beyond(found), transform=axis.transAxes, color=MUTED)
                if DISTRIBUTIONS[column]:
                    axis.set_xscale("log")
            figure.savefig(path)
    except ValueError as error:
        note(f"no {path.name}: {error}", "yellow")


def _beyond(found: Mapping[str, Any]) -> str:
    """How many structures a histogram does not show."""
    outside, undefined = found["below"] + found["above"], found["undefined"]
    told = [f"{outside:,} outside the range"] if outside else []
    return ", ".join(told + ([f"{undefined:,} undefined"] if undefined else []))
