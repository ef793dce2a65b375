"""Crystals under pressure: ``python recipes/label_compressed.py --crystals FILE.npz --head HEAD --out FILE.npz``.

A network that was trained on matter as it is at rest may say anything of matter that is squeezed, and what it says is
often that squeezing pays: crystals then collapse. Here crystals of a packed file (docs/data.md) are squeezed to between
0.55 and 0.9 of their lengths, and get the energies of the universal equation of state (Vinet et al., J. Phys.: Condens.
Matter 1, 1941 (1989)). Their volumes, energies and bulk moduli at rest are those of one head of a trained model.
Energies are all that is labelled. Parts that are labelled are kept beside FILE until it is whole; the same command goes
on after a kill.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from gfmpot.calculators import GFMCalculator
from gfmpot.data.sources._npz import load_arrays
from gfmpot.models import fingerprint
from gfmpot.recipes._equation_of_state import at_rest
from gfmpot.recipes._labelling import Job, Labelling, Row, command_line
from gfmpot.recipes.label_crystals import CRYSTALS, Parents

Floats = NDArray[np.float64]

SCANNED = np.arange(0.88, 1.171, 0.03)
"""Lengths, of those that a crystal has in the file, among which its energy must have a minimum."""

SQUEEZED = (0.55, 0.9)
"""Of the lengths at rest."""

EACH = 4
"""Labelled structures of a crystal."""

PART = 100
"""Crystals that are labelled and kept together."""

META = {
    "name": "compressed",
    "licence": "labels made for this project; structures of the file they were made from",
    "citation": "Vinet et al., J. Phys.: Condens. Matter 1, 1941 (1989)",
    "notes": "squeezed crystals, by the universal equation of state; energies alone",
}


def label(job: Job) -> list[Row]:
    """Squeezed crystals of those that have a minimum."""
    rng = np.random.default_rng([job.seed, job.first])
    calculator = _calculator(*job.inputs[0][:2])
    crystals: list[tuple[Atoms, int]] = [(atoms, group) for *_, atoms, group in job.inputs]
    scanned = [scaled(atoms, scale) for atoms, _ in crystals for scale in SCANNED]
    energies = [
        result["energy"] / len(atoms) for atoms, result in zip(scanned, calculator.evaluate_many(scanned), strict=True)
    ]
    rows: list[Row] = []
    for (atoms, group), found in zip(crystals, np.reshape(energies, (len(crystals), -1)), strict=True):
        if (rest := at_rest(SCANNED, found)) is None:
            continue
        lengths = rng.uniform(*SQUEEZED, size=EACH)
        for length, energy in zip(lengths, rest.squeezed(lengths), strict=True):
            small = scaled(atoms, length * rest.scale)
            row = {"numbers": atoms.numbers, "positions": small.positions, "cell": small.cell.array, "pbc": small.pbc}
            rows.append(row | {"energy": len(atoms) * energy, "group": group})
    return rows


def scaled(atoms: Atoms, scale: float) -> Atoms:
    """With all lengths so many times as long."""
    other = atoms.copy()
    other.set_cell(atoms.cell.array * scale, scale_atoms=True)
    return other


@lru_cache(maxsize=1)
def _calculator(model: str, head: str) -> GFMCalculator:
    return GFMCalculator(model, head=head, device="cpu")


def main() -> None:
    """The command line."""
    more: dict[str, dict[str, Any]] = {
        "--model": {"default": "large", "help": "name or path; who knows the crystals at rest (large)"},
        "--head": {"required": True, "help": "its branch"},
    }
    given = command_line(__doc__ or "", CRYSTALS, (2_000, f"each gets {EACH} labels; some have no minimum"), more)
    try:
        calculator = _calculator(given.model, given.head)
        parents = Parents.read(given.crystals)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    branch = calculator.potential.branches[calculator.potential.branch_index(given.head)]
    known = [atomic_numbers[symbol] for symbol in branch.e0]
    usable = [i for i, atoms in enumerate(parents.atoms) if np.isin(atoms.numbers, known).all()]
    if not usable:
        raise SystemExit(f"error: {given.crystals} has no crystals of the elements of {given.head}")
    rng = np.random.default_rng(given.seed)
    chosen = rng.permutation(usable)[: given.structures]
    inputs = [(given.model, given.head, parents.atoms[i], int(parents.groups[i])) for i in chosen]
    of = f"{fingerprint(calculator.potential)} {given.head} {chosen.tolist()}".encode()
    meta = META | {
        "theory": f"{branch.theory}, by {given.head} of {given.model} at rest and the universal equation of state"
    }
    labels = load_arrays(given.crystals)["group_labels"]
    Labelling(label, PART, meta, {"group_labels": labels}).run(given.out, inputs, of, given.seed, given.workers)


if __name__ == "__main__":
    main()
