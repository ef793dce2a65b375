"""Open Catalyst 2025: solid-liquid interfaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gfmpot.data.frame import Frame
from gfmpot.data.source import SourceInfo
from gfmpot.data.sources._aselmdb import AseLmdbSource, Row, data_of, periodic
from gfmpot.data.split import SplitName


class OC25(AseLmdbSource):
    """Shards ``train/*.aselmdb`` and ``val/*.aselmdb``; the group is the calculation in ``data['source']``."""

    info = SourceInfo(
        branch="oc25-rpbe",
        title="Open Catalyst 2025 (OC25)",
        theory="RPBE-D3(zero damping), PAW, 400 eV, not spin-polarised, VASP",
        format="ASE databases in LMDB (.aselmdb)",
        layout="https://huggingface.co/facebook/OC25; data {source, fid, total_drift}; rows as in "
        "https://gitlab.com/ase/ase-db-backends",
        units="eV (total), Å, eV/Å",
        charge_spin="not in the files; neutral cells (ions included), multiplicity left unspecified",
        licence="CC-BY-4.0",
        citation="Sahoo et al., arXiv:2509.17862 (2025)",
        url="https://huggingface.co/facebook/OC25",
        compounds="2D alloy slabs with catalysts",
        published_split="train, val and test by folder",
        paper_theory="DFT (PBE(+U)/PAW)",
        paper_structures=7_599_142,
    )
    splits: ClassVar[Mapping[str, SplitName]] = {"train": "train", "val": "valid", "test": "test"}

    def frame(self, row: Row, split: SplitName | None) -> Frame:
        """A slab in a liquid."""
        source = data_of(row).get("source")
        if not source:
            raise ValueError(f"no source in data, which has {', '.join(data_of(row)) or 'nothing'}")
        return periodic(row, str(source), split)
