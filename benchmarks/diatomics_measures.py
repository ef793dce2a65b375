"""Numbers that say whether the curve of a pair of atoms is one that nature could have; definitions for diatomics.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.signal import find_peaks

Floats = NDArray[np.float64]
Pair = tuple[str, str]

STILL, FLAT = 1e-2, 1e-4
"""eV/Å and eV: smaller forces, and differences of energy between neighbouring points, have no sign."""

SHALLOW = 1e-3
"""eV: what is less deep is no well."""

STEP = 1e-2
"""eV: mismatches are measured by this where steps of the energy are less high."""

REPULSIVE, SHORT, INSIDE = 0.6, 0.75, 0.9
"""Shares of the covalent sum below which forces must repel and wells are spurious; and of a known bond, if shorter."""

SMOOTH = {"force_flips": 0, "energy_jump": 0.1, "conservation": 0.02}
"""The most that a smooth curve has."""


@dataclass(frozen=True)
class Curve:
    """Energies and forces of a pair at n distances, ascending."""

    distance: Floats  # (n,) Å
    energy: Floats  # (n,) eV, above that of the separated atoms
    force: Floats  # (n,) eV/Å along the axis; positive = repulsive

    @property
    def bond(self) -> float:
        """Å, distance of the lowest energy."""
        return float(self.distance[self.energy.argmin()])

    @property
    def depth(self) -> float:
        """eV, from the lowest energy to the separated atoms."""
        return float(-self.energy.min())


def covalent_sum(pair: Pair) -> float:
    """Å."""
    return float(sum(covalent_radii[atomic_numbers[symbol]] for symbol in pair))


def measures(curve: Curve, pair: Pair, reference: Curve | None = None) -> dict[str, Any]:
    """All numbers of one curve, by the names that diatomics.py defines."""
    known = INSIDE * reference.bond if reference else np.inf
    near = curve.distance <= min(REPULSIVE * covalent_sum(pair), known)
    lowest = float(curve.force[: max(1, int(near.sum()))].min())
    found = {
        "tortuosity": tortuosity(curve),
        "energy_jump": energy_jump(curve),
        "force_flips": max(0, sign_changes(curve.force, STILL) - 1),
        "conservation": conservation(curve),
        "lowest_force": lowest,
        "well": well(curve, min(SHORT * covalent_sum(pair), known)),
        "largest_force": float(np.abs(curve.force).max()),
        "bond": curve.bond,
        "depth": curve.depth,
        "is_repulsive": lowest > 0,
    }
    found["is_smooth"] = all(found[name] <= most for name, most in SMOOTH.items())
    found["has_no_well"] = found["well"] == 0
    return found | (errors(curve, reference) if reference else {})


def tortuosity(curve: Curve) -> float:
    """1 for a way straight down and up again; NaN where nothing changes."""
    energy = curve.energy
    ideal = abs(energy[0] - energy.min()) + abs(energy[-1] - energy.min())
    return float(np.abs(np.diff(energy)).sum() / ideal) if ideal > FLAT else float("nan")


def energy_jump(curve: Curve) -> float:
    """eV, steps before and after each turn of the energy."""
    steps = np.diff(curve.energy)
    steps = steps[np.abs(steps) >= FLAT]
    turns = np.flatnonzero(np.diff(np.sign(steps)))
    return float(np.abs(steps[turns]).sum() + np.abs(steps[turns + 1]).sum())


def sign_changes(values: Floats, threshold: float) -> int:
    """How often the sign changes among values that are not below the threshold."""
    signs = np.sign(values[np.abs(values) >= threshold])
    return int(np.count_nonzero(np.diff(signs)))


def conservation(curve: Curve) -> float:
    """Largest mismatch of a step of the energy and the integral of the force over it, relative to the step."""
    integral = -np.diff(CubicSpline(curve.distance, curve.force).antiderivative()(curve.distance))
    size = np.maximum(np.abs(curve.force[1:]), np.abs(curve.force[:-1])) * np.diff(curve.distance)
    return float((np.abs(np.diff(curve.energy) - integral) / (size + STEP)).max())


def well(curve: Curve, below: float) -> float:
    """eV, prominence of the deepest minimum at a distance shorter than ``below`` (Å); 0 if there is none."""
    places, found = find_peaks(-curve.energy, prominence=SHALLOW)
    inside = curve.distance[places] < below
    return float(found["prominences"][inside].max(initial=0.0))


def errors(curve: Curve, reference: Curve) -> dict[str, float]:
    """Mean errors where both curves are, and those of bond and depth."""
    shared = (reference.distance >= curve.distance[0]) & (reference.distance <= curve.distance[-1])
    at = reference.distance[shared]
    energy, force = (CubicSpline(curve.distance, values)(at) for values in (curve.energy, curve.force))
    return {
        "energy_mae": float(np.abs(energy - reference.energy[shared]).mean()),
        "force_mae": float(np.abs(force - reference.force[shared]).mean()),
        "bond_error": curve.bond - reference.bond,
        "depth_error": curve.depth - reference.depth,
    }


def read_reference(path: Path) -> Mapping[Pair, Curve]:
    """Curves of a packed file of diatomics; the zero of each is its farthest point.

    Raises:
        ValueError: structures that are no pairs.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ("natoms", "numbers", "positions", "energy", "forces")}
    if (arrays["natoms"] != 2).any():
        raise ValueError(f"{path}: expected pairs, got structures of {arrays['natoms'].max()} atoms")
    numbers = np.sort(arrays["numbers"].reshape(-1, 2), axis=1)
    vectors = np.diff(arrays["positions"].reshape(-1, 2, 3), axis=1)[:, 0].astype(np.float64)
    distance = np.linalg.norm(vectors, axis=1)
    force = (arrays["forces"].reshape(-1, 2, 3)[:, 1] * vectors).sum(axis=1) / distance
    curves = {}
    for a, b in np.unique(numbers, axis=0):
        rows = np.flatnonzero((numbers == (a, b)).all(axis=1))
        rows = rows[np.argsort(distance[rows])]
        energy = arrays["energy"][rows] - arrays["energy"][rows[-1]]
        curves[chemical_symbols[a], chemical_symbols[b]] = Curve(distance[rows], energy, force[rows])
    return curves
