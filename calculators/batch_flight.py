"""Structures that are worked on together: admitted within a budget of edges, dismissed as soon as they are done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ase import Atoms
from torch import Tensor

from gfmpot.calculators.batch_evaluation import BatchEvaluator, Evaluation, Member
from gfmpot.graph import BatchBudget, BatchError


@dataclass(eq=False)
class Job:
    """What is known of a structure while it is in flight."""

    index: int
    """Its place in the input."""

    start: Atoms
    member: Member
    edges: int

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.member.graph.n_atoms


J = TypeVar("J", bound=Job)
R = TypeVar("R")


MAX_OPEN = 256
"""Structures in flight while each has its files open: operating systems allow a process about a thousand."""


class InFlight(ABC, Generic[J, R]):
    """Takes structures from a queue, evaluates them together turn by turn, and hands over each when it is done.

    A structure that leaves makes room for the next ones. What becomes of a structure does not depend on which others
    are in flight. One that fails is handed over with the reason, and the others go on.
    """

    def __init__(self, evaluator: BatchEvaluator, budget: BatchBudget) -> None:
        self.evaluator, self.budget = evaluator, budget
        self.jobs: list[J] = []
        self.on_turn: Callable[[int], None] | None = None  # called with the number of structures just evaluated
        self._held: J | None = None
        self._changed = False

    @abstractmethod
    def begin(self, index: int, start: Atoms) -> J:
        """Check a structure.

        Raises:
            ValueError: it cannot be worked on.
        """

    @abstractmethod
    def join(self, jobs: Sequence[J]) -> None:
        """Add the state of new jobs behind that of the others."""

    @abstractmethod
    def keep(self, kept: Sequence[int]) -> None:
        """Forget the state of all other jobs."""

    @abstractmethod
    def place(self) -> tuple[Tensor, Tensor]:
        """Where to evaluate: positions (N, 3) and cells (G, 3, 3), in Å."""

    @abstractmethod
    def take(self, evaluation: Evaluation) -> Mapping[int, R]:
        """Use an evaluation; returns what is done, by position in ``jobs``."""

    @abstractmethod
    def advance(self) -> None:
        """Move all structures, with what :meth:`take` was given."""

    @abstractmethod
    def failed(self, index: int, start: Atoms, reason: str, job: J | None = None) -> R:
        """The result of a structure that was refused or, if it has a job, that failed on the way."""

    def close(self, job: J) -> None:
        """Close what a job has open; called once, however it ends."""

    def run(self, starts: Iterable[Atoms]) -> Iterator[tuple[int, R]]:
        """Results with their place in the input, in the order in which they are done; ``starts`` is read as needed."""
        waiting = enumerate(starts)
        try:
            while True:
                yield from self._admit(waiting)
                if not self.jobs:
                    return
                yield from self._turn()
        finally:  # also if nobody asks for more
            for job in self.jobs:
                self.close(job)

    def _admit(self, waiting: Iterator[tuple[int, Atoms]]) -> Iterator[tuple[int, R]]:
        joined: list[J] = []
        atoms, edges = sum(job.n_atoms for job in self.jobs), sum(job.edges for job in self.jobs)
        for entry in self._begun(waiting):
            if not isinstance(entry, Job):
                yield entry
                continue
            atoms, edges, structures = atoms + entry.n_atoms, edges + entry.edges, len(self.jobs) + len(joined) + 1
            if structures > 1 and not self.budget.fits(structures, atoms, edges):  # a large one flies alone
                self._held = entry
                break
            joined.append(entry)
        if joined:
            self.jobs += joined
            self.join(joined)
            self._changed = True

    def _begun(self, waiting: Iterator[tuple[int, Atoms]]) -> Iterator[J | tuple[int, R]]:
        if self._held is not None:
            held, self._held = self._held, None
            yield held
        for index, start in waiting:
            try:
                yield self.begin(index, start)
            except ValueError as error:
                yield index, self.failed(index, start, str(error))

    def _turn(self) -> Iterator[tuple[int, R]]:
        if self._changed:
            self.evaluator.arrange([job.member for job in self.jobs])
            self._changed = False
        try:
            evaluation = self.evaluator(*self.place())
        except BatchError as error:  # what is left is evaluated in the next turn
            jobs = {i: self.jobs[i] for i in error.reasons}
            failed = {i: self.failed(job.index, job.start, error.reasons[i], job) for i, job in jobs.items()}
            yield from self._dismiss(failed)
            return
        if self.on_turn is not None:
            self.on_turn(len(self.jobs))
        for job, edges in zip(self.jobs, evaluation.edges.tolist(), strict=True):
            job.edges = edges
        yield from self._dismiss(self.take(evaluation))
        if self.jobs:
            self.advance()

    def _dismiss(self, done: Mapping[int, R]) -> Iterator[tuple[int, R]]:
        if not done:
            return
        leaving = [(self.jobs[i].index, result) for i, result in done.items()]
        for i in done:
            self.close(self.jobs[i])
        kept = [i for i in range(len(self.jobs)) if i not in done]
        self.jobs, self._changed = [self.jobs[i] for i in kept], True
        self.keep(kept)
        yield from leaving
