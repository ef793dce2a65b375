"""Molecules with bonds turned, labelled by GFN2-xTB: ``python recipes/label_torsions.py --qm9 PATH --out FILE.npz``.

Rattled molecules say little about rotational barriers. Here one to three bonds that can turn do so, by any angle, and
what then does not clash is labelled (tblite, an extra of the tests: ``pip install tblite``). Molecules of QM9 stay in
their own group, so that those held out of pretraining still are. Parts that are labelled are kept beside FILE until it
is whole; the same command goes on after a kill.
"""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii
from ase.symbols import Symbols
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform
from scipy.spatial.transform import Rotation

from gfmpot.data.frame import Frame
from gfmpot.recipes._labelling import Job, Row
from gfmpot.recipes._qm9_labels import Floats, Ints, bonds, parts, run
from gfmpot.units import BOHR, HARTREE

MULTIPLE = 0.9
"""Of the sum of covalent radii: shorter bonds are double ones, which do not turn."""

CLASH = 1.6
"""Of the sum of covalent radii: atoms that are not bonded may come this near, or as near as they were."""

RATTLE = 0.06
"""Å, the most, of the standard deviation of positions."""

MAX_FORCE = 30.0
"""eV/Å; structures with larger ones are dropped."""

HELD_OUT = ("CH2O2", "C2H6", "C4H10", "H2O2")
"""Of benchmarks/accuracy.py, whose barriers are not to be learnt by heart."""

PART = 100
"""Structures that are labelled and kept together."""

ABOUT = {
    "name": "gfn2_torsions",
    "notes": "QM9 molecules with one to three bonds turned and rattled by 0 to 0.06 Å",
}


def turning(numbers: Ints, positions: Floats) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Bonds that can turn, as their two atoms, and which atoms move with the second one."""
    pairs, n = bonds(numbers, positions), len(numbers)
    neighbours = np.bincount(pairs.ravel(), minlength=n)
    found = []
    for k, (i, j) in enumerate(pairs):
        length = np.linalg.norm(positions[i] - positions[j])
        double = length < MULTIPLE * covalent_radii[numbers[[i, j]]].sum()
        if double or min(neighbours[i], neighbours[j]) < 2:
            continue
        part = parts(np.delete(pairs, k, axis=0), n)
        if part[i] != part[j]:  # not in a ring
            found.append((int(i), int(j), part == part[j]))
    return found


def turned(frame: Frame, rng: np.random.Generator) -> Floats | None:
    """Other positions (n, 3) of a molecule, in float32 as they are kept; None if there are none without a clash."""
    numbers, start = frame.numbers, frame.positions
    able = turning(numbers, start)
    if not able:
        return None
    radii = covalent_radii[numbers]
    reach = np.minimum(CLASH * (radii[:, None] + radii), squareform(pdist(start)) * 0.95)
    np.fill_diagonal(reach, -1.0)
    before = bonds(numbers, start)
    for _ in range(20):
        positions = start.copy()
        for k in rng.permutation(len(able))[: rng.integers(1, 4)]:
            i, j, moves = able[k]
            axis = positions[j] - positions[i]
            turn = Rotation.from_rotvec(rng.uniform(-np.pi, np.pi) * axis / np.linalg.norm(axis))
            positions[moves] = turn.apply(positions[moves] - positions[j]) + positions[j]
        clashes = squareform(pdist(positions)) < reach
        clashes[before[:, 0], before[:, 1]] = clashes[before[:, 1], before[:, 0]] = False
        if not clashes.any():
            positions += rng.normal(scale=rng.uniform(0.0, RATTLE), size=positions.shape)
            return positions.astype(np.float32).astype(np.float64)
    return None


def labelled(numbers: Ints, positions: Floats) -> tuple[float, Floats] | None:
    """Energy (eV) and forces (eV/Å); None where the electrons do not settle."""
    from tblite.interface import Calculator

    calculator = Calculator("GFN2-xTB", numbers, positions / BOHR)
    calculator.set("verbosity", 0)
    try:
        result = calculator.singlepoint()
    except RuntimeError:
        return None
    return float(result.get("energy")) * HARTREE, -np.asarray(result.get("gradient")) * HARTREE / BOHR


def label(job: Job) -> list[Row]:
    """Molecules, turned, with their labels; those that clash, do not settle, or are torn apart are left out."""
    rows: list[Row] = []
    for k, frame in enumerate(job.inputs, job.first):
        positions = turned(frame, np.random.default_rng([job.seed, k]))
        found = None if positions is None else labelled(frame.numbers, positions)
        if positions is None or found is None or np.linalg.norm(found[1], axis=1).max() > MAX_FORCE:
            continue
        row = {"numbers": frame.numbers, "positions": positions, "energy": found[0], "forces": found[1]}
        rows.append(row | {"group": int(frame.group)})
    return rows


def is_to_be_turned(frame: Frame) -> bool:
    """Whether a bond can turn, in a molecule that no benchmark asks for."""
    held_out = Symbols(frame.numbers).get_chemical_formula() in HELD_OUT
    return not held_out and bool(turning(frame.numbers, frame.positions))


def main() -> None:
    """The command line."""
    run(__doc__ or "", 10_000, "some clash or do not settle", label, PART, ABOUT, is_to_be_turned)


if __name__ == "__main__":
    main()
