"""What a molecular dynamics run leaves on disk, an ASE trajectory and a table, and the way back into it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError

from gfmpot.calculators.md_config import MDConfig
from gfmpot.calculators.relaxation import snapshot
from gfmpot.config import to_mapping
from gfmpot.graph import neighbour_list

KEY = "md"
"""In ``info`` of every frame (step, state of the integrator) and in the description of the trajectory (settings)."""

MAY_CHANGE = ("steps", "interval")
"""Settings that may differ when a run goes on."""

_PLAIN = ["step", "time_ps", "epot_eV", "ekin_eV", "etot_eV", "temperature_K", "max_force_eV_per_A", "min_distance_A"]
_STRESS = ["pressure_GPa", *[f"stress_{axes}_GPa" for axes in ("xx", "yy", "zz", "yz", "xz", "xy")]]

Row = dict[str, float]


@dataclass(frozen=True)
class LastFrame:
    """Where a run goes on."""

    atoms: Atoms
    step: int
    state: Mapping[str, Any]


class MDRecord:
    """Writes frames and rows, side by side.

    A row is written before its frame, so that every frame of a killed run has its row; rows without a frame are dropped
    when the run goes on.

    Args:
        trajectory: ASE trajectory to write or, with ``after``, to append to.
        log: the table, as CSV.
        config: of the run, kept in a new trajectory.
        stress: whether the structure has one.
        after: append after this step.
    """

    def __init__(
        self, trajectory: Path, log: Path, config: MDConfig, *, stress: bool, after: int | None = None
    ) -> None:
        self.trajectory, self.log, self.config = trajectory, log, config
        self.stress, self.after = stress, after
        self.columns = [*_PLAIN, *(["conserved_eV"] if config.conserves else []), *(_STRESS if stress else [])]
        self.rows: list[Row] = []
        self._open = ExitStack()

    def __enter__(self) -> MDRecord:
        from ase.io.trajectory import TrajectoryWriter

        if self.after is not None and self.log.exists():
            self.rows = _rows_until(self.after, self.log, self.columns)
        self._frames = self._open.enter_context(TrajectoryWriter(self.trajectory, "w" if self.after is None else "a"))
        self._frames.set_description({KEY: to_mapping(self.config)})
        self._table = self._open.enter_context(_rewritten(self.log, self.columns, self.rows).open("a", buffering=1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def write(self, atoms: Atoms, step: int, conserved: float | None, state: Mapping[str, Any]) -> None:
        """Add one frame: ``atoms`` with its calculator, which has been evaluated."""
        self.write_row(atoms, step, conserved)
        frame = snapshot(atoms)
        frame.info[KEY] = {"step": step, **state}
        self._frames.write(frame)

    def write_row(self, atoms: Atoms, step: int, conserved: float | None) -> None:
        """Add one row."""
        row = self._row(atoms, step, conserved)
        self.rows.append(row)
        self._table.write(_line(row))

    def complete(self, atoms: Atoms, step: int, conserved: float | None) -> None:
        """Add the row of the frame that a run goes on from, if the table has lost it."""
        if not self.rows or self.rows[-1]["step"] < step:
            self.write_row(atoms, step, conserved)

    def _row(self, atoms: Atoms, step: int, conserved: float | None) -> Row:
        epot, ekin = float(atoms.get_potential_energy()), float(atoms.get_kinetic_energy())
        row = {"step": step, "time_ps": step * self.config.timestep * 1e-3, "epot_eV": epot, "ekin_eV": ekin}
        row |= {"etot_eV": epot + ekin, "temperature_K": float(atoms.get_temperature())}
        row["max_force_eV_per_A"] = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        row["min_distance_A"] = shortest_distance(atoms)
        if conserved is not None:
            row["conserved_eV"] = conserved
        if self.stress:
            stress = atoms.get_stress(include_ideal_gas=True) / units.GPa
            row |= dict(zip(_STRESS, [-stress[:3].mean(), *stress], strict=True))
        return row


def has_stress(atoms: Atoms) -> bool:
    """Whether the calculator gives a stress for this structure."""
    try:
        atoms.get_stress()
    except PropertyNotImplementedError:
        return False
    return True


def shortest_distance(atoms: Atoms) -> float:
    """Å between the two closest atoms, periodic images included; NaN if they are all farther than 10 Å apart."""
    for cutoff in (2.5, 5.0, 10.0):  # the first is nearly always enough, and cheap
        distances = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff).distances
        if len(distances):
            return float(distances.min())
    return float("nan")


def last_frame(trajectory: Path, config: MDConfig) -> LastFrame | None:
    """Where the run in ``trajectory`` goes on, or None if it has not written a frame yet.

    A last frame that was cut off is dropped from the file.

    Raises:
        ValueError: not a trajectory of such a run, or one made with other settings.
    """
    if not trajectory.exists() or trajectory.stat().st_size == 0:
        return None
    with _reader(trajectory) as reader:
        count = _readable(reader)
        if count == 0:
            return None
        last = reader[count - 1]
        if KEY not in (reader.description or {}) or KEY not in last.info:
            raise ValueError(
                f"{trajectory} was not written by gfmpot's dynamics, so there is no run to go on with; to start a new "
                "one from its last frame, give it as the structure and name another trajectory"
            )
        _check_settings(trajectory, reader.description[KEY], to_mapping(config))
        if count < len(reader):
            _keep(reader, count, trajectory)
    state = last.info.pop(KEY)
    return LastFrame(last, int(state["step"]), state)


def _reader(trajectory: Path) -> Any:
    from ase.io.trajectory import TrajectoryReader

    try:
        return TrajectoryReader(trajectory)
    except Exception as error:  # ASE raises nearly anything on a damaged file
        raise ValueError(
            f"{trajectory} is no ASE trajectory, or a damaged one ({error}); name another trajectory"
        ) from error


def _readable(reader: Any) -> int:
    """How many frames there are up to the last that can be read."""
    return next((count for count in range(len(reader), 0, -1) if _can_read(reader, count - 1)), 0)


def _can_read(reader: Any, index: int) -> bool:
    try:
        reader[index]
    except Exception:  # whatever a torn frame raises, the one before it is looked at next
        return False
    return True


def _check_settings(trajectory: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differing = [key for key in new if key not in MAY_CHANGE and old.get(key) != new[key]]
    changed = [f"{key} was {old.get(key)}, now {new[key]}" for key in differing]
    if changed:
        raise ValueError(
            f"{trajectory} was made with other settings ({'; '.join(changed)}); go on with the old ones, or start a "
            "new run from its last frame with another trajectory"
        )


def _keep(reader: Any, count: int, trajectory: Path) -> None:
    """Rewrite the trajectory with its first ``count`` frames."""
    from ase.io.trajectory import TrajectoryWriter

    partial = trajectory.with_name(trajectory.name + ".partial")
    with TrajectoryWriter(partial, "w") as writer:
        writer.set_description(reader.description)
        for index in range(count):
            writer.write(reader[index])
    partial.replace(trajectory)


def _rows_until(step: int, log: Path, columns: Sequence[str]) -> list[Row]:
    """The rows up to a step; a last one that was cut off is left out.

    Raises:
        ValueError: a table with other columns, or with damage before its last row.
    """
    lines = log.read_text(errors="replace").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):  # what is left of a number may be one, too
        lines.pop()
    found, *table = list(csv.reader(lines)) or [[]]
    if found and found != list(columns):
        raise ValueError(f"{log} is not the table of this run: it has the columns {found}, expected {list(columns)}")
    rows: list[Row] = []
    for line, cells in enumerate(table, start=2):
        try:
            rows.append(dict(zip(columns, map(float, cells), strict=True)))
        except ValueError as error:
            if line <= len(table):
                raise ValueError(
                    f"{log}, line {line}: expected {len(columns)} numbers, got {','.join(cells)!r}; mend or remove it, "
                    "or move the table away to go on without its earlier rows"
                ) from error
    return [row for row in rows if row["step"] <= step]


def _rewritten(log: Path, columns: Sequence[str], rows: Iterable[Row]) -> Path:
    partial = log.with_name(log.name + ".partial")
    partial.write_text(",".join(columns) + "\n" + "".join(map(_line, rows)))
    return partial.replace(log)


def _line(row: Row) -> str:
    decimals = {"step": 0, "time_ps": 6, "temperature_K": 2}
    return ",".join(f"{value:.{decimals.get(name, 8)}f}" for name, value in row.items()) + "\n"
