"""Relaxation of many structures at once: ASE's optimizers and cell filter, on tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor

from gfmpot.calculators.ase import GFMCalculator
from gfmpot.calculators.batch_coordinates import Coordinates, Start, free_coordinates
from gfmpot.calculators.batch_evaluation import BatchEvaluator, Evaluation, member
from gfmpot.calculators.batch_flight import InFlight, Job
from gfmpot.calculators.batch_optimizers import OPTIMIZERS
from gfmpot.calculators.relaxation import check_volume, periodic_strains
from gfmpot.graph import BatchBudget

if TYPE_CHECKING:
    from ase.io.trajectory import TrajectoryWriter


@dataclass(frozen=True)
class BatchRelaxed:
    """What became of one of many structures."""

    start: Atoms
    """As given, with its energy and forces; without them if it was refused."""

    atoms: Atoms
    """The end, with energy, forces and, where there is one, stress; the start if it failed."""

    converged: bool
    steps: int
    energies: list[float]
    """eV, of every step, the start and the end included."""

    error: str | None = None
    """Why it was refused or failed on the way."""

    @property
    def energy(self) -> float:
        """eV, of the end; NaN if it failed."""
        return float("nan") if self.error else self.energies[-1]


@dataclass(eq=False)
class _Relaxation(Job):
    moving: Start
    file: Path | None
    first: Atoms
    energies: list[float] = field(default_factory=list)
    writer: TrajectoryWriter | None = None

    @property
    def steps(self) -> int:
        return max(0, len(self.energies) - 1)


@dataclass(frozen=True)
class RelaxSettings:
    """How every structure is relaxed; see ``relax_many``."""

    fmax: float
    steps: int
    optimizer: str
    cell: Callable[[int], bool]
    """Whether the cell is relaxed, by place in the input."""

    file: Callable[[int], Path | None]
    """Trajectory to write, by place in the input."""


class Relaxations(InFlight[_Relaxation, BatchRelaxed]):
    """The structures that are being relaxed."""

    def __init__(self, calculator: GFMCalculator, settings: RelaxSettings, budget: BatchBudget) -> None:
        super().__init__(BatchEvaluator(calculator.predictor), budget)
        self._calculator, self._settings = calculator, settings
        device = calculator.predictor.device
        self._coordinates, self._optimizer = Coordinates(device), OPTIMIZERS[settings.optimizer](device)
        self._forces: Tensor | None = None  # (R, 3), until other structures join

    def begin(self, index: int, start: Atoms) -> _Relaxation:
        """See :class:`InFlight`."""
        strains = np.zeros((3, 3), dtype=bool)
        if self._settings.cell(index):
            check_volume(start)
            strains = voigt_6_to_full_3x3_stress(periodic_strains(start.pbc)).astype(bool)
        moving = Start(start.positions.copy(), start.cell.array.copy(), free_coordinates(start), strains)
        found = member(start, self._calculator.predictor, self._calculator.parameters)
        return _Relaxation(index, start, found, found.graph.n_edges, moving, self._settings.file(index), start)

    def join(self, jobs: Sequence[_Relaxation]) -> None:
        """See :class:`InFlight`."""
        self._coordinates.join([job.moving for job in jobs])
        self._optimizer.join(len(jobs), sum(job.n_atoms + 3 for job in jobs))
        self._forces = None

    def keep(self, kept: Sequence[int]) -> None:
        """See :class:`InFlight`."""
        rows = self._coordinates.layout.rows_of(kept)
        self._optimizer.keep(kept, rows)
        self._coordinates.keep(kept)
        if self._forces is not None:
            self._forces = self._forces[rows]

    def place(self) -> tuple[Tensor, Tensor]:
        """See :class:`InFlight`."""
        return self._coordinates.place()

    def take(self, evaluation: Evaluation) -> Mapping[int, BatchRelaxed]:
        """Record a step of each structure; those that have converged, or taken all their steps, are done."""
        self._forces = forces = self._coordinates.forces(evaluation.forces, evaluation.stress)
        largest = self._coordinates.layout.largest(torch.linalg.vector_norm(forces, dim=1))
        converged = (largest < self._settings.fmax).tolist()
        frames = self.evaluator.frames(self.place(), evaluation)
        done = {}
        for i, (job, energy) in enumerate(zip(self.jobs, evaluation.energy.tolist(), strict=True)):
            if not job.energies:
                job.first = frames(i, job.start)
            job.energies.append(energy)
            if job.file is not None:
                self._write(job, frames(i, job.start))
            if converged[i] or job.steps >= self._settings.steps:
                done[i] = BatchRelaxed(job.first, frames(i, job.start), converged[i], job.steps, job.energies)
        return done

    def advance(self) -> None:
        """See :class:`InFlight`."""
        assert self._forces is not None
        coordinates = self._coordinates
        coordinates.move(self._optimizer.step(coordinates.rows, self._forces, coordinates.layout))

    def failed(self, index: int, start: Atoms, reason: str, job: _Relaxation | None = None) -> BatchRelaxed:
        """See :class:`InFlight`."""
        if job is None or not job.energies:
            return BatchRelaxed(start, start, False, 0, [], reason)
        return BatchRelaxed(job.first, job.first, False, job.steps, job.energies, f"after step {job.steps}: {reason}")

    def close(self, job: _Relaxation) -> None:
        """See :class:`InFlight`."""
        if job.writer is not None:
            job.writer.close()

    def _write(self, job: _Relaxation, frame: Atoms) -> None:
        from ase.io.trajectory import TrajectoryWriter

        if job.writer is None:
            job.writer = TrajectoryWriter(job.file, "w")
        job.writer.write(frame)
