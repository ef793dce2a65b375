"""Screening: blocks of records in, tables out."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

from gfmpot import __version__
from gfmpot.graph import BatchBudget
from gfmpot.inference.predictor import Predictor
from gfmpot.inference.screening.assembling import Assembly
from gfmpot.inference.screening.claiming import Claims
from gfmpot.inference.screening.closing import Report, close
from gfmpot.inference.screening.evaluating import Evaluation, Relax
from gfmpot.inference.screening.folder import Folder
from gfmpot.inference.screening.formats import Defaults, ReadFile
from gfmpot.inference.screening.inputs import find
from gfmpot.inference.screening.locks import Locks
from gfmpot.inference.screening.plan import Plan, Request, agreed_plan, new_plan
from gfmpot.inference.screening.preparing import Piece, Preparation, Refused
from gfmpot.inference.screening.ranking import Top, ranked_by, write_top
from gfmpot.inference.screening.readers import Readers
from gfmpot.inference.screening.tables import Table, pyarrow
from gfmpot.inference.screening.where import Where
from gfmpot.models.checkpoint import fingerprint
from gfmpot.ranks.launch import Launch
from gfmpot.telemetry import Regions

BLOCK, RELAXED_BLOCK = 4096, 256
"""Records of a block: some seconds of work, or minutes, that a killed process loses."""

TOGETHER = 8
"""Batches of structures that are handed over to be relaxed together: some take many more steps than others."""


@dataclass(frozen=True)
class Relaxer:
    """What relaxes structures before they are evaluated."""

    relax: Relax
    settings: Mapping[str, Any]
    """In plain JSON types: a run goes on with the same ones only."""


@dataclass(frozen=True)
class Settings:
    """What is written of which structures."""

    forces: bool = False
    stress: bool = False
    where: str | None = None
    """A condition on the columns (:class:`gfmpot.inference.screening.where.Where`); None writes all."""

    block: int | None = None
    """Records of a block; by default :data:`BLOCK`, or :data:`RELAXED_BLOCK`."""

    charge: int = 0
    spin: int | None = None
    """Of structures that state none."""

    relaxer: Relaxer | None = None
    read_file: ReadFile | None = None
    """Reads CIF and other files that are read as a whole."""


@dataclass(frozen=True)
class Outcome:
    """How far a run is."""

    done: int
    blocks: int
    stopped: bool
    """Whether this process was asked to stop."""

    @property
    def complete(self) -> bool:
        """Whether every block is done."""
        return self.done == self.blocks


class Screening:
    """A run in a folder: begun, or gone on with, by any number of processes at any time.

    >>> screening = Screening(["candidates.extxyz"], "results", Predictor())
    >>> screening.work(workers=1).complete
    True

    Args:
        paths: files and folders.
        out: the folder.
        predictor: the model, in the precision, on the device and with the batches that are wanted.
        settings: what is written.
        top: which results to write once more in the end, as ``top.parquet`` and ``top.extxyz``.
        launch: the place of this process among those that start together; None is a single one.
        overwrite: begin anew in a folder that holds a run.

    Raises:
        ValueError: a condition or ranking that makes no sense, inputs none of which can be read, another run in the
            folder, or ``overwrite`` on several ranks.
        OSError: an input that does not exist, or a folder that cannot be written.
        ImportError: pyarrow, or what reads an input, is not installed.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        out: str | Path,
        predictor: Predictor,
        settings: Settings = Settings(),
        *,
        top: Top | None = None,
        launch: Launch | None = None,
        overwrite: bool = False,
    ) -> None:
        pyarrow()
        self._since = time.time()
        Defaults(settings.charge, settings.spin)  # whether they make sense
        self.folder, self.predictor, self.settings = Folder(out), predictor, settings
        self.launch = launch = launch or Launch()
        self._where = None if settings.where is None else Where(settings.where, self._table(()).types)
        self._top = top
        if top is not None:
            top.check(self._table(()).types)
        if overwrite and launch.world > 1:
            raise ValueError(f"several ranks cannot agree on when to empty a folder: remove {out} before they start")
        self.plan = self._begin(self._request(paths), overwrite)
        self.blocks = self.plan.blocks()
        self.table = self._table([item.path for item in self.plan.inputs])

    def _begin(self, request: Request, overwrite: bool) -> Plan:
        """The plan of the run; all that can be wrong with it is found before anything is written or removed."""
        self.folder.check(path for path, _ in find(map(Path, request.paths))[0])
        anew = new_plan(request) if overwrite and self.folder.run.exists() else None
        if anew is not None:
            self.folder.empty()
        self.folder.prepare()
        with Locks(self.folder.locks) as locks, locks.one_at_a_time():
            self.locked = locks.work
            """Whether processes notice each other."""
            plan = agreed_plan(self.folder, request, check_inputs=self.launch.is_main, anew=anew)
            self._was_finished = self._is_finished(plan)
        return plan

    def _is_finished(self, plan: Plan) -> bool:
        """Whether all is done and reported on; a report of what is not complete any more is removed."""
        if not self.folder.has_findings():
            return False
        if len(self.folder.done()) == len(plan.blocks()):
            return True
        self.folder.remove_findings()
        return False

    def work(
        self,
        *,
        workers: int = 0,
        stopping: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda structures, atoms: None,
    ) -> Outcome:
        """Do blocks until there is none left that another process does not do already.

        Args:
            workers: processes that read ahead; they are spawned, so a script needs ``if __name__ == "__main__":``.
            stopping: whether to stop; asked after each batch. Blocks that are not finished are done again next time.
            progress: is told of structures and atoms as they are done.

        Raises:
            ValueError, OSError: an input changed or is gone, or a disk is full.
            ChildProcessError: a reading process died.
        """
        with Locks(self.folder.locks) as locks, Readers(self._preparation(), workers) as readers:
            claims = Claims(self.blocks, self.folder, locks, self.launch.rank, self.launch.world)
            stopped = self._work(readers, claims, stopping, progress)
        return Outcome(len(self.folder.done()), len(self.blocks), stopped)

    def close(self) -> Report | None:
        """Check the complete run, report on it, and rank it; None if another process has reported on it.

        A report is there only if all blocks are done; on what was finished from the beginning, the first rank reports
        once more.

        Raises:
            ValueError: not all blocks are done.
        """
        with Locks(self.folder.locks) as locks, locks.one_at_a_time():
            is_told = self.folder.report.exists() and not (self._was_finished and self.launch.is_main)
            report = None if is_told else close(self.folder.path)
            if self._top is not None and ranked_by(self.folder) != self._top:
                write_top(self.folder, self.plan, self._top, self._defaults())
            return report

    def _work(
        self,
        readers: Readers,
        claims: Claims,
        stopping: Callable[[], bool],
        progress: Callable[[int, int], None],
    ) -> bool:
        """Whether it was stopped before the end."""
        begun: dict[int, Assembly] = {}
        evaluation, regions, pieces = self._evaluation(), Regions(), readers.pieces(claims, stopping)
        while not stopping():
            with regions("wait"):
                piece = next(pieces, None)
            if piece is None:
                return stopping()
            if not begun and not claims.released:
                regions.reset()  # until here, processes were started
            if piece.block not in begun:
                begun[piece.block] = Assembly(self.blocks[piece.block], self.table, self._where)
            with regions("evaluate"):
                atoms = self._add(piece, evaluation, begun[piece.block])
            progress(len(piece) + len(piece.refused), atoms)
            if piece.is_last:
                assembly = begun.pop(piece.block)
                assembly.spent({name: time.total for name, time in regions.interval().items()})
                with regions("write"):  # counts for the next block: this one's table is to say what it took
                    assembly.write(self.folder, self._whose())
                claims.release(piece.block)
        return True

    def _add(self, piece: Piece, evaluation: Evaluation, assembly: Assembly) -> int:
        """Number of atoms that were evaluated."""
        assembly.spent(piece.seconds)
        rows, refused, edges = self.table.no_rows(), list[Refused](), 0
        if piece.graph is not None:
            edges = piece.graph.n_edges
            rows, refused = evaluation(piece)
        assembly.add(rows, piece.refused + refused, edges)
        return int(rows.natoms.sum())

    def _whose(self) -> dict[str, Any]:
        process, path = f"{socket.gethostname()}:{os.getpid()}", getattr(self.predictor, "path", "eager")
        return {"rank": self.launch.rank, "process": process, "since": self._since, "path": path}

    def _evaluation(self) -> Evaluation:
        wanted = self.settings
        relax = None if wanted.relaxer is None else wanted.relaxer.relax
        return Evaluation(self.predictor, forces=wanted.forces, stress=wanted.stress, relax=relax)

    def _preparation(self) -> Preparation:
        predictor, budget = self.predictor, self.predictor.budget
        if self.settings.relaxer is not None:
            limits = {name: TOGETHER * value for name, value in dataclasses.asdict(budget).items()}
            budget = BatchBudget(**limits)
        return Preparation(
            inputs=self.plan.inputs,
            defaults=self._defaults(),
            budget=budget,
            cutoff=predictor.cutoff,
            max_neighbours=predictor.max_neighbours,
            supported=answering(predictor),
        )

    def _defaults(self) -> Defaults:
        return Defaults(self.settings.charge, self.settings.spin, self.settings.read_file)

    def _table(self, paths: Sequence[str]) -> Table:
        wanted, branches = self.settings, self.predictor.potential.branch_names
        return Table(tuple(paths), tuple(branches), wanted.forces, wanted.stress, wanted.relaxer is not None)

    def _request(self, paths: Sequence[str | Path]) -> Request:
        wanted, predictor = self.settings, self.predictor
        weights = predictor.weights
        options = {
            "gfmpot": __version__,
            "model": fingerprint(predictor.potential),
            "head": predictor.head,
            "weights": None if weights is None else weights.tolist(),
            "precision": predictor.precision,
            "skip": predictor.skip,
            "allow_unsupported": predictor.allow_unsupported,
            "charge": wanted.charge,
            "spin": wanted.spin,
            "forces": wanted.forces,
            "stress": wanted.stress,
            "where": wanted.where,
            "relax": None if wanted.relaxer is None else dict(wanted.relaxer.settings),
        }
        block = wanted.block or (BLOCK if wanted.relaxer is None else RELAXED_BLOCK)
        return Request(tuple(map(str, paths)), options, block, self._defaults())


def answering(predictor: Predictor) -> tuple[frozenset[int], ...]:
    """Atomic numbers that each branch which may answer supports."""
    branches = list(enumerate(predictor.potential.branches))
    if predictor.head is not None:
        branches = [(b, branch) for b, branch in branches if branch.name == predictor.head]
    if predictor.weights is not None:
        branches = [(b, branch) for b, branch in branches if predictor.weights[b] > 0]
    return tuple(frozenset(atomic_numbers[symbol] for symbol in branch.e0) for _, branch in branches)
