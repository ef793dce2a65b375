"""Molecular dynamics with ASE's integrators: resumable, recorded, and stopped when it explodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.velocitydistribution import Stationary, ZeroRotation

from gfmpot.calculators.md_config import Ensemble, MDConfig
from gfmpot.calculators.md_record import KEY, LastFrame, MDRecord, Row, has_stress, last_frame
from gfmpot.graph import InvalidStructureError

__all__ = ["DynamicsError", "Ensemble", "MDConfig", "MDSummary", "draw_velocities", "run_md"]

EXPLODED = 1e4
"""K: a run that gets hotter than this, and than 20 times what it is set to, has left physics."""

NOT_FINITE = "positions, velocities or cell are not finite"

SAME_ENERGY = 1e-4
"""eV/atom: a run does not go on with a potential that gives its last frame another energy."""

_INTERNALS: dict[str, tuple[str, ...]] = {
    "nve": (),
    "nvt-langevin": (),
    "nvt-nose-hoover": ("_thermostat._eta", "_thermostat._p_eta"),
    "npt": ("_thermostat._eta", "_thermostat._p_eta", "_barostat._xi", "_barostat._p_xi", "_p_eps"),
}
"""Variables of ASE's integrators beside positions, momenta and cell. ASE has no public way to restore them, and without
them a run that goes on would take another path."""


class DynamicsError(RuntimeError):
    """A run that exploded; the message names the step, and the trajectory is kept."""


@dataclass(frozen=True)
class MDSummary:
    """How a run went; statistics are over all rows of its table, those before a resumption included."""

    atoms: Atoms
    """The final state, with energy and forces."""

    steps: int
    """In all."""

    steps_run: int
    """In this call."""

    wall_time: float
    """s, of this call."""

    ns_per_day: float
    """Simulated time per wall time; NaN if there was nothing left to run."""

    temperature_mean: float
    temperature_std: float
    """K, with 3N degrees of freedom, as ASE counts them."""

    drift: float | None
    """meV/atom/ps: slope of the conserved quantity; None with Langevin, which has none, and below three rows."""

    max_force: float
    """eV/Å, the largest in any frame."""

    min_distance: float
    """Å, the shortest in any frame."""


def run_md(
    atoms: Atoms,
    config: MDConfig,
    *,
    trajectory: str | Path,
    log: str | Path,
    resume: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> MDSummary:
    """Simulate a copy of ``atoms`` with the calculator attached to it.

    The start keeps its velocities; if it has none, they are drawn from a Maxwell-Boltzmann distribution, without
    momentum of the whole and, for molecules, without rotation of the whole.

    A run can be killed at any time. With ``resume`` it goes on from the last whole frame with the state of thermostat,
    barostat and noise, so that it takes the path that it would have taken (up to rounding in the network's precision);
    ``steps`` may have grown and ``interval`` may change, but no other setting, nor the potential. If there is no frame
    yet, it begins; a ``log`` that is missing begins at the frame that the run goes on from.

    Args:
        atoms: start; constraints are allowed with ``nve`` and ``nvt-langevin``.
        config: what to simulate.
        trajectory: ASE trajectory: positions, cell, momenta, energy, forces and stress of every frame.
        log: CSV table of time, energies, temperature, the conserved quantity, stress (with the ideal-gas part), largest
            force and shortest distance.
        resume: go on with an earlier run.
        on_step: called with the number of the step after each.

    Raises:
        ValueError: no calculator, a structure or setting that does not fit the ensemble or the run to go on with, or a
            trajectory that exists (without ``resume``).
        DynamicsError: the run exploded.
    """
    trajectory, log = Path(trajectory), Path(log)
    if atoms.calc is None:
        raise ValueError("attach a calculator first: atoms.calc = GFMCalculator()")
    check_fit(atoms, config)
    if not resume:
        refuse_existing(trajectory, log)
    last = last_state(atoms, config, trajectory) if resume else None
    run = _Run(atoms, config, last)
    record = MDRecord(trajectory, log, config, stress=has_stress(run.atoms), after=run.step if last else None)
    began, first = time.perf_counter(), run.step
    with run.dynamics, record:
        if last is None:
            run.write(record)
        else:
            record.complete(run.atoms, run.step, run.conserved())
        while run.step < config.steps:
            run.advance(record)
            if on_step is not None:
                on_step(run.step)
    return summarise(run.atoms, config, run.step, record.rows, run.step - first, time.perf_counter() - began)


class _Run:
    """The moving atoms, the integrator and the random numbers of one run."""

    def __init__(self, start: Atoms, config: MDConfig, last: LastFrame | None) -> None:
        self.config, self.rng = config, np.random.default_rng(config.seed)
        self.atoms = (start if last is None else last.atoms).copy()
        self.atoms.info.pop(KEY, None)  # of another run, whose frame is the start of this one
        self.atoms.calc = start.calc
        energy = self.atoms.get_potential_energy()  # what the calculator refuses is refused before the first step
        if last is None and not start.get_momenta().any():
            draw_velocities(self.atoms, config.temperature, self.rng)
        if last is not None:
            check_same_potential(energy, last.atoms)
        self.limit = max(EXPLODED, 20 * max(config.temperature, self.atoms.get_temperature()))
        self.dynamics = _integrator(self.atoms, config, self.rng)
        self.step = 0 if last is None else last.step
        if last is not None:
            self._restore(last.state)

    def advance(self, record: MDRecord) -> None:
        """One step, and its frame if it is due."""
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found below
                self.dynamics.step()
        except Exception as error:  # calculators differ in what they make of nonsense
            if not isinstance(error, InvalidStructureError) and not self._lost():
                raise
            raise self._exploded(NOT_FINITE if self._lost() else str(error), record) from error
        self.step += 1
        if reason := self._unphysical():
            raise self._exploded(reason, record)
        if self.step % self.config.interval == 0 or self.step == self.config.steps:
            self.write(record)

    def write(self, record: MDRecord) -> None:
        """A frame and a row."""
        record.write(self.atoms, self.step, self.conserved(), self._state())

    def conserved(self) -> float | None:
        """eV; None with Langevin, whose noise brings and takes energy."""
        if not self.config.conserves:
            return None
        total = self.dynamics.get_conserved_energy if self.config.ensemble != "nve" else self.atoms.get_total_energy
        return float(total())

    def _state(self) -> dict[str, Any]:
        """What positions, momenta and cell do not tell, as plain types."""
        inner = {name: np.asarray(attrgetter(name)(self.dynamics)).tolist() for name in self._internals}
        return {"rng": self.rng.bit_generator.state, "integrator": inner}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        for name in self._internals:
            owner, _, attribute = name.rpartition(".")
            value = state["integrator"][name]
            target = attrgetter(owner)(self.dynamics) if owner else self.dynamics
            setattr(target, attribute, np.array(value) if isinstance(value, list) else value)

    @property
    def _internals(self) -> tuple[str, ...]:
        return _INTERNALS[self.config.ensemble]

    def _unphysical(self) -> str | None:
        if self._lost():
            return NOT_FINITE
        if not (np.isfinite(self.atoms.get_forces()).all() and np.isfinite(self.atoms.get_potential_energy())):
            return "energy or forces are not finite"
        kelvin = self.atoms.get_temperature()
        return None if kelvin <= self.limit else f"the temperature reached {kelvin:.3g} K"

    def _lost(self) -> bool:
        state = self.atoms.positions, self.atoms.get_momenta(), self.atoms.cell.array
        return not all(np.isfinite(part).all() for part in state)

    def _exploded(self, reason: str, record: MDRecord) -> DynamicsError:
        return DynamicsError(explosion(self.step, reason, record))


def refuse_existing(*files: Path) -> None:
    """Refuse to write over an earlier run.

    Raises:
        ValueError: one of the files exists.
    """
    if there := next((path for path in files if path.exists()), None):
        raise ValueError(f"{there} exists; go on with that run (resume), or name another file")


def explosion(step: int, reason: str, record: MDRecord) -> str:
    """What to tell of a run that came to an end after a step."""
    config, kept = record.config, int(record.rows[-1]["step"]) if record.rows else step
    softer = f", a ptime above {config.ptime:g} fs" if config.ensemble == "npt" else ""
    return (
        f"the run exploded after step {step} ({step * config.timestep * 1e-3:g} ps): {reason}. {record.trajectory} "
        f"keeps the frames up to step {kept}. Try a time step below {config.timestep:g} fs{softer}, relax the start "
        "first, or check that the model knows this chemistry"
    )


def last_state(atoms: Atoms, config: MDConfig, trajectory: Path) -> LastFrame | None:
    """Where the run of ``atoms`` in a trajectory goes on, None if it has not begun; errors as ``last_frame``."""
    last = last_frame(trajectory, config)
    if last is not None and not np.array_equal(last.atoms.numbers, atoms.numbers):
        raise ValueError(
            f"{trajectory} holds {last.atoms.get_chemical_formula()}, but the structure to go on with is "
            f"{atoms.get_chemical_formula()}, or its atoms are in another order"
        )
    return last


def check_same_potential(energy: float, frame: Atoms) -> None:
    """The energy of the last frame tells another model, head, precision, charge or spin, of any calculator.

    Raises:
        ValueError: ``energy`` (eV) of the same geometry differs.
    """
    written = float(frame.get_potential_energy())
    if abs(energy - written) > SAME_ENERGY * len(frame):
        raise ValueError(
            f"the last frame has {written:.6f} eV in the trajectory and {energy:.6f} eV with this calculator: go on "
            "with the model, head, precision, charge and spin that the run was made with, or start a new one"
        )


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Momenta of a Maxwell-Boltzmann distribution, in place, without motion of the whole.

    The modes that remain have ``temperature`` (K) on average; as ASE counts 3N degrees of freedom, ``get_temperature``
    of a small molecule is lower. Constraints anchor a structure, so its motion as a whole is left alone then.
    """
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread[:, None])
    if len(atoms) == 1 or atoms.constraints:
        return
    Stationary(atoms, preserve_temperature=False)
    if not atoms.pbc.any():
        with np.errstate(divide="ignore", invalid="ignore"):  # a linear molecule has a moment of inertia of zero
            ZeroRotation(atoms, preserve_temperature=False)


