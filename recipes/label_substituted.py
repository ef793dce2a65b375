"""Halogenated molecules and closed-shell ions, labelled by GFN2-xTB.

``python recipes/label_substituted.py --qm9 PATH --out FILE.npz``: QM9 has neither. Half of the molecules get F, Cl or
Br for hydrogens, a quarter gets a proton at N or O, and a quarter gives one away. GFN2-xTB relaxes them for a few steps
(tblite, an extra of the tests: ``pip install tblite``); some structures on the way are kept, and some about its end,
rattled. Molecules of QM9 stay in their own group, so that those held out of pretraining still are. Parts that are
labelled are kept beside FILE until it is whole; the same command goes on after a kill.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.optimize import BFGS
from ase.symbols import Symbols

from gfmpot.data.frame import Frame
from gfmpot.recipes._labelling import Job, Row
from gfmpot.recipes._qm9_labels import Floats, Ints, bonds, parts, run

HALOGENS, HOW_OFTEN = np.array([9, 17, 35]), np.array([0.4, 0.4, 0.2])

STEPS = 30
"""Of relaxation."""

ON_THE_WAY, AT_THE_END = 3, 3
"""Structures that are kept of each molecule: of its relaxation, and rattled about where that ended."""

RATTLE = 0.1
"""Å, the most, of the standard deviation of positions."""

MAX_FORCE = 15.0
"""eV/Å; structures with larger ones are dropped."""

HELD_OUT = ("CH3Cl", "C2H5Cl", "C3H7Cl", "C2H3ClO")
"""Of benchmarks/accuracy.py, whose structures are not to be learnt by heart."""

PART = 20
"""Molecules that are labelled and kept together."""

ABOUT = {
    "name": "gfn2_substituted",
    "notes": "QM9 molecules with hydrogens replaced by halogens, with a proton more, or with one less",
}


class Molecule(NamedTuple):
    """One that is to be relaxed."""

    numbers: Ints
    positions: Floats
    charge: int = 0
    multiplicity: int = 1


def halogenated(frame: Frame, rng: np.random.Generator) -> Molecule | None:
    """Hydrogens of carbon, one to all of them, become halogens of one or two kinds."""
    hydrogens = [(h, other) for h, other in _hydrogens(frame) if frame.numbers[other] == 6]
    if not hydrogens:
        return None
    kinds = rng.choice(HALOGENS, rng.integers(1, 3), p=HOW_OFTEN)
    numbers, positions = frame.numbers.copy(), frame.positions.copy()
    for k in rng.permutation(len(hydrogens))[: rng.integers(1, len(hydrogens) + 1)]:
        h, other = hydrogens[k]
        numbers[h] = rng.choice(kinds)
        positions[h] = _bonded(numbers, positions, int(other), int(numbers[h]), positions[h] - positions[other])
    return Molecule(numbers, positions)


def protonated(frame: Frame, rng: np.random.Generator) -> Molecule | None:
    """One more hydrogen at N or O, away from their neighbours."""
    able = np.flatnonzero(np.isin(frame.numbers, (7, 8)))
    if not len(able):
        return None
    base = int(rng.choice(able))
    pairs = bonds(frame.numbers, frame.positions)
    neighbours = [int(pair[pair != base][0]) for pair in pairs if base in pair]
    away = frame.positions[base] - frame.positions[neighbours]
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    direction = away.sum(axis=0) + rng.normal(scale=0.2, size=3)  # flat surroundings have no side of their own
    place = _bonded(frame.numbers, frame.positions, base, 1, direction)
    return Molecule(np.append(frame.numbers, 1), np.vstack([frame.positions, place]), 1)


def deprotonated(frame: Frame, rng: np.random.Generator) -> Molecule | None:
    """One hydrogen less, of O or N where there is one."""
    hydrogens = _hydrogens(frame)
    acid = [h for h, other in hydrogens if frame.numbers[other] in (7, 8)] or [h for h, _ in hydrogens]
    if not acid or len(frame.numbers) < 3:
        return None
    left = np.delete(np.arange(len(frame.numbers)), rng.choice(acid))
    return Molecule(frame.numbers[left], frame.positions[left], -1)


CHANGES = (halogenated, protonated, halogenated, deprotonated)


def _hydrogens(frame: Frame) -> list[tuple[int, int]]:
    """Each with the atom that it is bonded to."""
    pairs = [*bonds(frame.numbers, frame.positions).tolist()]
    return [(a, b) for pair in pairs for a, b in (pair, pair[::-1]) if frame.numbers[a] == 1 and frame.numbers[b] > 1]


def _bonded(numbers: Ints, positions: Floats, to: int, kind: int, direction: Floats) -> Floats:
    """Where an atom of a kind is bonded to another in some direction."""
    length = covalent_radii[kind] + covalent_radii[numbers[to]]
    place: Floats = positions[to] + length * direction / np.linalg.norm(direction)
    return place


def together(numbers: Ints, positions: Floats) -> list[int]:
    """The number of the molecule that each atom is in."""
    found: list[int] = parts(bonds(numbers, positions), len(numbers)).tolist()
    return found


def structures_of(molecule: Molecule, rng: np.random.Generator) -> list[tuple[Floats, float, Floats]]:
    """Positions, energy (eV) and forces (eV/Å) while it relaxes, and rattled at the end.

    Positions are rounded to float32, as they are kept. Nothing comes of what falls apart or grows together, or whose
    electrons do not settle.
    """
    from tblite.ase import TBLite

    atoms = Atoms(molecule.numbers, molecule.positions)
    atoms.calc = TBLite(method="GFN2-xTB", charge=molecule.charge, multiplicity=molecule.multiplicity, verbosity=0)
    way: list[Floats] = []
    try:
        with BFGS(atoms, logfile=None, maxstep=0.1) as relaxation:
            relaxation.attach(lambda: way.append(atoms.positions.copy()))
            relaxation.run(fmax=0.05, steps=STEPS)
        kept = [way[k] for k in sorted({*np.linspace(0, len(way) - 1, ON_THE_WAY).astype(int).tolist()})]
        end = atoms.positions.copy()
        kept += [end + rng.normal(scale=rng.uniform(0.0, RATTLE), size=end.shape) for _ in range(AT_THE_END)]
        found = []
        for positions in kept:
            atoms.positions = positions.astype(np.float32)
            found.append((atoms.positions.copy(), float(atoms.get_potential_energy()), atoms.get_forces()))
    except RuntimeError:  # of tblite
        return []
    calm = [one for one in found if np.linalg.norm(one[2], axis=1).max() < MAX_FORCE]
    return calm if together(molecule.numbers, end) == together(molecule.numbers, molecule.positions) else []


def rows_of(molecule: Molecule, group: int, rng: np.random.Generator) -> list[Row]:
    """Labelled structures of a molecule, to be kept."""
    about = {"numbers": molecule.numbers, "group": group, "charge": molecule.charge, "spin": molecule.multiplicity}
    return [
        about | {"positions": positions, "energy": energy, "forces": forces}
        for positions, energy, forces in structures_of(molecule, rng)
    ]


def label(job: Job) -> list[Row]:
    """What comes of each molecule by one of the changes."""
    rows: list[Row] = []
    for k, frame in enumerate(job.inputs, job.first):
        rng = np.random.default_rng([job.seed, k])
        molecule = CHANGES[rng.integers(len(CHANGES))](frame, rng)
        if molecule is not None and Symbols(molecule.numbers).get_chemical_formula() not in HELD_OUT:
            rows += rows_of(molecule, int(frame.group), rng)
    return rows


def main() -> None:
    """The command line."""
    left_out = f"each gives up to {ON_THE_WAY + AT_THE_END}, and some fall apart"
    run(__doc__ or "", 2_000, left_out, label, PART, ABOUT)


if __name__ == "__main__":
    main()
