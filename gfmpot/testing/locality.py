"""Checks of size extensivity and of the structures that programs stumble over."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from gfmpot.testing.compare import Errors, NotApplicable, deviation, finite, given, verdict
from gfmpot.testing.structures import rattled
from gfmpot.testing.subject import Subject

APART = 60.0
"""Å, between fragments that must not know of each other."""


def two_copies(subject: Subject) -> Errors:
    """Twice the same, far apart, has twice the energy, relative to the energy or to 1 eV."""
    _require_extensive(subject)
    for name, atoms in {"molecule": rattled(subject.samples.molecule()), "atom": Atoms(subject.samples.metal)}.items():
        other = atoms.copy()
        other.translate([0.0, 0.0, APART])
        twice = 2.0 * float(subject.evaluate(atoms)["energy"])
        yield name, abs(float(subject.evaluate(atoms + other)["energy"]) - twice) / max(1.0, abs(twice))


def supercell(subject: Subject) -> Errors:
    """A 3×3×3 supercell has the energy per atom (eV) of its one-atom cell."""
    _require_extensive(subject)
    single = subject.samples.crystal()
    repeated = single * (3, 3, 3)
    per_atom = float(subject.evaluate(repeated)["energy"]) / len(repeated)
    yield "fcc", abs(per_atom - float(subject.evaluate(single)["energy"]))


def shares(subject: Subject) -> Errors:
    """Energies of atoms add up to the energy."""
    if not _atomwise(subject):
        raise NotApplicable("readout='graph' has no energies of atoms")
    for name, atoms in subject.samples.general().items():
        results = subject.evaluate(atoms)
        total = np.array(given(results, "energies").sum())
        yield name, deviation({"energy": total}, {"energy": results["energy"]})


def edge_cases(subject: Subject) -> Errors:
    """Isolated atoms, cells smaller than the cutoff, mixed periodicity, ... give finite results of the right shapes."""
    for name, atoms in (subject.samples.general() | subject.samples.edge_cases()).items():
        yield name, verdict(finite(subject.evaluate(atoms), atoms))


def isolation(subject: Subject) -> Errors:
    """An atom alone feels nothing, whether in empty space or in a large periodic box."""
    cases = subject.samples.edge_cases()
    free, boxed = (subject.evaluate(cases[name]) for name in ("isolated atom", "lone atom in a periodic box"))
    yield "energy in a box", deviation({"energy": boxed["energy"]}, {"energy": free["energy"]})
    for name, results in {"free": free, "boxed": boxed}.items():
        yield f"{name}, forces", deviation({"forces": given(results, "forces")}, {"forces": np.zeros((1, 3))})


def dummy_cell(subject: Subject) -> Errors:
    """A cell without periodicity means nothing, however small."""
    inside = subject.samples.edge_cases()["molecule in a 1 Å cell"]
    yield "molecule", deviation(subject.evaluate(inside), subject.evaluate(subject.samples.molecule()))


def _require_extensive(subject: Subject) -> None:
    if not _atomwise(subject):
        raise NotApplicable("readout='graph' is not size-extensive")


def _atomwise(subject: Subject) -> bool:
    return subject.potential is None or subject.potential.atomwise
