"""Checks of calculus: forces and stress are derivatives of the energy, and the energy is smooth at the cutoff."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gfmpot.testing.compare import Errors, NotApplicable, deviation, given, largest
from gfmpot.testing.structures import deformed, has_volume
from gfmpot.testing.subject import Energies, Subject

STEP = 2e-4
"""Å, of finite differences. Fourth order makes the truncation error negligible; a longer step would straddle the cutoff
of more pairs, where potentials have two continuous derivatives and not five."""

STRAIN = 5e-5
"""Step of strain, which moves a pair at 5 Å by about :data:`STEP`."""

SMALLEST_FORCE, SMALLEST_STRESS = 1e-2, 1e-5
"""eV/Å and eV/Å³: errors are relative to the largest force or stress, or to this."""

VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""ASE's order of the components of stress."""

Path = Callable[[float], Atoms]
"""A structure that depends on one number."""

SCAN_STEP = 5e-5
"""Å, of the scan through the cutoff."""

SCAN_STEPS = 40
"""Steps of the scan on either side of the cutoff."""


def forces(subject: Subject) -> Errors:
    """Forces equal central differences of the energy: single atoms, and one direction that moves all of them."""
    for name, atoms in _structures(subject).items():
        found = given(subject.evaluate(atoms), "forces")
        yield name, force_error(subject.energies, atoms, found) / max(largest(found), SMALLEST_FORCE)


def stress(subject: Subject) -> Errors:
    """Stress equals the strain derivative of the energy over the volume, in ASE's Voigt order and sign."""
    for name, atoms in _structures(subject).items():
        if has_volume(atoms):
            found = given(subject.evaluate(atoms), "stress", name)
            yield name, stress_error(subject.energies, atoms, found) / max(largest(found), SMALLEST_STRESS)


def force_error(energies: Energies, atoms: Atoms, found: NDArray[np.float64], step: float = STEP) -> float:
    """eV/Å: largest distance of forces (n, 3) from central differences, over the directions of :func:`forces`."""
    directions = _directions(len(atoms))
    expected = -slopes(energies, [_displacement(atoms, direction) for direction in directions], step)
    return largest(np.einsum("kij,ij->k", directions, found) - expected)


def stress_error(energies: Energies, atoms: Atoms, found: NDArray[np.float64], step: float = STRAIN) -> float:
    """eV/Å³: largest distance of a stress (6,) from central differences."""
    expected = slopes(energies, [_strain(atoms, i, j) for i, j in VOIGT], step) / abs(atoms.cell.volume)
    return largest(found - expected)


def slopes(energies: Energies, paths: Sequence[Path], step: float) -> NDArray[np.float64]:
    """(k,) slope of the energy at the start of each path, by central differences of fourth order."""
    values = energies([path(x * step) for path in paths for x in (-2, -1, 1, 2)]).reshape(-1, 4)
    changes = values - values[:, :1]  # of large energies only the changes matter to round-off
    return np.asarray(changes @ np.array([1.0, -8.0, 8.0, -1.0]) / (12 * step), dtype=np.float64)


def smoothness(subject: Subject) -> Errors:
    """No step of a fine scan through the cutoff is much larger than the others: largest over median."""
    distances = _cutoff(subject) + SCAN_STEP * np.arange(-SCAN_STEPS, SCAN_STEPS + 1.0)
    results = [subject.evaluate(atoms) for atoms in subject.samples.probes(distances)]
    yield "energy", _roughness(np.abs(np.diff([r["energy"] for r in results])))
    yield "forces", _roughness(np.abs(np.diff([given(r, "forces") for r in results], axis=0)).max(axis=(1, 2)))


def vanishing_at_cutoff(subject: Subject) -> Errors:
    """Two atoms know nothing of each other at the cutoff: energy and forces as just beyond it."""
    cutoff = _cutoff(subject)
    inside, outside = (Atoms(subject.samples.metal * 2, [[0, 0, 0], [cutoff + x, 0, 0]]) for x in (-1e-9, 1e-9))
    yield "dimer", deviation(subject.evaluate(inside), subject.evaluate(outside))


def _cutoff(subject: Subject) -> float:
    if subject.cutoff is None:
        raise NotApplicable("the cutoff is not known: pass cutoff=")
    if subject.potential is not None and subject.potential.config.max_neighbours is not None:
        raise NotApplicable("max_neighbours: the energy jumps by construction")
    return subject.cutoff


def _roughness(steps: NDArray[np.float64]) -> float:
    if not np.isfinite(steps).all():
        return float("inf")
    return float(steps.max() / max(np.median(steps), 1e-12))


def _structures(subject: Subject) -> dict[str, Atoms]:
    structures = subject.samples.general()
    if subject.potential is not None:
        structures["ion"] = subject.samples.ion()
        structures["ion"].rattle(0.05, seed=3)
    return structures


def _directions(atoms: int, single: int = 4, seed: int = 6) -> NDArray[np.float64]:
    """(k, atoms, 3): coordinates of a few atoms one by one, and a random unit vector over all."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(atoms)[:single]
    directions = np.zeros((3 * len(chosen) + 1, atoms, 3))
    for k, (atom, axis) in enumerate((a, x) for a in chosen for x in range(3)):
        directions[k, atom, axis] = 1.0
    everything = rng.normal(size=(atoms, 3))
    directions[-1] = everything / np.linalg.norm(everything)
    return directions


def _displacement(atoms: Atoms, direction: NDArray[np.float64]) -> Path:
    """Along (n, 3)."""

    def path(x: float) -> Atoms:
        moved = atoms.copy()
        moved.positions += x * direction
        return moved

    return path


def _strain(atoms: Atoms, i: int, j: int) -> Path:
    """Symmetric, so that rotations play no part; x is the engineering strain where i and j differ."""
    unit = np.zeros((3, 3))
    unit[i, j] += 0.5
    unit[j, i] += 0.5
    return lambda x: deformed(atoms, np.eye(3) + x * unit)
