"""Open Materials 2024: inorganic crystals far from equilibrium."""

from __future__ import annotations

from gfmpot.data.frame import Frame
from gfmpot.data.source import SourceInfo
from gfmpot.data.sources._aselmdb import AseLmdbSource, Row, data_of, periodic
from gfmpot.data.split import SplitName


class OMat24(AseLmdbSource):
    """``train/<sub-dataset>/*.aselmdb`` and ``val/<sub-dataset>/*.aselmdb``.

    The group is the material of Alexandria that a structure was made from, e.g. ``agm000999967``, so that a material is
    on one side in both datasets.
    """

    info = SourceInfo(
        branch="omat24-pbe-u",
        title="Open Materials 2024 (OMat24)",
        theory="PBE and PBE+U (Materials Project settings, newer pseudopotentials), PAW, VASP",
        format="ASE databases in LMDB (.aselmdb)",
        layout="https://huggingface.co/datasets/facebook/OMAT24; data {sid, parent_id, calc_id, task_type, "
        "composition_reduced, energy_corrected_mp2020, ...}; rows as in https://gitlab.com/ase/ase-db-backends",
        units="eV (total, uncorrected), Å, eV/Å, eV/Å³ in ASE's sign",
        charge_spin="not in the files; neutral cells, multiplicity left unspecified (initial_magmoms are not read)",
        licence="CC-BY-4.0",
        citation="Barroso-Luque et al., arXiv:2410.12771 (2024)",
        url="https://huggingface.co/datasets/facebook/OMAT24",
        compounds="3D inorganic compounds",
        published_split="train and val by folder",
        paper_theory="DFT (PBE(+U)/PAW)",
        paper_structures=95_023_626,
    )

    def frame(self, row: Row, split: SplitName | None) -> Frame:
        """A crystal."""
        data = data_of(row)
        made_from = data.get("parent_id") or data.get("sid")
        if not made_from:
            raise ValueError(f"neither parent_id nor sid in data, which has {', '.join(data) or 'nothing'}")
        return periodic(row, str(made_from).split("_")[0], split)
