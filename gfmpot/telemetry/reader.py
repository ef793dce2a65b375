"""What reads the state of a device, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

GIB = 2**30
"""Bytes."""


class AbsentError(Exception):
    """There is no such device here, or it cannot be read; says why."""


@dataclass(frozen=True)
class Sample:
    """One reading.

    Names of values end in their units. ``*_energy_j`` are amounts since the reading before, anything else is the state
    now; None where the device does not tell.
    """

    values: Mapping[str, float | None]
    facts: Mapping[str, str | float] = field(default_factory=dict)
    """What does not change, e.g. the name of a GPU."""

    gpu: tuple[str, int] | None = None
    """Vendor and index of the GPU that was read; None for the host."""


class Reader(Protocol):
    """Reads one kind of device. Making one raises :class:`AbsentError` where there is none."""

    name: str
    errors: tuple[type[Exception], ...]
    """What :meth:`read` raises when a device is lost."""

    def read(self) -> list[Sample]:
        """The state now."""

    def close(self) -> None:
        """Let go of the device."""


class Trapezoid:
    """Energy between readings of a power, by the trapezoidal rule."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, float]] = {}

    def energy(self, index: int, now: float, power: float | None) -> float | None:
        """J since the last reading of the device ``index``; None without two of them. ``now`` in s, ``power`` in W."""
        before = self._last.pop(index, None)
        if power is None:
            return None
        self._last[index] = now, power
        return (now - before[0]) * 0.5 * (power + before[1]) if before else None
