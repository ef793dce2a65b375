"""Wrong unit flags, caught by physics: how close atoms come, and whether forces are the gradient of the energies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from gfmpot.data.frame import Floats, Frame
from gfmpot.graph.neighbours import neighbour_list
from gfmpot.units import BOHR, HARTREE, KCAL_PER_MOL, KJ_PER_MOL

PER_PART = 16
"""Structures, and pairs of structures, looked at in each part of a conversion."""

SEARCHED = (2.5, 5.0, 10.0, 20.0)
"""Å: how far to look for the closest atoms, until some are found."""

FEWEST_CONTACTS = 30
FEWEST_PAIRS = 20
"""Below these numbers nothing is concluded."""

CLOSEST, FURTHEST = 0.62, 1.35
"""Shortest distance between two atoms over the sum of their covalent radii. Over 58 public datasets of molecules,
metals, oxides, salts, liquids and surfaces, some at high pressure, the median is 0.75 to 1.02 (and 1.6 in a set of
dissociation curves, which differ among each other more than wrong units make them)."""

NOBLE_GASES = (2, 10, 18, 36, 54, 86)
"""They do not bind, so their distances say nothing of covalent radii."""

STEP = 0.3
"""Å: pairs of structures whose atoms moved further are too far apart for the trapezoidal rule."""

BAD, GOOD = 0.5, 0.25
"""Median relative misfit of energy differences and work, at which forces and energies disagree, or agree."""

FACTORS: dict[str, float] = {
    "energies are in Hartree, or forces were multiplied with eV per Hartree and energies were not": 1 / HARTREE,
    "energies were multiplied with eV per Hartree and forces were not": HARTREE,
    "energies are in Rydberg": 2 / HARTREE,
    "energies were taken for Rydberg": HARTREE / 2,
    "energies are in kcal/mol, or were taken for eV where forces were not": 1 / KCAL_PER_MOL,
    "energies were taken for kcal/mol": KCAL_PER_MOL,
    "energies are in kJ/mol": 1 / KJ_PER_MOL,
    "energies were taken for kJ/mol": KJ_PER_MOL,
    "energies are in meV": 1000.0,
    "forces are in Hartree/Bohr": HARTREE / BOHR,
    "forces were taken for Hartree/Bohr": BOHR / HARTREE,
    "positions are in Bohr": BOHR,
    "forces are per Bohr, or positions were taken for Bohr": 1 / BOHR,
    "forces are gradients: their sign is wrong": -1.0,
}
"""What makes energy differences so many times the work of the forces."""


class ImplausibleDataError(ValueError):
    """Units or signs that cannot be right; says which would be."""


@dataclass(frozen=True)
class Evidence:
    """What some structures show."""

    contacts: Floats  # (k,) shortest distance over the sum of covalent radii
    differences: Floats  # (p,) E₂ − E₁ of two structures of a group, eV
    work: Floats  # (p,) −½ (F₁ + F₂)·(r₂ − r₁), eV
    atoms: Floats  # (p,) atoms of those structures

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Evidence:
        """That of consecutive structures, some of which are looked at."""
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(PER_PART, len(frames))).astype(int))
        ratios = [ratio for i in chosen if (ratio := shortest_contact(frames[i])) is not None]
        pairs = [pair for _, pair in zip(range(PER_PART), _pairs(frames), strict=False)]
        table = np.array(pairs, dtype=np.float64).reshape(-1, 3)
        return cls(np.array(ratios, dtype=np.float64), table[:, 0], table[:, 1], table[:, 2])

    @classmethod
    def join(cls, parts: Sequence[Evidence]) -> Evidence:
        """That of several sets of structures, of which there must be one."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def check(self) -> None:
        """Nothing, unless the evidence is strong.

        Raises:
            ImplausibleDataError: says what looks wrong and by how much.
        """
        for problem in (self.length_problem(), self.energy_problem()):
            if problem:
                raise ImplausibleDataError(problem)

    def length_problem(self) -> str | None:
        """Distances that no matter has."""
        if len(self.contacts) < FEWEST_CONTACTS:
            return None
        low, middle, high = np.quantile(self.contacts, [0.25, 0.5, 0.75])
        if middle < CLOSEST and high < 1.2 * CLOSEST:
            likely = "positions are in nm" if middle < 0.2 else "positions in Å were taken for Bohr"
        elif middle > FURTHEST and low > 0.85 * FURTHEST:
            likely = "positions in Å were taken for nm" if middle > 5 else "positions in Bohr were taken for Å"
        else:
            return None
        return (
            f"positions look wrong: the closest atoms are {middle:.2f} covalent distances apart in the median of "
            f"{len(self.contacts)} structures, where about 1 is expected; perhaps {likely}"
        )

    def energy_problem(self) -> str | None:
        """Forces that are not the gradient of the energy, but are some known multiple of it."""
        if len(self.work) < FEWEST_PAIRS or _misfit(self.differences, self.work) < BAD:
            return None
        misfits = {name: _misfit(self.differences, self.work * factor) for name, factor in FACTORS.items()}
        misfits["energies are per atom"] = _misfit(self.differences * self.atoms, self.work)
        likely = min(misfits, key=misfits.__getitem__)
        if misfits[likely] > GOOD:
            return None
        ratio = float(np.median(self.differences / self.work))
        return (
            f"energies and forces contradict each other: in the median of {len(self.work)} pairs of neighbouring "
            f"structures, energies change {ratio:.4g} times as much as forces say; perhaps {likely}"
        )


def shortest_contact(frame: Frame) -> float | None:
    """Shortest distance over the sum of covalent radii (Cordero et al. 2008, as in ASE).

    None for molecules of one or two atoms, which datasets pull apart, and where noble gases come closest; a lower bound
    where nothing is within 20 Å.
    """
    if len(frame.numbers) < 3 and not frame.pbc.any():
        return None
    radii = covalent_radii[frame.numbers]
    for cutoff in SEARCHED:
        edges = neighbour_list(frame.positions, frame.cell, frame.pbc, cutoff)
        if len(edges.distances):
            senders, receivers = edges.edge_index
            ratios = edges.distances / (radii[senders] + radii[receivers])
            closest = int(ratios.argmin())
            pair = frame.numbers[[senders[closest], receivers[closest]]]
            return None if np.isin(pair, NOBLE_GASES).any() else float(ratios[closest])
    return float(SEARCHED[-1] / (2 * radii.max()))


def _pairs(frames: Sequence[Frame]) -> Iterator[tuple[float, float, int]]:
    """Energy difference, work and number of atoms of consecutive structures that differ a little in positions."""
    for one, two in pairwise(frames):
        if one.group != two.group or not np.array_equal(one.numbers, two.numbers):
            continue
        move, difference = two.positions - one.positions, two.energy - one.energy
        work = -0.5 * float(((one.forces + two.forces) * move).sum())
        small = 0 < np.abs(move).max() < STEP and np.array_equal(one.cell, two.cell)
        if small and np.isfinite(difference) and np.isfinite(work) and work != 0:
            yield difference, work, len(one.numbers)


def _misfit(differences: NDArray[np.float64], work: NDArray[np.float64]) -> float:
    """Median of |ΔE − W| over the larger of both."""
    scale = np.maximum(np.maximum(np.abs(differences), np.abs(work)), 1e-12)
    return float(np.median(np.abs(differences - work) / scale))
