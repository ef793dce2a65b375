"""What training wants to know of a split before its first step, kept so that nobody has to scan the data for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from gfmpot.config import did_you_mean
from gfmpot.data.frames import FrameSet
from gfmpot.data.reference_energies import ReferenceStatistics


@dataclass(frozen=True)
class SplitStatistics:
    """Counts and sums of any number of labelled structures; those of several sets add up."""

    structures: int
    atoms: int
    largest: int
    """Atoms in the largest structure."""

    elements: dict[str, int]
    """Structures that contain each element, by symbol, in the order of the periodic table."""

    states: tuple[tuple[int, int], ...]
    """Total charges and multiplicities that occur together; multiplicity 0 = not stated."""

    with_energy: int
    with_forces: int
    with_stress: int
    """Labelled structures."""

    periodic: int
    """Structures with at least one periodic direction."""

    force_squares: float
    """Sum of the squares of all force components, (eV/Å)²."""

    force_components: int
    largest_force: float
    """eV/Å, norm."""

    references: ReferenceStatistics

    @classmethod
    def of(cls, frames: FrameSet) -> SplitStatistics:
        """Those of structures in memory."""
        composition = frames.composition()
        counts = (composition > 0).sum(axis=0)
        finite = np.isfinite(frames.forces)
        return cls(
            structures=len(frames),
            atoms=len(frames.numbers),
            largest=int(frames.atoms_per_structure.max(initial=0)),
            elements={chemical_symbols[z + 1]: int(counts[z]) for z in np.flatnonzero(counts)},
            states=frames.states(),
            with_energy=int(np.isfinite(frames.energy).sum()),
            with_forces=int(np.isfinite(frames.largest_force()).sum()) if len(frames) else 0,
            with_stress=int(np.isfinite(frames.stress).all(axis=1).sum()),
            periodic=int(frames.pbc.any(axis=1).sum()),
            force_squares=float(np.square(frames.forces[finite]).sum()),
            force_components=int(finite.sum()),
            largest_force=float(np.nanmax(frames.largest_force(), initial=0.0)) if finite.any() else 0.0,
            references=ReferenceStatistics.of(composition, frames.energy),
        )

    def __add__(self, other: SplitStatistics) -> SplitStatistics:
        elements = Counter(self.elements) + Counter(other.elements)
        return SplitStatistics(
            structures=self.structures + other.structures,
            atoms=self.atoms + other.atoms,
            largest=max(self.largest, other.largest),
            elements={symbol: elements[symbol] for symbol in sorted(elements, key=atomic_numbers.__getitem__)},
            states=tuple(sorted({*self.states, *other.states})),
            with_energy=self.with_energy + other.with_energy,
            with_forces=self.with_forces + other.with_forces,
            with_stress=self.with_stress + other.with_stress,
            periodic=self.periodic + other.periodic,
            force_squares=self.force_squares + other.force_squares,
            force_components=self.force_components + other.force_components,
            largest_force=max(self.largest_force, other.largest_force),
            references=self.references + other.references,
        )

    @property
    def force_rms(self) -> float:
        """eV/Å, the root mean square force component; NaN without forces."""
        return float(np.sqrt(self.force_squares / self.force_components)) if self.force_components else float("nan")

    @property
    def periodic_share(self) -> float | None:
        """Of all structures; None of no structures."""
        return self.periodic / self.structures if self.structures else None

    def to_mapping(self) -> dict[str, Any]:
        """As plain JSON types."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        states = [list(state) for state in self.states]
        return plain | {"states": states, "references": self.references.to_mapping()}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> SplitStatistics:
        """The inverse of :meth:`to_mapping`.

        Raises:
            ValueError: names that are unknown or missing.
        """
        unknown, missing = set(mapping) - set(cls.__dataclass_fields__), set(cls.__dataclass_fields__) - set(mapping)
        if unknown or missing:
            name = sorted(unknown or missing)[0]
            hint = did_you_mean(name, cls.__dataclass_fields__) if unknown else ""
            raise ValueError(f"statistics: {'unknown' if unknown else 'missing'} {name!r}{hint}")
        states = tuple((charge, spin) for charge, spin in mapping["states"])
        references = ReferenceStatistics.from_mapping(mapping["references"])
        return cls(**{**mapping, "states": states, "references": references})


NOTHING = SplitStatistics(
    structures=0,
    atoms=0,
    largest=0,
    elements={},
    states=(),
    with_energy=0,
    with_forces=0,
    with_stress=0,
    periodic=0,
    force_squares=0.0,
    force_components=0,
    largest_force=0.0,
    references=ReferenceStatistics.of(np.zeros((0, 118)), np.zeros(0)),
)
"""Those of no structures at all."""


def merged(parts: Iterable[SplitStatistics]) -> SplitStatistics:
    """Those of several sets as one."""
    return reduce(add, parts, NOTHING)
