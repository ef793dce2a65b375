"""What verbs that adapt models ask for, read and wait for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from gfmpot.cli.console import INCOMPLETE, facts, note

if TYPE_CHECKING:
    from gfmpot.finetune.examples import Examples
    from gfmpot.finetune.reader import Reader
    from gfmpot.finetune.task import Task
    from gfmpot.ranks.signals import EndOfJob

T = TypeVar("T")


def given_ones(**values: Any) -> dict[str, Any]:
    """Options that were given."""
    return {name: value for name, value in values.items() if value is not None}


def numbers(name: str, text: str | None, kind: type) -> tuple[Any, ...] | None:
    """Those of an option, with commas between them; None if it was not given."""
    if text is None:
        return None
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name}: expected numbers with commas, got {text!r}") from None
    if name == "--split" and len(found) != 3:
        raise ValueError(f"{name}: expected three numbers, of training, validation and test, got {text!r}")
    return found


def strategy_names(text: str) -> list[str]:
    """Those of ``--strategy``, each once; ``all`` are the paper's."""
    from gfmpot.finetune.task import PAPER_STRATEGIES

    given = [PAPER_STRATEGIES if name == "all" else (name,) for name in text.split(",")]
    return list(dict.fromkeys(name for some in given for name in some))


def read(task: Task, reader: Reader, data: Path, limit: int | None, *, skip_unlabelled: bool) -> Examples:
    """The data of a task, with a bar on a terminal; prints how many there are on which side."""
    from gfmpot.cli.finetune_progress import reading
    from gfmpot.finetune.examples import read_examples

    with reading(task.title) as watch:
        found = read_examples(task, reader, data, limit=limit, skip_unlabelled=skip_unlabelled, watch=watch)
    left_out = ", ".join(f"{count} ({reason})" for reason, count in found.left_out.items())
    sizes = {side: len(part) for side, part in found.sides.items()}
    facts(
        {
            "structures": ", ".join(f"{n} {side}" for side, n in sizes.items()),
            **given_ones(**{"left out": left_out or None}),
        }
    )
    return found


def stoppable(work: Callable[[EndOfJob], T]) -> T:
    """What ``work`` returns; if a signal stops it, or training diverges, the program ends with a line that says so."""
    from gfmpot.finetune.stopped import Stopped
    from gfmpot.ranks.signals import EndOfJob

    try:
        with EndOfJob() as end:
            return work(end)
    except Stopped as stopped:
        note(f"{stopped}; the same command goes on")
    except FloatingPointError as error:
        note(f"error: {error}", "red")
    raise typer.Exit(INCOMPLETE)
