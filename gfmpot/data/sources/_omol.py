"""What OMol25, its subsets and OPoly26 share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from gfmpot.data.frame import Frame
from gfmpot.data.source import SourceInfo
from gfmpot.data.sources._aselmdb import AseLmdbSource, Row, molecule
from gfmpot.data.split import SplitName

WHOLE = SourceInfo(
    branch="omol25-wb97mv",
    title="Open Molecules 2025 (OMol25)",
    theory="ωB97M-V/def2-TZVPD, ORCA 6",
    format="ASE databases in LMDB (.aselmdb)",
    layout="DATASET.md of https://huggingface.co/facebook/OMol25: data {source, data_id, charge, spin, composition, "
    "...}; rows as in https://gitlab.com/ase/ase-db-backends",
    units="eV (total), Å, eV/Å",
    charge_spin="data['charge'] and data['spin'] (multiplicity) of every molecule",
    licence="CC-BY-4.0",
    citation="Levine et al., arXiv:2505.08762 (2025)",
    url="https://huggingface.co/facebook/OMol25",
    compounds="Organic molecules",
    published_split="train, train_4M and val (compositions not in train), and test without labels: by folder",
    paper_theory="DFT (ωB97M-V/def2-TZVPD)",
    paper_structures=104_428_301,
)


class OMolSource(AseLmdbSource):
    """Molecules in vacuum; the group is the sum formula, without charge.

    Everything that can leak shares it: conformers and reaction paths, ions and spin states of a molecule, the same
    molecule in a subset or in another dataset grouped by formula. The publishers held out compositions as well.
    """

    splits: ClassVar[Mapping[str, SplitName]] = {"train(_4M)?": "train", "val": "valid", "test": "test"}

    def frame(self, row: Row, split: SplitName | None) -> Frame:
        """A molecule with its charge and multiplicity."""
        return molecule(row, split)


def subset(branch: str, title: str, structures: int, published_split: str) -> SourceInfo:
    """Description of a part of OMol25."""
    return replace(WHOLE, branch=branch, title=title, paper_structures=structures, published_split=published_split)
