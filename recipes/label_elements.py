"""Elements in simple forms, labelled by CHGNet.

``python recipes/label_elements.py --crystals FILE.npz --out FILE.npz``: crystals that are found in nature say little
about those that are not: which of fcc, bcc, hcp and diamond an element chooses, what a missing atom costs, and what a
surface does. Here each of the four is stretched to where its energy is least, and labelled there (CHGNet 0.3.0; ``pip
install chgnet``): its curve of energies over lengths, sheared, rattled, with an atom missing, and as slabs. Elements
are those of a packed file of crystals (docs/data.md), except gases and those whose simple forms are molecules, and no
crystal that is held out there comes out. Parts that are labelled are kept beside FILE until it is whole; the same
command goes on after a kill.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms
from ase import build as surfaces
from ase.build import bulk
from ase.data import chemical_symbols, covalent_radii

from gfmpot.recipes._equation_of_state import at_rest
from gfmpot.recipes._labelling import Job, Labelling, Row, command_line
from gfmpot.recipes.label_crystals import (
    CRYSTALS,
    META,
    Parents,
    is_among,
    labelled,
    need_chgnet,
    random_strain,
    rattled,
    rounded,
    strained,
)

PHASES = {"fcc": 2**0.5, "bcc": 2 / 3**0.5, "hcp": 1.0, "diamond": 4 / 3**0.5}
"""Each with its lattice constant over the distance of neighbours."""

MOLECULAR = ("H", "He", "N", "O", "F", "Ne", "P", "S", "Cl", "Ar", "Br", "Kr", "Xe")
"""Gases and others that are molecules or atoms in any form."""

IDEAL = (8 / 3) ** 0.5
"""c/a of hcp, whose atoms then all have twelve neighbours at one distance."""

SLABS = {
    "fcc": ("fcc111", "fcc100", "fcc110"),
    "bcc": ("bcc110", "bcc100", "bcc111"),
    "hcp": ("hcp0001",),
    "diamond": ("diamond111", "diamond100"),
}
"""What ``ase.build`` calls their surfaces."""

LAYERS, VACUUM = 6, 7.0
"""Of slabs: atoms, and Å on either side."""

SCANNED = np.arange(0.7, 1.51, 0.05)
"""Distances of neighbours, of twice the covalent radius, among which the energy must have a minimum."""

ROOM = 5.0
"""Å³ per atom, the least: no element at rest has less (diamond: 5.7). CHGNet's work grows as density squared."""

FARTHEST = 5.5
"""Å between neighbours, the most: CHGNet refuses atoms without neighbours within 6 Å."""

FINE = np.array([0.94, 0.97, 1.0, 1.03, 1.06])
"""Lengths of those at rest."""

SHEARS, STRAIN = 4, 0.03
"""How many, and the standard deviation of the elements of their strain."""

RATTLES = (0.03, 0.06, 0.1, 0.2)
"""Å, standard deviations of positions in a crystal; of these, the second is that of slabs and of vacancies."""

MOST_ATOMS = 30
"""Of crystals that lose an atom."""

PART = 4
"""Phases that are labelled and kept together."""

ABOUT = {
    "name": "chgnet_elements",
    "notes": "elements as fcc, bcc, hcp, diamond; strained, rattled, vacancies, slabs",
}


def crystal(symbol: str, phase: str, distance: float) -> Atoms:
    """The primitive cell with neighbours at a distance (Å)."""
    return bulk(symbol, phase, a=PHASES[phase] * distance, **({"covera": IDEAL} if phase == "hcp" else {}))


def around(symbol: str, phase: str, distance: float, rng: np.random.Generator) -> Iterator[Atoms]:
    """What is labelled of a phase that is at rest with neighbours at a distance (Å)."""
    rest = crystal(symbol, phase, distance)
    for scale in FINE:
        yield crystal(symbol, phase, distance * scale)
    for _ in range(SHEARS):
        yield strained(rest, random_strain(STRAIN, rng))
    for rattle in RATTLES:
        yield rattled(rest.repeat(2), rattle, rng)
    vacancy = repeated(rest)
    del vacancy[0]
    yield from (vacancy, rattled(vacancy, RATTLES[1], rng))
    for name in SLABS[phase]:
        a = PHASES[phase] * distance
        lengths = {"a": a, "c": IDEAL * a} if phase == "hcp" else {"a": a}
        slab = getattr(surfaces, name)(symbol, (1, 1, LAYERS), vacuum=VACUUM, **lengths)
        slab.pbc = True
        yield from (slab, rattled(slab, RATTLES[1], rng))


def repeated(atoms: Atoms) -> Atoms:
    """As often as it may be, equally often along all vectors."""
    return atoms.repeat(int((MOST_ATOMS / len(atoms)) ** (1 / 3)))


def label(job: Job) -> list[Row]:
    """All structures of phases (symbol, phase, group) that have a minimum."""
    rows: list[Row] = []
    for k, (symbol, phase, group) in enumerate(job.inputs, job.first):
        twice_radius = 2 * covalent_radii[chemical_symbols.index(symbol)]
        distances = twice_radius * SCANNED
        primitive = [crystal(symbol, phase, distance) for distance in distances]
        sensible = np.array([atoms.get_volume() / len(atoms) > ROOM for atoms in primitive]) & (distances < FARTHEST)
        curve = labelled([(rounded(primitive[i]), group) for i in np.flatnonzero(sensible)])
        if len(curve) < np.count_nonzero(sensible):
            continue
        energies = np.array([row["energy"] / len(row["numbers"]) for row in curve])
        if (rest := at_rest(SCANNED[sensible], energies)) is None:
            continue
        made = around(symbol, phase, rest.scale * twice_radius, np.random.default_rng([job.seed, k]))
        rows += curve + labelled([(rounded(atoms), group) for atoms in made])
    return rows


def main() -> None:
    """The command line."""
    given = command_line(__doc__ or "", CRYSTALS, None)
    need_chgnet()
    try:
        parents = Parents.read(given.crystals)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    symbols = [symbol for z in parents.elements if (symbol := chemical_symbols[z]) not in MOLECULAR]
    inputs = [
        (symbol, phase, k)
        for k, symbol in enumerate(symbols)
        for phase in PHASES
        if not is_among(simple := crystal(symbol, phase, 2.5), parents.held_out_like(simple))
    ]
    labels = {"group_labels": np.array([f"element/{symbol}" for symbol in symbols])}
    Labelling(label, PART, META | ABOUT, labels).run(
        given.out, inputs, repr(inputs).encode(), given.seed, given.workers
    )


if __name__ == "__main__":
    main()
