"""QM9's properties and their units; what its published files have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Floats, Frame, Rejected
from gfmpot.finetune.reader import Example
from gfmpot.units import HARTREE

ENERGIES = ("u0", "u", "h", "g")
UNITS = {
    **{"mu": "D", "alpha": "Bohr^3", "homo": "eV", "lumo": "eV", "gap": "eV", "r2": "Bohr^2", "zpve": "eV"},
    **{"cv": "cal/mol/K"},
    **{f"{name}_atomization": "eV" for name in ENERGIES},
}
PUBLISHED = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", *ENERGIES, "cv")
"""Properties in the order of the published files, which have energies in Hartree."""

NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
ATOMS = {
    "u0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "u": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "h": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "g": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
}
"""Hartree, of free atoms at the dataset's level of theory: its ``atomref.txt``."""

Ints = NDArray[np.int64]


class Form(ABC):
    """One of the forms in which QM9 is published.

    Attributes:
        path: the file or folder.
        indices: (S,) numbers in GDB-9, from 1.
    """

    path: Path
    indices: Ints

    @abstractmethod
    def read(self, rows: Sequence[int]) -> Iterator[Example | Rejected]:
        """The molecules at ``rows``, which ascend."""


def of_published(index: int, numbers: Ints, positions: Floats, values: Mapping[str, float]) -> Example:
    """A molecule of n atoms.

    Args:
        index: number in GDB-9.
        numbers: (n,).
        positions: (n, 3) Å.
        values: what ``PUBLISHED`` lists, energies in Hartree.

    Raises:
        ValueError: an element that QM9 does not have.
    """
    energies = {name: values[name] * HARTREE for name in ("homo", "lumo", "gap", "zpve")}
    others = {name: values[name] for name in ("mu", "alpha", "r2", "cv")}
    bound = {f"{name}_atomization": values[name] * HARTREE - of_free_atoms(name, numbers) for name in ENERGIES}
    return example(index, numbers, positions, values["u0"] * HARTREE, {**others, **energies, **bound})


def of_free_atoms(name: str, numbers: Ints) -> float:
    """eV, of the atoms of a molecule on their own; ``name`` is one of ``ENERGIES``.

    Raises:
        ValueError: an element that QM9 does not have.
    """
    unknown = set(numbers.tolist()) - set(ATOMS[name])
    if unknown:
        raise ValueError(f"QM9 has H, C, N, O and F, got atomic numbers {sorted(unknown)}")
    return sum(ATOMS[name][z] for z in numbers.tolist()) * HARTREE


def example(index: int, numbers: Ints, positions: Floats, energy: float, targets: Mapping[str, float]) -> Example:
    """A molecule with properties in ``UNITS`` and its energy in eV.

    Its group is its number, as in other sets that are made of these molecules, so that it is on the same side there.
    """
    frame = Frame(numbers, positions, energy, np.full((len(numbers), 3), np.nan), str(index))
    return Example(frame, f"gdb_{index}", {name: targets[name] for name in UNITS})


def atomic_numbers(symbols: Sequence[str]) -> Ints:
    """(n,) of symbols.

    Raises:
        ValueError: an element that QM9 does not have.
    """
    unknown = sorted(set(symbols) - set(NUMBERS))
    if unknown:
        raise ValueError(f"QM9 has H, C, N, O and F, got {', '.join(map(repr, unknown))}")
    return np.array([NUMBERS[symbol] for symbol in symbols], dtype=np.int64)
