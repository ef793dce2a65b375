"""What the training of a property shows, and what its log says afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gfmpot.telemetry import read_records

Show = Callable[[float, str], None]


@contextmanager
def progress_bar(title: str, *, shown: bool) -> Iterator[Show]:
    """A bar with a note and the time left; call it with the share done and the note.

    There is none where output is not a terminal: the log has what a file should have.
    """
    from rich import get_console

    if not shown or not get_console().is_terminal:
        yield lambda done, note: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    text = (TextColumn("{task.description}"), TextColumn("{task.fields[note]}"))
    with Progress(text[0], BarColumn(), TaskProgressColumn(), text[1], TimeRemainingColumn()) as bar:
        task = bar.add_task(title, total=1.0, note="")
        begun: list[float] = []

        def show(done: float, note: str) -> None:
            if not begun:  # what an earlier run did must not count for the rate of this one
                begun.append(done)
                bar.reset(task, total=1.0)
            bar.update(task, completed=done, note=note)

        yield show


def learning_curve(folder: Path) -> list[dict[str, Any]]:
    """By epoch, what the log of a run says: ``epoch``, ``train`` and ``valid`` loss, ``metrics`` of validation.

    Epochs that were done again after a kill are there once.
    """
    epochs: dict[int, dict[str, Any]] = {}
    for record in read_records(folder / "log.jsonl")[0]:
        if record.get("kind") in ("train", "valid"):
            epoch = epochs.setdefault(record["epoch"], {"epoch": record["epoch"]})
            epoch[record["kind"]] = record["loss"]
            if "metrics" in record:
                epoch["metrics"] = record["metrics"]
    return [epochs[number] for number in sorted(epochs)]
