"""When benchmarks/accuracy_md.py calls a run failed."""

from __future__ import annotations

import numpy as np
from accuracy_bonds import bonds, fragments
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

TARGET = 1000.0
"""K."""

EVERY = 10
"""Steps between looks."""

TOO_CLOSE, TOO_CLOSE_TO_H = 0.5, 0.6
"""In sums of covalent radii, and in Å."""


class Watch:
    """What is looked at during a run."""

    def __init__(self, atoms: Atoms) -> None:
        self.atoms, self.temperatures, self.nearest = atoms, [], np.inf

    def look(self) -> str | None:
        """Why it ends here, if it does."""
        self.temperatures.append(float(self.atoms.get_temperature()))
        if not np.isfinite([self.atoms.get_potential_energy(), self.temperatures[-1]]).all():
            return "energy or temperature is not finite"
        first, second, distance = neighbor_list("ijd", self.atoms, covalent_radii[self.atoms.numbers])
        if not len(distance):
            return None
        sums = covalent_radii[self.atoms.numbers][first] + covalent_radii[self.atoms.numbers][second]
        self.nearest = min(self.nearest, float((distance / sums).min()))
        hydrogen = (self.atoms.numbers[first] == 1) | (self.atoms.numbers[second] == 1)
        margin = distance - np.where(hydrogen, TOO_CLOSE_TO_H, TOO_CLOSE * sums)
        if margin.min() >= 0:
            return None
        pair = [int(end[margin.argmin()]) for end in (first, second)]
        return f"{'–'.join(self.atoms.symbols[pair])} at {distance[margin.argmin()]:.2f} Å"

    def end(self, start: Atoms, molecular: bool) -> str | None:
        """What is wrong with a run that was not stopped."""
        mean = float(np.mean(self.temperatures[len(self.temperatures) // 2 :]))
        if abs(mean / TARGET - 1) > 0.5:
            return f"mean temperature of {mean:.0f} K"
        if not molecular:
            return None
        label, (first, second) = fragments(start), bonds(self.atoms)
        heavy = (self.atoms.numbers[first] > 1) & (self.atoms.numbers[second] > 1)
        fused = int((heavy & (label[first] < label[second])).sum())
        return f"{fused} bonds between molecules" if fused else None
