"""What a molecular dynamics run is set to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gfmpot.config import did_you_mean

Ensemble = Literal["nve", "nvt-langevin", "nvt-nose-hoover", "npt"]


@dataclass(frozen=True)
class MDConfig:
    """What to simulate.

    Raises:
        ValueError: a setting that makes no sense; the message says which and what is expected.
    """

    ensemble: Ensemble = "nvt-langevin"
    """``nve`` (velocity Verlet), ``nvt-langevin``, ``nvt-nose-hoover`` (chain of three), or ``npt``
    (Martyna-Tobias-Klein; the cell keeps its shape and must be periodic in three directions)."""

    temperature: float = 300.0
    """K; of the thermostat, and of the initial velocities if the structure brings none."""

    pressure: float = 0.0
    """GPa, with ``npt``."""

    timestep: float = 1.0
    """fs."""

    steps: int = 1000
    """In all, those before a resumption included."""

    interval: int = 10
    """Steps between frames; the first and the last state are always kept."""

    friction: float = 1.0
    """1/ps, of Langevin's thermostat."""

    ttime: float = 100.0
    """fs, characteristic time of the Nosé-Hoover thermostat."""

    ptime: float = 1000.0
    """fs, characteristic time of the barostat."""

    seed: int = 0
    """Of the initial velocities and of Langevin's noise."""

    def __post_init__(self) -> None:
        if self.ensemble not in get_args(Ensemble):
            known = get_args(Ensemble)
            hint = did_you_mean(str(self.ensemble), known)
            raise ValueError(f"no ensemble {self.ensemble!r}{hint} There are {', '.join(known)}")
        for name in ("timestep", "interval", "friction", "ttime", "ptime"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("steps", "temperature", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.ensemble != "nve" and self.temperature == 0:
            raise ValueError(f"{self.ensemble} needs a temperature above 0 K; use nve, or relax instead")
        if self.ensemble != "npt" and self.pressure != 0:
            raise ValueError(f"only npt has a pressure to set, got {self.pressure:g} GPa with {self.ensemble}")

    @property
    def conserves(self) -> bool:
        """Whether there is a conserved quantity; Langevin's noise brings and takes energy."""
        return self.ensemble != "nvt-langevin"
