"""Crystals that a trained model has relaxed, labelled by CHGNet.

``python recipes/label_relaxed.py --crystals FILE.npz --out FILE.npz``: crystals that are strained and rattled by chance
say little about where soft ones come to rest, since a small error of the stress moves them far. Here crystals of a
packed file (docs/data.md), half of them with other elements, are relaxed by a head of the model that is to be trained
further, in a few dozen steps, and labelled there (CHGNet 0.3.0; ``pip install chgnet``): as they are, stretched or
squeezed, and moved a little. Where model and teacher agree that is a crystal at rest; where they do not, it is what the
model has to learn. Only crystals that are trained on are taken, which stay in their groups; crystals that are held out
do not come out, nor, where elements are replaced, their formulas. Parts that are labelled are kept beside FILE until it
is whole; the same command goes on after a kill.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    sensible,
    strained,
)

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


@dataclass(frozen=True)
class Begin:
    """A crystal that is to be relaxed."""

    model: str
    head: str
    atoms: Atoms
    group: int
    held_out: tuple[Atoms, ...]
    """Crystals of its formula that must not come out."""

    def identity(self) -> bytes:
        """What labels depend on, but for the model."""
        arrays = [(one.numbers, one.positions, one.cell.array) for one in (self.atoms, *self.held_out)]
        return b"".join(array.tobytes() for each in arrays for array in each) + str(self.group).encode()


def label(job: Job) -> list[Row]:
    """Crystals relaxed, and what is around them; ones that fly apart or become a held-out crystal are left out."""
    begin: Sequence[Begin] = job.inputs
    calculator = _calculator(begin[0].model, begin[0].head)
    rows: list[Row] = []
    for k, end in relax_as_done([one.atoms for one in begin], calculator, cell=True, steps=STEPS):
        if end.error is None and sensible(end.atoms) and not is_among(end.atoms, begin[k].held_out):
            made = map(rounded, around(end.atoms, np.random.default_rng([job.seed, job.first + k])))
            rows += labelled([(atoms, begin[k].group) for atoms in made if sensible(atoms)])
    return rows


def around(rest: Atoms, rng: np.random.Generator) -> Iterator[Atoms]:
    """What is labelled of a crystal that a model has relaxed."""
    rest = Atoms(rest.numbers, rest.positions, cell=rest.cell, pbc=True)
    yield rest.copy()
    yield strained(rest, np.eye(3) * rng.uniform(*STRETCHED))
    for rattle in RATTLES:
        yield rattled(strained(rest, random_strain(STRAIN, rng)), rattle, rng)


@lru_cache(maxsize=1)
def _calculator(model: str, head: str) -> GFMCalculator:
    torch.set_num_threads(1)
    return GFMCalculator(model, head=head, device="cpu", compile=False)  # the same whenever it began


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
    inputs = [
        Begin(given.model, given.head, atoms, group, parents.held_out_like(atoms))
        for atoms, group in drawn
        if set(atoms.symbols) <= set(known)
    ]
    if not inputs:
        raise SystemExit(f"error: {given.crystals} has no crystals of the elements of {given.head}")
    of = f"{fingerprint(calculator.potential)} {given.head}".encode() + b"".join(one.identity() for one in inputs)
    labels = load_arrays(given.crystals)["group_labels"]
    Labelling(label, PART, META | ABOUT, {"group_labels": labels}).run(given.out, inputs, of, given.seed, given.workers)


if __name__ == "__main__":
    main()
