"""Any ASE database in LMDB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources._aselmdb import AseLmdb, atoms_of
from gfmpot.data.sources._generic import AtomsSource, generic_info


@dataclass(frozen=True)
class AnyAseLmdb(AtomsSource):
    """Rows of a ``.aselmdb``; labels are the row's energy, forces and stress, or the named entries of its data."""

    info = generic_info(
        "ASE databases in LMDB",
        format="LMDB of zlib-compressed JSON rows (.aselmdb)",
        layout="ase_db_backends/aselmdb.py of https://gitlab.com/ase/ase-db-backends",
        charge_spin="'charge' (whole number) and 'spin' (multiplicity) in a row's data or key-value pairs; else 0 and "
        "unspecified",
    )
    suffixes = (".aselmdb",)

    def count(self, path: Path) -> int:
        """Number of rows."""
        return len(AseLmdb(path))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per row, in the order of their ids."""
        database = AseLmdb(path)
        for index in range(start, min(stop, len(database))):
            try:
                atoms = atoms_of(database.row(index))
            except ValueError as error:
                yield Rejected(f"{path.name}:{database.ids[index]}", str(error))
            else:
                yield self.frame(atoms, path, index)
