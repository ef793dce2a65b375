"""The bar of reading a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gfmpot.cli.console import console


@contextmanager
def reading(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; call it with how many of how many structures were read."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    target = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=target, transient=True, disable=not target.is_terminal) as bar:
        task = bar.add_task(f"reading {title}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
