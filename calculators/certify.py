"""The dynamics of a certificate: how well a short NVE run keeps its energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ase import Atoms

from gfmpot.calculators.dynamics import DynamicsError, MDConfig, run_md
from gfmpot.inference.certificate import Drift
from gfmpot.testing.compare import NotApplicable

ROWS = 100
"""Values of the total energy to which a line is fitted."""


@dataclass(frozen=True)
class ShortDynamics:
    """NVE from the structure as it is, with its velocities or with random ones.

    Args:
        calculator: from a precision to a calculator in it.
        steps: of 1 fs, or of 0.5 fs where there is hydrogen.
        temperature: K, of random velocities.
    """

    calculator: Callable[[str], Any]
    steps: int
    temperature: float

    def __post_init__(self) -> None:
        if self.steps < 3 or not self.temperature >= 0:
            raise ValueError(
                f"dynamics need at least 3 steps and a temperature that is not negative, got {self.steps} steps and "
                f"{self.temperature} K; 0 steps leave them out"
            )

    @property
    def settings(self) -> dict[str, float]:
        """What the runs depend on."""
        return {"steps": self.steps, "temperature": self.temperature}

    def __call__(self, precision: str, atoms: Atoms) -> Drift:
        """Run in a precision.

        Raises:
            NotApplicable: a lone atom, or a run that exploded.
        """
        if len(atoms) == 1:
            raise NotApplicable("no dynamics: one atom has nothing to vibrate against")
        moving, timestep = atoms.copy(), 0.5 if 1 in atoms.numbers else 1.0
        moving.calc = self.calculator(precision)
        interval = max(1, self.steps // ROWS)
        config = MDConfig("nve", self.temperature, timestep=timestep, steps=self.steps, interval=interval)
        with TemporaryDirectory() as folder:
            log = Path(folder, "nve.csv")
            try:
                summary = run_md(moving, config, trajectory=Path(folder, "nve.traj"), log=log)
            except DynamicsError as error:  # what follows names files that nobody keeps
                raise NotApplicable(f"no drift of the energy: {str(error).split('. ')[0]}") from error
            rows = np.genfromtxt(log, delimiter=",", names=True)
        slope, scatter = _line(rows["time_ps"], 1e3 * rows["conserved_eV"] / len(atoms))
        return Drift(slope, scatter, self.steps, timestep, summary.temperature_mean)


def named(structures: Atoms | Sequence[Atoms] | Mapping[str, Atoms]) -> list[tuple[str, Atoms]]:
    """Structures with their names, or else their formulas and, if there are several, their places in the list."""
    if isinstance(structures, Mapping):
        return list(structures.items())
    if isinstance(structures, Atoms):
        return [(structures.get_chemical_formula(), structures)]
    return [(f"{i} {atoms.get_chemical_formula()}", atoms) for i, atoms in enumerate(structures)]


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope of a straight line, and root mean square distance from it."""
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(np.sqrt(np.mean((y - slope * x - offset) ** 2)))
