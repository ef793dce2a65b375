"""Small molecules, radicals and clusters, labelled by GFN2-xTB.

``python recipes/label_clusters.py --qm9 PATH --out FILE.npz``: QM9 has neither carbon dioxide nor sulphur dioxide, no
radicals, and one molecule at a time. Here molecules of the G2 set (Curtiss et al., J. Chem. Phys. 106, 1063 (1997), of
which ASE has 162) are taken alone, several of a kind or of two kinds at once, and water in larger numbers. GFN2-xTB
relaxes them for a few steps (tblite, an extra of the tests: ``pip install tblite``); some structures on the way are
kept, and some about its end, rattled. A composition is a group. Compositions of molecules of QM9 that are held out of
pretraining are left out. Parts that are labelled are kept beside FILE until it is whole; the same command goes on after
a kill.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.collections import g2, s22
from ase.data import covalent_radii
from ase.symbols import Symbols
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from gfmpot.data.split import split_of_group
from gfmpot.finetune.reader import Example
from gfmpot.finetune.readers.qm9 import QM9
from gfmpot.recipes._labelling import Job, Labelling, Row, command_line
from gfmpot.recipes._qm9_labels import META, SMALL, SOURCE, need_tblite
from gfmpot.recipes.label_substituted import Molecule, rows_of

ALONE, WATERS = 0.4, 0.25
"""Shares of single molecules and of clusters of water; the others are of one or two kinds."""

FEWEST_WATERS, MOST_WATERS = 3, 10
MOST, MOST_ATOMS = 5, 32
"""Molecules of other clusters, and their atoms."""

DISTANCE = 1.7
"""Of the sum of covalent radii: as near as molecules are put to each other."""

ELEMENTS = ("H", "C", "N", "O", "F", "P", "S", "Cl")
SOLIDS = ("P2", "S2")

HELD_OUT = (
    *("CH3SH", "CH3SCH3", "CH3CH2SH", "C4H4S", "CH2SCH2", "C2H6SO", "CH3Cl", "CH3CH2Cl", "C3H7Cl", "CH3COCl"),
    *("C2H6", "trans-butane", "butadiene", "CH3OH", "H2O2", "HCOOH"),
)
"""Molecules of benchmarks/accuracy.py, whose compositions are not to be learnt by heart; nor are those of S22."""

PART = 10
"""Molecules and clusters that are labelled and kept together."""

ABOUT = {
    "name": "gfn2_clusters",
    "licence": "labels and structures made for this project, from geometries of the G2 set",
    "citation": "Bannwarth et al., J. Chem. Theory Comput. 15, 1652 (2019); Curtiss et al., J. Chem. Phys. 106, 1063 "
    "(1997)",
    "notes": "small molecules, radicals among them, and clusters of one to ten",
}


def is_to_be_labelled(name: str) -> bool:
    """Whether a molecule of G2 is one of nonmetals.

    Sodium chloride and sulphur are crystals, and a blend by composition is to go on taking them for such.
    """
    symbols = molecule(name).get_chemical_symbols()
    return name not in SOLIDS and len(symbols) > 1 and set(symbols) <= set(ELEMENTS)


def multiplicity(atoms: Atoms) -> int:
    """From the magnetic moments that ASE gives a molecule."""
    return 1 + round(abs(float(atoms.get_initial_magnetic_moments().sum())))


@lru_cache(maxsize=1)
def names() -> tuple[list[str], list[str]]:
    """Of all molecules that are labelled, and of those without unpaired electrons."""
    usable = [name for name in g2.names if is_to_be_labelled(name)]
    return usable, [name for name in usable if multiplicity(molecule(name)) == 1]


def drawn(rng: np.random.Generator) -> Molecule:
    """A molecule, radical or cluster."""
    usable, closed = names()
    if (kind := rng.random()) < ALONE:
        atoms = molecule(rng.choice(usable))
        return Molecule(atoms.numbers, atoms.positions, multiplicity=multiplicity(atoms))
    if kind < ALONE + WATERS:
        chosen = ["H2O"] * int(rng.integers(FEWEST_WATERS, MOST_WATERS + 1))
    else:
        chosen = rng.choice(rng.choice(closed, 2), int(rng.integers(2, MOST + 1))).tolist()
    cluster = Atoms()
    for name in chosen:
        if len(cluster) + len(one := molecule(name)) <= MOST_ATOMS:
            cluster = beside(cluster, one, rng)
    return Molecule(cluster.numbers, cluster.positions)


def beside(cluster: Atoms, one: Atoms, rng: np.random.Generator) -> Atoms:
    """With one more molecule, turned at random, as near as it may be from some side."""
    one.positions = Rotation.random(rng=rng).apply(one.positions - one.positions.mean(axis=0))
    if not len(cluster):
        return one
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    reach = DISTANCE * (covalent_radii[cluster.numbers][:, None] + covalent_radii[one.numbers])
    while (cdist(cluster.positions, one.positions) < reach).any():
        one.positions += 0.1 * direction
    both = cluster + one
    both.positions -= both.positions.mean(axis=0)
    return both


def held_out(qm9: Path) -> frozenset[str]:
    """Compositions of benchmarks, and of small molecules that are held out of pretraining."""
    found = {molecule(name).get_chemical_formula() for name in HELD_OUT}
    found |= {s22[name].get_chemical_formula() for name in s22.names}
    reader = QM9()
    for example in reader.read(qm9, range(min(SMALL, reader.count(qm9)))):
        if isinstance(example, Example) and split_of_group(str(example.frame.group)) != "train":
            found.add(Symbols(example.frame.numbers).get_chemical_formula())
    return frozenset(found)


def label(job: Job) -> list[Row]:
    """What comes of molecules and clusters, which are given with the groups of their compositions."""
    rows: list[Row] = []
    for k, (made, group) in enumerate(job.inputs, job.first):
        rows += rows_of(made, group, np.random.default_rng([job.seed, k]))
    return rows


def main() -> None:
    """The command line."""
    given = command_line(__doc__ or "", SOURCE, (1_500, "each gives up to six, and some react"))
    need_tblite()
    try:
        left_out = held_out(given.qm9)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    rng = np.random.default_rng(given.seed)
    made: list[tuple[Molecule, str]] = []
    while len(made) < given.structures:
        one = drawn(rng)
        if (formula := Symbols(one.numbers).get_chemical_formula()) not in left_out:
            made.append((one, formula))
    formulas = sorted({formula for _, formula in made})
    inputs = [(one, formulas.index(formula)) for one, formula in made]
    fingerprint = b"".join(one.numbers.tobytes() + one.positions.tobytes() for one, _ in made)
    labels = {"group_labels": np.array([f"g2/{formula}" for formula in formulas])}
    Labelling(label, PART, META | ABOUT, labels).run(given.out, inputs, fingerprint, given.seed, given.workers)


if __name__ == "__main__":
    main()
