"""How far work on many structures is: a bar on standard error, if that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Bar:
    """Counts, in a terminal visibly.

    Args:
        total: of what is counted; None if nobody knows.
        shown: whether to show it.
    """

    def __init__(self, total: int | None, shown: bool) -> None:
        console = Console(stderr=True)
        columns = MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn()
        self.progress = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
        self._task = self.progress.add_task("", total=total, note="")
        self._done = self._bad = 0

    def advance(self, count: int) -> None:
        """So much more is done."""
        self.progress.update(self._task, advance=count)

    def tell(self, good: bool) -> None:
        """A structure has come to its end, good or bad."""
        self._done, self._bad = self._done + 1, self._bad + (not good)
        self.progress.update(self._task, note=f"{self._done} structures done, {self._bad} of them not as wanted")


@contextmanager
def progress_bar(total: int | None, shown: bool) -> Iterator[Bar]:
    """A bar for the time of a block."""
    bar = Bar(total, shown)
    with bar.progress:
        yield bar
