"""Checks of invariance: what must not change, or must turn along, when a structure is described differently."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gfmpot.testing.compare import Errors, deviation, given, largest, reordered, tensor, turned, verdict
from gfmpot.testing.structures import left_handed, recelled, rotated, scattered
from gfmpot.testing.subject import Subject

TRANSLATION = np.array([100.0, -61.803, 27.183])
"""Å"""


def orthogonal(seed: int, determinant: int) -> NDArray[np.float64]:
    """A random rotation (determinant 1) or rotation with a mirror (−1)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return np.asarray(q if np.linalg.det(q) * determinant > 0 else -q, dtype=np.float64)


def rotation(subject: Subject) -> Errors:
    """Energy is invariant; forces and stress turn with the structure."""
    yield from _turns(subject, orthogonal(3, determinant=1))


def reflection(subject: Subject) -> Errors:
    """The same under a mirror."""
    yield from _turns(subject, orthogonal(4, determinant=-1))


def _turns(subject: Subject, matrix: NDArray[np.float64]) -> Errors:
    for name, atoms in subject.samples.general().items():
        expected = turned(subject.evaluate(atoms), matrix)
        yield name, deviation(subject.evaluate(rotated(atoms, matrix)), expected)


def translation(subject: Subject) -> Errors:
    """Nothing changes when everything moves by 100 Å."""

    def moved(atoms: Atoms) -> Atoms:
        copy = atoms.copy()
        copy.translate(TRANSLATION)
        return copy

    yield from _unchanged(subject, moved)


def lattice_translations(subject: Subject) -> Errors:
    """Nothing changes when each atom is replaced by one of its own images."""
    yield from _unchanged(subject, scattered, periodic_only=True)


def permutation(subject: Subject) -> Errors:
    """Forces and energies of atoms follow their order."""
    for name, atoms in subject.samples.general().items():
        order = np.random.default_rng(5).permutation(len(atoms))
        expected = reordered(subject.evaluate(atoms), order)
        yield name, deviation(subject.evaluate(atoms[order]), expected)


def cell_basis(subject: Subject) -> Errors:
    """Nothing changes when the same lattice is described by other vectors, left-handed ones included."""
    cyclic = np.roll(np.eye(3, dtype=np.int64), 1, axis=1)
    skewed = np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    for name, atoms in subject.samples.general().items():
        if atoms.pbc.any():
            expected = subject.evaluate(atoms)
            mirrored, permuted = left_handed(atoms), recelled(atoms, cyclic)
            permuted.pbc = cyclic @ atoms.pbc
            yield f"{name}, left-handed", deviation(subject.evaluate(mirrored), expected)
            yield f"{name}, vectors in another order", deviation(subject.evaluate(permuted), expected)
        if atoms.pbc.all():
            yield f"{name}, skewed", deviation(subject.evaluate(recelled(atoms, skewed)), expected)


def perfect_crystals(subject: Subject) -> Errors:
    """Where symmetry forbids a force it is zero; stress of a cubic crystal is a pressure."""
    for name, atoms in subject.samples.symmetric().items():
        results = subject.evaluate(atoms)
        yield f"{name}, forces", largest(given(results, "forces"))
        if "stress" in results:
            stress = tensor(results["stress"])
            yield f"{name}, stress", largest(stress - np.eye(3) * stress[0, 0])


def repeatability(subject: Subject) -> Errors:
    """Five evaluations agree bit for bit."""
    for name, atoms in subject.samples.general().items():
        first = subject.evaluate(atoms)
        for _ in range(4):
            again = subject.evaluate(atoms)
            same = again.keys() == first.keys() and all(np.array_equal(again[key], first[key]) for key in first)
            yield name, verdict(same)


def atoms_left_alone(subject: Subject) -> Errors:
    """The caller's structure is not changed."""
    for name, atoms in (subject.samples.general() | subject.samples.edge_cases()).items():
        before = atoms.copy()
        subject.evaluate(atoms)
        yield (
            name,
            verdict(before == atoms and before.info == atoms.info and before.arrays.keys() == atoms.arrays.keys()),
        )


def _unchanged(subject: Subject, change: Callable[[Atoms], Atoms], *, periodic_only: bool = False) -> Errors:
    for name, atoms in subject.samples.general().items():
        if atoms.pbc.any() or not periodic_only:
            yield name, deviation(subject.evaluate(change(atoms)), subject.evaluate(atoms))
