"""How far a screening is: a bar in a terminal, a line now and then where output goes into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from gfmpot.cli.console import console, note

if TYPE_CHECKING:
    from gfmpot.inference.screening import Screening

LOOKING = 5.0
"""s between looks into the folder for what all processes have done."""

LINES = 60.0
"""s between lines in a log."""


class Pace:
    """What was done since the start, and what that means for the rest."""

    def __init__(self, screening: Screening, clock: Callable[[], float] = monotonic) -> None:
        self._screening, self._clock = screening, clock
        self.total = screening.blocks.records
        self._began = self._looked = clock()
        self._before = self._all = self._records_done()
        self.structures = self.atoms = 0

    def add(self, structures: int, atoms: int) -> None:
        """This process has done so much more."""
        self.structures, self.atoms = self.structures + structures, self.atoms + atoms
        if self._clock() - self._looked > LOOKING:
            self._all, self._looked = self._records_done(), self._clock()

    @property
    def done(self) -> int:
        """Records, by all processes, earlier ones included."""
        return min(max(self._all, self._before + self.structures), self.total)

    @property
    def left(self) -> float | None:
        """s until all is done, at the pace of all processes so far; None if there was nothing to go by."""
        pace = (self.done - self._before) / max(self._clock() - self._began, 1e-9)
        return (self.total - self.done) / pace if pace > 0 else None

    def __str__(self) -> str:
        seconds = max(self._clock() - self._began, 1e-9)
        of = " on this rank" if self._screening.launch.world > 1 else ""
        rates = f"{self.structures / seconds:,.0f} structures/s, {self.atoms / seconds:,.0f} atoms/s{of}"
        return f"{rates}, {duration(self.left)} left"

    def _records_done(self) -> int:
        return min(len(self._screening.folder.done()) * self._screening.blocks.size, self.total)


@contextmanager
def shown(screening: Screening) -> Iterator[Callable[[int, int], None]]:
    """Call it with structures and atoms as they are done; only the first rank shows anything, and looks for more."""
    if not screening.launch.is_main:
        yield lambda structures, atoms: None
        return
    pace, target = Pace(screening), console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=target, transient=True, disable=not target.is_terminal) as bar:
        task, told = bar.add_task("", total=pace.total, completed=pace.done, note="starting"), [monotonic()]

        def add(structures: int, atoms: int) -> None:
            pace.add(structures, atoms)
            bar.update(task, completed=pace.done, note=str(pace))
            if bar.disable and monotonic() - told[0] > LINES:
                told[0] = monotonic()
                note(f"{pace.done / pace.total:.1%} of {pace.total:,} records, {pace}")

        yield add


def duration(seconds: float | None) -> str:
    """In words: "35 s", "12 min", "3 h 20 min"."""
    if seconds is None:
        return "unknown time"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
