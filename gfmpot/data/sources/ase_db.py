"""Any SQLite database of ASE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources._ase_db import count_rows, read_rows
from gfmpot.data.sources._generic import AtomsSource, generic_info


@dataclass(frozen=True)
class AseDb(AtomsSource):
    """Rows of a ``.db``; labels are the row's energy, forces and stress, or the named entries of its data or keys."""

    info = generic_info(
        "ASE databases",
        format="ASE SQLite databases",
        layout="https://wiki.fysik.dtu.dk/ase/ase/db/db.html",
        charge_spin="'charge' (whole number) and 'spin' (multiplicity) in a row's data or key-value pairs; else 0 and "
        "unspecified",
    )
    suffixes = (".db",)

    def count(self, path: Path) -> int:
        """Number of rows."""
        return count_rows(path)

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per row, in the order of their ids."""

        def frame(row: Any, index: int) -> Frame | Rejected:
            atoms = row.toatoms()
            atoms.info = {**row.data, **row.key_value_pairs}
            return self.frame(atoms, path, index)

        yield from read_rows(path, start, stop, frame)
