"""Crystals at rest, and what it costs to squeeze them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STIFFENING = 4.5
"""B', by which a bulk modulus grows with pressure; most solids have 3.5 to 6."""


@dataclass(frozen=True)
class Rest:
    """A crystal that nothing presses on."""

    scale: float
    """Of its lengths, as scales were given."""

    energy: float
    """eV/atom."""

    stiffness: float
    """eV/atom, second derivative of the energy by the relative length: nine times bulk modulus times volume."""

    def squeezed(self, lengths: Floats) -> Floats:
        """Energies (eV/atom) at lengths relative to those at rest."""
        return self.energy + squeezing(lengths, self.stiffness, STIFFENING)


def squeezing(lengths: Floats, stiffness: float, stiffening: float) -> Floats:
    """What it costs to get from rest to relative lengths, by the universal equation of state.

    Args:
        lengths: of those at rest.
        stiffness: nine times bulk modulus times volume, in the unit of the answer.
        stiffening: derivative of the bulk modulus by pressure.
    """
    eta = 1.5 * (stiffening - 1)
    short = eta * (1 - lengths)
    return stiffness / eta**2 * (1 + (short - 1) * np.exp(short))


def at_rest(scales: Floats, energies: Floats) -> Rest | None:
    """From energies (eV/atom) of a crystal at some scales of its lengths; None without a minimum between them."""
    least = int(np.argmin(energies))
    if not 0 < least < len(scales) - 1:
        return None
    c, b, a = np.polyfit(scales[least - 1 : least + 2], energies[least - 1 : least + 2], 2)
    scale = -b / (2 * c)
    return Rest(float(scale), float(a + b * scale / 2), float(2 * c * scale**2))
