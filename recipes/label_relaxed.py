"""Crystals where a trained model takes them to be at rest, labelled by CHGNet.

``python recipes/label_relaxed.py --crystals FILE.npz --out FILE.npz``: crystals that are strained and rattled by chance
say little about where soft ones come to rest, since a small error of the stress moves them far. Here crystals of a
packed file (docs/data.md), half of them with other elements, are relaxed by a head of the model that is to be trained
further, and labelled there (CHGNet 0.3.0; ``pip install chgnet``): as they are, stretched and squeezed, and moved a
little. Where model and teacher agree that is a crystal at rest; where they do not, it is what the model has to learn.
Only crystals that are trained on are taken, which stay in their groups, and no formula that a crystal of the other
splits has comes out. Parts that are labelled are kept beside FILE until it is whole; the same command goes on after a
kill.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from ase import Atoms

from gfmpot.calculators import GFMCalculator
from gfmpot.calculators.batched import relax_as_done
from gfmpot.data.sources._npz import load_arrays
from gfmpot.models import fingerprint
from gfmpot.recipes._labelling import Job, Labelling, Row, command_line
from gfmpot.recipes.label_crystals import CRYSTALS, META, Parents, labelled, need_chgnet, rounded, sensible

HEAD = "mptrj-pbe-u@chgnet"
"""Of the embedded models, what CHGNet has taught."""

STEPS = 60
"""Of a relaxation, at most: soft crystals are far from where they began by then."""

STRETCHED = (-0.05, 0.07)
"""Relative change of all lengths."""

STRAIN, RATTLES = 0.02, (0.02, 0.06)
"""Standard deviations: of the elements of a strain, and of positions (Å) with it."""

PART = 50
"""Crystals that are labelled and kept together."""

ABOUT = {"name": "chgnet_relaxed", "notes": "crystals relaxed by the model that was trained further with them"}


def label(job: Job) -> list[Row]:
    """Crystals (model, head, atoms, group) relaxed, and what is around them; ones that fly apart are left out."""
    groups = [group for *_, group in job.inputs]
    rows: list[Row] = []
    begin = [atoms for *_, atoms, _ in job.inputs]
    calculator = _calculator(*job.inputs[0][:2])
    for k, end in relax_as_done(begin, calculator, cell=True, steps=STEPS):
        if end.error is None and sensible(end.atoms):
            made = map(rounded, around(end.atoms, np.random.default_rng([job.seed, job.first + k])))
            rows += labelled([(atoms, groups[k]) for atoms in made if sensible(atoms)])
    return rows


def around(rest: Atoms, rng: np.random.Generator) -> Iterator[Atoms]:
    """What is labelled of a crystal that a model has relaxed."""
    rest = Atoms(rest.numbers, rest.positions, cell=rest.cell, pbc=True)
    yield rest.copy()
    yield strained(rest, np.eye(3) * rng.uniform(*STRETCHED))
    for rattle in RATTLES:
        strain = rng.normal(scale=STRAIN, size=(3, 3))
        other = strained(rest, (strain + strain.T) / 2)
        other.positions += rng.normal(scale=rattle, size=other.positions.shape)
        yield other


def strained(atoms: Atoms, strain: np.ndarray[Any, Any]) -> Atoms:
    """With cell and positions changed by a strain (3, 3)."""
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return other


@lru_cache(maxsize=1)
def _calculator(model: str, head: str) -> GFMCalculator:
    torch.set_num_threads(1)
    return GFMCalculator(model, head=head, device="cpu")


def main() -> None:
    """The command line."""
    more: dict[str, dict[str, Any]] = {
        "--model": {"default": "default", "help": "name or path; who relaxes them (default)"},
        "--head": {"default": HEAD, "help": f"its branch that CHGNet has taught ({HEAD})"},
    }
    given = command_line(__doc__ or "", CRYSTALS, (3_000, "each gets four labels; some fly apart"), more)
    need_chgnet()
    try:
        calculator = _calculator(given.model, given.head)
        parents, rng = Parents.read(given.crystals), np.random.default_rng(given.seed)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    known = calculator.potential.branches[calculator.potential.branch_index(given.head)].e0
    drawn = [parents.one(rng) for _ in range(given.structures)]
    inputs = [(given.model, given.head, atoms, group) for atoms, group in drawn if set(atoms.symbols) <= set(known)]
    if not inputs:
        raise SystemExit(f"error: {given.crystals} has no crystals of the elements of {given.head}")
    arrays = (part for *_, atoms, _ in inputs for part in (atoms.numbers, atoms.positions, atoms.cell.array))
    of = f"{fingerprint(calculator.potential)} {given.head}".encode() + b"".join(array.tobytes() for array in arrays)
    labels = load_arrays(given.crystals)["group_labels"]
    Labelling(label, PART, META | ABOUT, {"group_labels": labels}).run(given.out, inputs, of, given.seed, given.workers)


if __name__ == "__main__":
    main()
