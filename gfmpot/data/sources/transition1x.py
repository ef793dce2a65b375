"""Transition1x: structures on and around the paths of ten thousand organic reactions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._hdf5 import child, conformations, few, open_hdf5
from gfmpot.data.sources._scale import ASE_UNITS
from gfmpot.data.split import SplitName

NEEDED = ("atomic_numbers", "positions", "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces")
SIDES: dict[str, SplitName] = {"train": "train", "val": "valid", "test": "test"}


class Transition1x(Source):
    """``Transition1x.h5``; a record is a reaction: reactant, product, then all images of the path's search.

    That is what the publishers' own loader yields, and it makes the published number of structures: the group
    ``transition_state`` repeats an image of the path.
    """

    info = SourceInfo(
        branch="transition1x-wb97x",
        title="Transition1x",
        theory="ωB97x/6-31G(d), ORCA 5.0.2",
        format="HDF5, one file",
        layout="dataloader.py of https://gitlab.com/matschreiner/Transition1x: {data, train, val, test}/formula/"
        "reaction/{atomic_numbers (n,), positions (c, n, 3), wB97x_6-31G(d).energy (c,), wB97x_6-31G(d).forces "
        "(c, n, 3), reactant, product, transition_state}; train, val and test refer to the reactions in data",
        units="eV, Å, eV/Å",
        charge_spin="not in the file; neutral molecules, multiplicity left unspecified",
        licence="MIT",
        citation="Schreiner et al., Sci. Data 9, 779 (2022), doi:10.1038/s41597-022-01870-w",
        url="https://doi.org/10.6084/m9.figshare.19614657",
        elements=("H", "C", "N", "O"),
        compounds="Organic molecules",
        published_split="train, val and test, by reaction",
        paper_theory="DFT (ωB97x/6-31G(d))",
        paper_structures=9_644_740,
    )
    suffixes = (".h5", ".hdf5")

    def count(self, path: Path) -> int:
        """Number of reactions."""
        with open_hdf5(path) as file:
            return len(_reactions(file, path))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """The structures of each reaction."""
        with open_hdf5(path) as file:
            for reaction in _reactions(file, path)[start:stop]:
                for part in ("/reactant", "/product", ""):
                    place = f"data/{reaction.formula}/{reaction.name}{part}"
                    yield from conformations(file, place, NEEDED, path.name, ASE_UNITS, reaction.split)


class _Reaction(NamedTuple):
    formula: str
    name: str
    split: SplitName | None


def _reactions(file: Mapping[str, Any], path: Path) -> list[_Reaction]:
    if not {"data", *SIDES} <= set(file):
        raise ValueError(
            f"{path}: expected the layout of Transition1x, which has the groups data, train, val and test at the top; "
            f"got {few(file)}"
        )
    try:
        sides = {pair: side for key, side in SIDES.items() for pair in _pairs(child(file, key))}
        return [_Reaction(*pair, sides.get(pair)) for pair in _pairs(child(file, "data"))]
    except ValueError as error:
        raise ValueError(f"{path}: expected groups {{data, train, val, test}}/formula/reaction, but {error}") from error


def _pairs(formulas: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for formula in sorted(formulas):
        for name in sorted(child(formulas, formula)):
            yield formula, name