def check_fit(atoms: Atoms, config: MDConfig) -> None:
    """Refuse a structure that the ensemble is not for.

    Raises:
        ValueError: npt without a cell, or constraints beside a thermostat that counts on all coordinates.
    """
    if config.ensemble == "npt" and not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise ValueError(f"npt needs a cell that is periodic in three directions, got pbc={atoms.pbc.tolist()}")
    if config.ensemble in ("nvt-nose-hoover", "npt") and atoms.constraints:
        raise ValueError(
            f"{config.ensemble} would heat atoms beside constraints to the wrong temperature; use nvt-langevin or nve, "
            "or remove the constraints (atoms.set_constraint())"
        )


def _integrator(atoms: Atoms, config: MDConfig, rng: np.random.Generator) -> Any:
    from ase.md.langevin import Langevin
    from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT
    from ase.md.verlet import VelocityVerlet

    timestep, kelvin = config.timestep * units.fs, config.temperature
    if config.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    if config.ensemble == "nvt-langevin":
        friction = config.friction / (1000 * units.fs)
        return Langevin(atoms, timestep, temperature_K=kelvin, friction=friction, fixcm=False, rng=rng)
    if config.ensemble == "nvt-nose-hoover":
        return NoseHooverChainNVT(atoms, timestep, temperature_K=kelvin, tdamp=config.ttime * units.fs)
    damping = {"tdamp": config.ttime * units.fs, "pdamp": config.ptime * units.fs}
    return IsotropicMTKNPT(atoms, timestep, temperature_K=kelvin, pressure_au=config.pressure * units.GPa, **damping)


def summarise(
    atoms: Atoms, config: MDConfig, step: int, rows: list[Row], steps_run: int, wall_time: float
) -> MDSummary:
    """The summary of a run that is at ``step`` after ``steps_run`` steps in ``wall_time`` s, and has these rows."""
    kelvin = np.array([row["temperature_K"] for row in rows])
    simulated = steps_run * config.timestep * 1e-6  # ns
    return MDSummary(
        atoms=atoms,
        steps=step,
        steps_run=steps_run,
        wall_time=wall_time,
        ns_per_day=simulated / wall_time * 86400 if steps_run else float("nan"),
        temperature_mean=float(kelvin.mean()),
        temperature_std=float(kelvin.std()),
        drift=_drift(rows, len(atoms)),
        max_force=max(row["max_force_eV_per_A"] for row in rows),
        min_distance=min((d for row in rows if np.isfinite(d := row["min_distance_A"])), default=float("nan")),
    )


def _drift(rows: list[Row], natoms: int) -> float | None:
    if len(rows) < 3 or "conserved_eV" not in rows[0]:
        return None
    slope = np.polyfit([row["time_ps"] for row in rows], [row["conserved_eV"] for row in rows], 1)[0]
    return float(1e3 * slope / natoms)
