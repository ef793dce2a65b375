"""∇²DFT: conformations of drug-like molecules from MOSES."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gfmpot.data.frame import Floats, Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._ase_db import count_rows, metadata, read_rows
from gfmpot.data.sources._molecules import molecule
from gfmpot.data.sources._scale import Scale
from gfmpot.data.split import SplitName

SCALE = Scale.of("Hartree", "Å")
UNITS = {"distance": "Ang", "energy": "Hartree", "forces": "Hartree/Ang"}


class Nabla2DFT(Source):
    """The energy databases, e.g. ``train_100k_v2_formation_energy_w_forces.db``; a record is a conformation.

    The energies stored are total energies less the sum of free-atom energies in the database's metadata, which are
    added again here. Databases whose names lack "forces" hold energies alone.
    """

    info = SourceInfo(
        branch="nabla2dft-wb97xd",
        title="∇²DFT",
        theory="ωB97X-D/def2-SVP, Psi4",
        format="ASE SQLite databases",
        layout="https://github.com/AIRI-Institute/nablaDFT (README, links/energy_databases.json, "
        "tests/data/raw/test_database.db): data {energy (1,), forces (n, 3)}, keys moses_id, conformation_id, smiles; "
        "metadata atomrefs, _distance_unit, _property_unit_dict",
        units="Hartree less the free atoms of metadata['atomrefs'], Å, Hartree/Å",
        charge_spin="not in the files; neutral molecules, multiplicity left unspecified",
        licence="MIT",
        citation="Khrabrov et al., NeurIPS 2024, arXiv:2406.14347",
        url="https://github.com/AIRI-Institute/nablaDFT",
        elements=("H", "C", "N", "O", "F", "S", "Cl", "Br"),
        compounds="Organic molecules",
        published_split="train and test by file; the test set of conformations shares molecules with train",
        paper_theory="DFT (ωB97X-D/def2-SVP)",
        paper_structures=10_392_954,
    )
    suffixes = (".db",)

    def count(self, path: Path) -> int:
        """Number of conformations."""
        return count_rows(path)

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per row; the group is the molecule."""
        atoms, split = _free_atoms(path), _split(path)

        def frame(row: Any, index: int) -> Frame | Rejected:
            return _frame(row, f"{path.name}:{index}", atoms, split)

        yield from read_rows(path, start, stop, frame)


def _frame(row: Any, where: str, free_atoms: Floats, split: SplitName | None) -> Frame | Rejected:
    if "energy" not in row.data:
        return Rejected(where, f"no energy in the row's data, which holds {', '.join(row.data) or 'nothing'}")
    reference = free_atoms[row.numbers].sum() if row.numbers.max() < len(free_atoms) else np.nan
    if np.isnan(reference):
        return Rejected(where, "an element without a free-atom energy in the database's metadata")
    return molecule(
        where,
        row.numbers,
        row.positions,
        np.asarray(row.data["energy"]) + reference,
        row.data.get("forces", np.full(row.positions.shape, np.nan)),
        group=f"moses-{row.moses_id}" if "moses_id" in row else f"smiles-{row.smiles}",
        scale=SCALE,
        split=split,
    )


def _free_atoms(path: Path) -> Floats:
    """(Z + 1,) Hartree, NaN where there is none; index = atomic number."""
    known = metadata(path)
    atoms = known.get("atomrefs", {}).get("energy")
    units = {"distance": known.get("_distance_unit"), **known.get("_property_unit_dict", {})}
    units.setdefault("forces", UNITS["forces"])  # some databases have none
    if atoms is None or any(units.get(key) != expected for key, expected in UNITS.items()):
        raise ValueError(
            f"{path}: expected the metadata of ∇²DFT with atomrefs of the energy and units {UNITS}; got the keys "
            f"{', '.join(known) or 'none'} and units {units}"
        )
    energies = np.asarray(atoms, dtype=np.float64)
    return np.where(energies == 0, np.nan, energies)


def _split(path: Path) -> SplitName | None:
    words = re.split(r"[_.]", path.stem)
    return "train" if "train" in words else "test" if "test" in words else None
