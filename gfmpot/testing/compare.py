"""How two sets of results are compared, and how a check says that it does not apply."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import ArrayLike, NDArray

from gfmpot.testing.subject import Results

Errors = Iterator[tuple[str, float]]
"""What a check yields: where it looked, and how wrong it was there (infinite for a plain failure)."""

ENERGY_PER_ATOM = 10.0
"""eV: total energies of all-electron theories are thousands of eV per atom, which no geometry changes; errors of
energies are measured against no more than this."""

SMALLEST_SCALE = {"energy": 0.1, "energies": 0.1, "forces": 0.1, "stress": 1e-3}
"""Smaller results are compared with this (eV, eV, eV/Å, eV/Å³), since a zero has no relative error."""


class NotApplicable(Exception):  # noqa: N818 (an answer, not an error)
    """A check does not make sense for a subject; the message says why."""


def deviation(found: Results, expected: Results) -> float:
    """The largest relative error of any result; infinite where one lacks what the other has, or is not finite."""
    if found.keys() != expected.keys():
        return float("inf")
    atoms = len(expected["forces"]) if "forces" in expected else 1
    return max(_relative(key, found[key], expected[key], atoms) for key in expected)


def _relative(key: str, found: NDArray[np.float64], expected: NDArray[np.float64], atoms: int) -> float:
    scale = max(float(np.abs(expected).max()), SMALLEST_SCALE[key])
    if key == "energy":
        scale = min(scale, ENERGY_PER_ATOM * atoms)
    elif key == "energies":
        scale = min(scale, ENERGY_PER_ATOM)
    return largest(found - expected) / scale


def given(results: Results, key: str, where: str = "") -> NDArray[np.float64]:
    """One result; a check that needs it does not apply without it."""
    if key not in results:
        raise NotApplicable(f"gives no {key}" + (f" for {where}" if where else ""))
    return results[key]


def largest(differences: ArrayLike) -> float:
    """The largest magnitude; infinite if any is not finite."""
    array = np.asarray(differences, dtype=np.float64)
    return float(np.abs(array).max(initial=0.0)) if np.isfinite(array).all() else float("inf")


def verdict(good: bool) -> float:
    """The error of a statement: none, or infinite."""
    return 0.0 if good else float("inf")


def finite(results: Results, atoms: Atoms) -> bool:
    """Whether everything is finite and of the shape that ASE expects."""
    shapes = {"energy": (), "forces": (len(atoms), 3), "stress": (6,), "energies": (len(atoms),)}
    return all(value.shape == shapes[key] and np.isfinite(value).all() for key, value in results.items())


def turned(results: Results, matrix: NDArray[np.float64]) -> Results:
    """Results as they must be after an orthogonal map (3, 3) of space."""
    new = dict(results)
    if "forces" in results:
        new["forces"] = results["forces"] @ matrix.T
    if "stress" in results:
        new["stress"] = voigt(matrix @ tensor(results["stress"]) @ matrix.T)
    return new


def reordered(results: Results, order: NDArray[np.int64]) -> Results:
    """Results as they must be after the atoms changed places."""
    return {key: value[order] if key in ("forces", "energies") else value for key, value in results.items()}


def tensor(stress: NDArray[np.float64]) -> NDArray[np.float64]:
    """(6,) in ASE's Voigt order to (3, 3)."""
    return np.asarray(voigt_6_to_full_3x3_stress(stress), dtype=np.float64)


def voigt(stress: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) to (6,) in ASE's Voigt order xx yy zz yz xz xy."""
    return np.asarray(full_3x3_to_voigt_6_stress(stress), dtype=np.float64)
