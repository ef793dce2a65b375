"""Molecular dynamics of many structures at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from torch import Tensor

from gfmpot.calculators.ase import GFMCalculator
from gfmpot.calculators.batch_coordinates import free_coordinates
from gfmpot.calculators.batch_evaluation import BatchEvaluator, Evaluation, Frames, member
from gfmpot.calculators.batch_flight import InFlight, Job
from gfmpot.calculators.batch_integrators import INTEGRATORS, Particles
from gfmpot.calculators.dynamics import (
    EXPLODED,
    NOT_FINITE,
    MDSummary,
    check_fit,
    check_same_potential,
    draw_velocities,
    explosion,
    last_state,
    refuse_existing,
    summarise,
)
from gfmpot.calculators.md_config import MDConfig
from gfmpot.calculators.md_record import KEY, LastFrame, MDRecord, has_stress
from gfmpot.graph import BatchBudget


@dataclass(frozen=True)
class BatchSimulated:
    """What became of one of many simulations."""

    trajectory: Path
    log: Path
    summary: MDSummary | None
    """None if it was refused or failed; ``wall_time`` is that in flight, together with others."""

    error: str | None = None
    """Why it was refused or failed on the way."""


@dataclass(eq=False)
class _Simulation(Job):
    config: MDConfig
    trajectory: Path
    log: Path
    moving: Atoms
    rng: np.random.Generator
    last: LastFrame | None
    step: int
    limit: float
    """K."""

    degrees_of_freedom: int
    began: float = 0.0
    record: MDRecord | None = None

    def kelvin(self, kinetic: float) -> float:
        """Temperature as ASE counts it, from eV."""
        return float(2.0 * kinetic / (units.kB * max(1, self.degrees_of_freedom)))


class Simulations(InFlight[_Simulation, BatchSimulated]):
    """The structures that are being simulated.

    Args:
        calculator: what evaluates them.
        config: of all runs; the seed of each is that plus its place in the input.
        files: trajectory and table of a run, by its place in the input.
        resume: go on with earlier runs.
        budget: the most that is evaluated at once.
    """

    def __init__(
        self,
        calculator: GFMCalculator,
        config: MDConfig,
        files: Callable[[int], tuple[Path, Path]],
        resume: bool,
        budget: BatchBudget,
    ) -> None:
        super().__init__(BatchEvaluator(calculator.predictor), budget)
        self._calculator, self._config, self._files, self._resume = calculator, config, files, resume
        self._particles, self._integrator = Particles(calculator.predictor.device), INTEGRATORS[config.ensemble](config)
        self._forces: Tensor | None = None  # (N, 3), until other structures join

    def begin(self, index: int, start: Atoms) -> _Simulation:
        """See :class:`InFlight`."""
        config, (trajectory, log) = replace(self._config, seed=self._config.seed + index), self._files(index)
        check_fit(start, config)
        free_coordinates(start)  # which other constraints do not pass
        if not self._resume:
            refuse_existing(trajectory, log)
        last = last_state(start, config, trajectory) if self._resume else None
        moving, rng = (start if last is None else last.atoms).copy(), np.random.default_rng(config.seed)
        moving.info.pop(KEY, None)
        if last is not None:
            rng.bit_generator.state = last.state["rng"]
        elif not start.get_momenta().any():
            draw_velocities(moving, config.temperature, rng)
        found = member(moving, self._calculator.predictor, self._calculator.parameters)
        return _Simulation(
            index=index,
            start=start,
            member=found,
            edges=found.graph.n_edges,
            config=config,
            trajectory=trajectory,
            log=log,
            moving=moving,
            rng=rng,
            last=last,
            step=0 if last is None else last.step,
            limit=max(EXPLODED, 20 * max(config.temperature, moving.get_temperature())),
            degrees_of_freedom=int(moving.get_number_of_degrees_of_freedom()),
        )

    def join(self, jobs: Sequence[_Simulation]) -> None:
        """See :class:`InFlight`."""
        self._particles.join([job.moving for job in jobs])
        self._forces = None

    def keep(self, kept: Sequence[int]) -> None:
        """See :class:`InFlight`."""
        atoms = self._particles.keep(kept)
        if self._forces is not None:
            self._forces = self._forces[atoms]

    def place(self) -> tuple[Tensor, Tensor]:
        """See :class:`InFlight`."""
        return self._particles.positions, self._particles.cell

    def take(self, evaluation: Evaluation) -> Mapping[int, BatchSimulated]:
        """Complete a step, write the frames that are due, and find out which runs have come to an end."""
        particles = self._particles
        self._forces = evaluation.forces
        self._integrator.second(particles, evaluation.forces)
        fresh = particles.fresh.tolist()
        particles.fresh[:] = False
        heat, frames = particles.kinetic_energy().tolist(), self.evaluator.frames(self.place(), evaluation)
        done = {}
        for i, job in enumerate(self.jobs):
            job.step += not fresh[i]
            result = self._begun_with(i, job, frames) if fresh[i] else self._stepped(i, job, heat[i], frames)
            if result is not None:
                done[i] = result
        return done

    def advance(self) -> None:
        """See :class:`InFlight`."""
        assert self._forces is not None
        self._integrator.first(self._particles, self._forces, [job.rng for job in self.jobs])

    def failed(self, index: int, start: Atoms, reason: str, job: _Simulation | None = None) -> BatchSimulated:
        """See :class:`InFlight`."""
        trajectory, log = self._files(index)
        if job is not None and job.record is not None:
            reason = explosion(job.step, reason, job.record)
        return BatchSimulated(trajectory, log, None, reason)

    def close(self, job: _Simulation) -> None:
        """See :class:`InFlight`."""
        if job.record is not None:
            job.record.__exit__(None, None, None)

    def _begun_with(self, i: int, job: _Simulation, frames: Frames) -> BatchSimulated | None:
        """Open the files of a run and write where it begins."""
        job.began, frame = time.perf_counter(), self._frame(i, job, frames)
        after = None if job.last is None else job.step
        record = MDRecord(job.trajectory, job.log, job.config, stress=has_stress(frame), after=after)
        try:
            if job.last is not None:
                check_same_potential(frame.get_potential_energy(), job.last.atoms)
            job.record = record.__enter__()
        except ValueError as error:
            return self.failed(job.index, job.start, str(error))
        if job.last is None:
            record.write(frame, job.step, self._conserved(frame), _state(job))
        else:
            record.complete(frame, job.step, self._conserved(frame))
        return self._ended(job, frame) if job.step >= job.config.steps else None

    def _stepped(self, i: int, job: _Simulation, kinetic: float, frames: Frames) -> BatchSimulated | None:
        """Look at a step that has been completed, and write it if it is due."""
        assert job.record is not None
        kelvin = job.kelvin(kinetic)
        if not kelvin <= job.limit:
            hot = f"the temperature reached {kelvin:.3g} K" if np.isfinite(kelvin) else NOT_FINITE
            return self.failed(job.index, job.start, hot, job)
        if job.step % job.config.interval and job.step < job.config.steps:
            return None
        frame = self._frame(i, job, frames)
        job.record.write(frame, job.step, self._conserved(frame), _state(job))
        return self._ended(job, frame) if job.step >= job.config.steps else None

    def _frame(self, i: int, job: _Simulation, frames: Frames) -> Atoms:
        frame = frames(i, job.moving)
        first = self.evaluator.neighbours.first_atom
        momenta = self._particles.momenta[first[i] : first[i + 1]].cpu().numpy()
        frame.set_momenta(momenta, apply_constraint=False)
        return frame

    def _conserved(self, frame: Atoms) -> float | None:
        return float(frame.get_total_energy()) if self._config.conserves else None

    def _ended(self, job: _Simulation, frame: Atoms) -> BatchSimulated:
        assert job.record is not None
        steps_run = job.step - (0 if job.last is None else job.last.step)
        wall_time = time.perf_counter() - job.began
        summary = summarise(frame, job.config, job.step, job.record.rows, steps_run, wall_time)
        return BatchSimulated(job.trajectory, job.log, summary)


def _state(job: _Simulation) -> dict[str, Any]:
    """As ``run_md`` writes it, which can go on with the run."""
    return {"rng": job.rng.bit_generator.state, "integrator": {}}
