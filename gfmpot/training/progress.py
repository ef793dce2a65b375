"""What a run shows and records while it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rich.table import Table
from torch import Tensor

from gfmpot.ranks.launch import Launch, sum_over_ranks
from gfmpot.telemetry import Sampler
from gfmpot.training.loss import LossConfig, LossSums

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gfmpot.training.config import TelemetryConfig


class Window:
    """Errors and throughput since the last record."""

    def __init__(self, branches: Sequence[str], device: torch.device) -> None:
        self._branches, self._device = list(branches), device
        self._steps = self._structures = self._atoms = 0
        self._norm = self._begun = 0.0
        self._clear()

    def add(self, sums: LossSums) -> None:
        """Take note of a part of a batch of this rank."""
        self._values += sums.values.detach().double()
        self._counts += sums.counts
        self._errors += sums.errors
        self._labelled += sums.labelled
        self.latest = sums

    def step(self, norm: float, structures: int, atoms: int) -> None:
        """Take note of a step of all ranks."""
        self._steps, self._norm = self._steps + 1, self._norm + norm
        self._structures, self._atoms = self._structures + structures, self._atoms + atoms

    @property
    def rate(self) -> float:
        """Structures per second of all ranks."""
        return float(self._structures) / max(1e-9, time.perf_counter() - self._begun)

    def means(self) -> list[tuple[str, float | None, float | None]]:
        """Mean errors of this rank's structures by branch: eV/atom and eV/Å, None where none was seen."""
        rows = (self._errors / self._labelled)[:, :2].tolist()
        return [
            (name, *(None if math.isnan(value) else value for value in row))  # type: ignore[misc]
            for name, row in zip(self._branches, rows, strict=True)
        ]

    def table(self) -> Table:
        """Errors by branch, to be looked at."""
        table = Table(box=None, pad_edge=False)
        for column in ("training errors since the last record", "meV/atom", "meV/Å"):
            table.add_column(column, justify="left" if column.startswith("training") else "right")
        for name, energy, forces in self.means():
            table.add_row(name, *("–" if value is None else f"{1e3 * value:.0f}" for value in (energy, forces)))
        return table

    def record(self, config: LossConfig) -> dict[str, Any]:
        """Means over all ranks, and a new window; collective."""
        seconds = max(1e-9, time.perf_counter() - self._begun)
        parts = (self._values, self._counts, self._errors.flatten(), self._labelled.flatten())
        joined = sum_over_ranks(torch.cat(parts))
        values, counts, errors, labelled = torch.split(joined, [len(part) for part in parts])
        weights = torch.tensor(config.weights, dtype=torch.float64, device=self._device)
        record = {
            "loss": float((weights * values / counts.clamp(min=1)).sum()),
            **self._by_branch(errors.view(-1, 3), labelled.view(-1, 3)),
            "gradient_norm": self._norm / max(1, self._steps),
            "structures_per_second": self._structures / seconds,
            "atoms_per_second": self._atoms / seconds,
        }
        self._clear()
        return record

    def _by_branch(self, errors: Tensor, labelled: Tensor) -> dict[str, dict[str, float]]:
        means = (errors / labelled).tolist()
        seen = (labelled > 0).tolist()
        return {
            term: {name: means[b][t] for b, name in enumerate(self._branches) if seen[b][t]}
            for t, term in enumerate(("energy", "forces", "stress"))
        }

    def _clear(self) -> None:
        zeros = {"dtype": torch.float64, "device": self._device}
        self._values, self._counts = torch.zeros(3, **zeros), torch.zeros(3, **zeros)  # type: ignore[call-overload]
        shape = (len(self._branches), 3)
        self._errors, self._labelled = torch.zeros(shape, **zeros), torch.zeros(shape, **zeros)  # type: ignore[call-overload]
        self._steps = self._structures = self._atoms = 0
        self._norm, self._begun = 0.0, time.perf_counter()


class Show(Protocol):
    """Told how far a run is."""

    def __call__(self, done: float, note: str, below: Callable[[], RenderableType] | None = None) -> None:
        """The share done, what stands beside the bar, and what makes the table under it, if there is one."""


@contextmanager
def progress_bar(title: str, *, shown: bool) -> Iterator[Show]:
    """A bar with a note and the time left.

    There is none where output is not a terminal: the log has what a file should have.
    """
    from rich import get_console

    if not shown or not get_console().is_terminal:
        yield lambda done, note, below=None: None
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    text = (TextColumn("{task.description}"), TextColumn("{task.fields[note]}"))
    bar = Progress(text[0], BarColumn(), TaskProgressColumn(), text[1], TimeRemainingColumn())
    task = bar.add_task(title, total=1.0, note="")
    started: list[float] = []
    with Live(bar, refresh_per_second=2) as live:

        def show(done: float, note: str, below: Callable[[], RenderableType] | None = None) -> None:
            if not started:  # what an earlier run did must not count for the rate of this one
                started.append(done)
                bar.reset(task, total=1.0)
            bar.update(task, completed=done, note=note)
            if below is not None:
                live.update(Group(bar, below()))

        yield show


@contextmanager
def telemetry(config: TelemetryConfig, launch: Launch) -> Iterator[Sampler | None]:
    """A sampler of devices on the first rank, whose node stands for the others in the log."""
    if launch.rank != 0:
        yield None
        return
    with Sampler(config.sample_seconds) as sampler:
        yield sampler
