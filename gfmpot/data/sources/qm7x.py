"""QM7-X: equilibrium and displaced structures of all molecules with up to seven C, N, O, S, Cl atoms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.source import Source, SourceInfo
from gfmpot.data.sources._hdf5 import array, child, few, open_hdf5
from gfmpot.data.sources._molecules import molecule

NEEDED = ("atNUM", "atXYZ", "ePBE0+MBD", "totFOR")


class QM7X(Source):
    """Files ``1000.hdf5`` to ``8000.hdf5`` (published as ``.xz``, to be unpacked); a record is a molecule.

    A molecule is a group, e.g. ``/1``, and holds its conformations, e.g. ``/1/Geom-m1-i1-c1-opt``: SMILES 1,
    stereoisomer 1, conformer 1, optimised (``-d1`` to ``-d100`` are displaced).
    """

    info = SourceInfo(
        branch="qm7x-pbe0-mbd",
        title="QM7-X",
        theory="PBE0+MBD, FHI-aims, tight settings (geometries: DFTB3+MBD)",
        format="HDF5, one file per 1,000 molecules",
        layout="README.txt and createDB.py of https://zenodo.org/records/4288677: molecule/conformation/{atNUM, atXYZ, "
        "ePBE0+MBD, totFOR, ...}; equilibrium structures that occur twice (DupMols.dat) are kept",
        units="eV, Å, eV/Å",
        charge_spin="not in the files; neutral molecules, multiplicity left unspecified",
        licence="CC-BY-4.0",
        citation="Hoja et al., Sci. Data 8, 43 (2021), doi:10.1038/s41597-021-00812-2",
        url="https://zenodo.org/records/4288677",
        elements=("H", "C", "N", "O", "S", "Cl"),
        compounds="Organic molecules",
        paper_theory="DFT (PBE0+MBD)",
        paper_structures=8_390_474,
    )
    suffixes = (".hdf5",)

    def count(self, path: Path) -> int:
        """Number of molecules."""
        with open_hdf5(path) as file:
            return len(_names(file, path))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """All conformations of each molecule."""
        with open_hdf5(path) as file:
            for name in _names(file, path)[start:stop]:
                where = f"{path.name}:{name}"
                try:
                    conformations = child(file, name)
                except ValueError as error:
                    yield Rejected(where, str(error))
                    continue
                for key in sorted(conformations):
                    yield _frame(conformations, key, f"{where}/{key}", f"qm7x-{name}")


def _names(file: Mapping[str, Any], path: Path) -> list[str]:
    names = sorted(file)
    first = file[names[0]] if names else {}
    conformations = list(first) if isinstance(first, Mapping) else []
    inside = first[conformations[0]] if conformations else {}
    missing = [key for key in NEEDED if not isinstance(inside, Mapping) or key not in inside]
    if missing:
        raise ValueError(
            f"{path}: expected the layout of QM7-X, molecule/conformation/{{{', '.join(NEEDED)}}}; at the top are "
            f"{few(names)} and the first conformation has no {', '.join(missing)}"
        )
    return names


def _frame(conformations: Mapping[str, Any], key: str, where: str, group: str) -> Frame | Rejected:
    try:
        conformation = child(conformations, key)
        numbers, positions, energy, forces = (array(conformation, label) for label in NEEDED)
    except ValueError as error:
        return Rejected(where, str(error))
    return molecule(where, numbers, positions, energy, forces, group=group)
