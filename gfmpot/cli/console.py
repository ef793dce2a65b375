"""What verbs print: lines, tables, clean errors."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

USER_ERROR = 2
INCOMPLETE = 1
"""Exit codes: nothing was done because the request makes no sense; something of it could not be done."""

MISSING = "–"

NAME = 24
"""Characters of a name that is not broken: one should be able to copy it."""


def console(*, stderr: bool = False) -> Console:
    """Standard output, or error; into a pipe or file, lines are as long as they need to be."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 1000)


def note(message: str, style: str = "") -> None:
    """One line on standard error."""
    console(stderr=True).print(message, style=style, markup=False, soft_wrap=True)


def log_handler(above: Console | None) -> logging.Handler:
    """Lines of a log: above the live progress on a terminal's console, or plain ones on standard error."""
    if above is None:
        plain = logging.StreamHandler()
        plain.setFormatter(_Plain("%(asctime)s %(message)s", "%X"))
        return plain
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    plainly = NullHighlighter()
    rich = RichHandler(console=above, show_level=False, show_path=False, highlighter=plainly, log_time_format="%X")
    rich.setFormatter(_Plain("%(message)s"))
    return rich


class _Plain(logging.Formatter):
    """Warnings say that they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802, the name is logging's
        if record.levelno >= logging.WARNING:
            record.message = f"warning: {record.message}"
        return super().formatMessage(record)


@contextmanager
def clean_errors() -> Iterator[None]:
    """Mistakes of users end the program with one red line and exit code 2; warnings become one line each."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}", "yellow")
        try:
            yield
        except (ValueError, OSError, ImportError, MemoryError) as error:  # an ImportError names the extra to install
            note(f"error: {error}", "red")
            raise typer.Exit(USER_ERROR) from None


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; numbers are aligned right and never broken, texts fold where a terminal is narrow."""
    cells = [[_text(value) for value in row] for row in rows]
    printed = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, name in enumerate(columns):
        numeric = all(_is_number(row[i]) for row in cells)
        whole = numeric or (i == 0 and max((len(row[0]) for row in cells), default=0) <= NAME)
        printed.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in cells:
        printed.add_row(*map(Text, row))
    if title:
        console().print(Text(title, style="bold"), end="")
    console().print(printed)


def facts(pairs: Mapping[str, object]) -> None:
    """Print names and values, one per line."""
    printed = Table.grid(padding=(0, 2))
    printed.add_column(style="bold")
    printed.add_column(overflow="fold")
    for name, value in pairs.items():
        printed.add_row(Text(name), Text(_text(value)))
    console().print(printed)


def report(failures: Sequence[object]) -> None:
    """List what failed on standard error, and exit with code 1 if anything did."""
    if failures:
        note(f"{len(failures)} failed:", "red")
        for failure in failures:
            note(f"  {failure}", "red")
        raise typer.Exit(INCOMPLETE)


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e9 else f"{value:.2e}"


def _is_number(text: str) -> bool:
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return text == MISSING
    return True
