"""The report of training runs and searches: one HTML page, with its figures beside it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from gfmpot import __version__
from gfmpot.training.report_page import Section, facts, figure, page, table
from gfmpot.training.report_parity import parity_plots
from gfmpot.training.report_plots import learning_curves, optimisation, phase_breakdown, throughput
from gfmpot.training.report_resources import resources
from gfmpot.training.report_run import Run, read_run
from gfmpot.training.report_search import Search, read_search, search_sections, searches_sections
from gfmpot.training.report_style import Picture, style
from gfmpot.training.report_tables import (
    configuration,
    differences,
    error_table,
    error_tables,
    overview,
    region_table,
    resource_facts,
)


def write_report(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Draw a run, compare several, or show a search.

    Args:
        folders: of training runs (with ``log.jsonl``), or of searches (with DeepHyper's ``results.csv``).
        out: the page; ``FOLDER/report/index.html`` by default, figures in the same folder. Figures of another page go
            to a folder of its name beside it.

    Returns:
        The page.

    Raises:
        ValueError: nothing to report in a folder, several without ``out``, or matplotlib is not installed.
        OSError: something cannot be read or written.
    """
    if not folders or (len(folders) > 1 and out is None):
        raise ValueError(f"a report of {len(folders)} folders needs a file to write, e.g. --out comparison.html")
    out = out or folders[0] / "report" / "index.html"
    with style():
        title, lead, sections, pictures = _contents(folders)
    place = out.parent if out.name == "index.html" else out.with_suffix("")
    place.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (place / f"{picture.name}.png").write_bytes(picture.png)
    out.write_text(page(title, lead, sections, _footer()), encoding="utf-8")
    return out


Contents = tuple[str, str, list[Section], list[Picture]]
"""Title, first line, sections, figures."""


def _contents(folders: Sequence[Path]) -> Contents:
    kinds = [_kind(folder) for folder in folders]
    if "search" not in kinds:
        runs = _named([read_run(folder) for folder in folders])
        return _one(runs[0]) if len(runs) == 1 else _several(runs)
    if "run" in kinds:
        raise ValueError(f"{folders[kinds.index('search')]} is a search: report it alone, or with other searches")
    searches = _distinct([read_search(folder) for folder in folders])
    if len(searches) == 1:
        return f"Search {searches[0].name}", str(folders[0]), *search_sections(searches[0])
    names = ", ".join(search.name for search in searches)
    return f"Comparison of {len(searches)} searches", names, *searches_sections(searches)


def _kind(folder: Path) -> str:
    if (folder / "log.jsonl").is_file():
        return "run"
    if (folder / "results.csv").is_file():
        return "search"
    raise ValueError(f"{folder}: neither log.jsonl of a training run nor results.csv of a search is there")


def _named(runs: list[Run]) -> list[Run]:
    """Runs in folders of the same name are told apart by their paths."""
    names = [run.name for run in runs]
    for run in runs:
        run.name = run.name if names.count(run.name) == 1 else str(run.folder)
    return runs


def _distinct(searches: list[Search]) -> list[Search]:
    names = [search.name for search in searches]
    return [s if names.count(s.name) == 1 else dataclasses.replace(s, name=str(s.folder)) for s in searches]


def _one(run: Run) -> Contents:
    curves = [*learning_curves([run])]
    optimised, spent, fast, used = optimisation([run]), phase_breakdown([run]), throughput([run]), resources(run)
    parity, problems = parity_plots(run)
    tiles = ['<div class="tiles">', *_figures(parity), "</div>"] if parity else []
    missing = [facts({f"not drawn {i + 1}": problem for i, problem in enumerate(problems)})] if problems else []
    sections = [
        Section("Overview", [facts(overview(run)), *error_table(run)]),
        Section("Learning curves", [*_figures(curves), *figure(optimised)]),
        Section("Time", [*figure(spent), *region_table(run), *figure(fast)]),
        Section("Resources", [*figure(used), *resource_facts(run)]),
        Section("Parity", [*tiles, *missing]),
        Section("Configuration", configuration(run)),
    ]
    pictures = [each for each in (*curves, optimised, spent, fast, used, *parity) if each is not None]
    return f"Training run {run.name}", str(run.folder.resolve()), sections, pictures


def _several(runs: list[Run]) -> Contents:
    curves = [*learning_curves(runs)]
    optimised, spent, fast = optimisation(runs), phase_breakdown(runs), throughput(runs)
    each_run = [overview(run) for run in runs]
    rows = [[name, *values] for name in each_run[0] if any(values := [each[name] for each in each_run])]
    sections = [
        Section("Overview", [table(["", *(run.name for run in runs)], rows), *error_tables(runs)]),
        Section("Learning curves", [*_figures(curves), *figure(optimised)]),
        Section("Time", [*figure(spent), *figure(fast)]),
        Section("Configuration", differences(runs)),
    ]
    pictures = [each for each in (*curves, optimised, spent, fast) if each is not None]
    return f"Comparison of {len(runs)} training runs", ", ".join(run.name for run in runs), sections, pictures


def _figures(pictures: Sequence[Picture]) -> list[str]:
    return [part for picture in pictures for part in figure(picture)]


def _footer() -> str:
    return f"gfmpot {__version__}, {time.strftime('%Y-%m-%d %H:%M')}"
