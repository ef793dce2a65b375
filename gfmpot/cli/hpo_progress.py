"""How far a campaign is: a bar in a terminal, lines where output goes into a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from gfmpot.cli.console import console, log_handler
from gfmpot.cli.screen_progress import duration

if TYPE_CHECKING:
    from gfmpot.hpo.campaign import Standing


@contextmanager
def shown() -> Iterator[Callable[[Standing], None]]:
    """Call it with how far it is. What happens to trials is in the log, above the bar."""
    target = console(stderr=True)
    handler = log_handler(target if target.is_terminal else None)
    log, before = logging.getLogger("gfmpot"), logging.getLogger("gfmpot").level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False  # DeepHyper has a handler put at the root
    columns = (TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    try:
        with Progress(*columns, console=target, transient=True, disable=not target.is_terminal) as bar:
            task = bar.add_task("", total=None, note="starting")

            def show(standing: Standing) -> None:
                bar.update(task, total=standing.total, completed=len(standing.results), note=told(standing))

            yield show
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
        log.propagate = True


def told(standing: Standing) -> str:
    """In one line."""
    best = standing.best
    parts = [f"{len(standing.running)} running", f"{standing.failed} failed"]
    parts += [] if best is None else [f"best {best.validation_loss:.4g} (trial {best.trial})"]
    parts += [] if standing.seconds_left is None else [f"{duration(standing.seconds_left)} left"]
    return ", ".join(parts)
