"""QM9 as the package qm9pack on PyPI has it: ``data/qm9_part1.csv`` to ``qm9_part3.csv``.

Layout (``qm9pack_utility.py`` of release 1.0.3): elements and coordinates in Å are lists as Python writes them,
energies are in Hartree. The molecules that failed the consistency check are not in it.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gfmpot.data.frame import Rejected
from gfmpot.finetune.reader import Example
from gfmpot.finetune.readers._qm9 import Form, atomic_numbers, of_published

COLUMNS = {
    "mu": "Dipole_debye",
    "alpha": "Polarizability_bohr3",
    "homo": "HOMO_au",
    "lumo": "LUMO_au",
    "gap": "HOMO_LUMO_gap_au",
    "r2": "R2_bohr2",
    "zpve": "ZPVE_au",
    "u0": "InternalEnergy_0K_au",
    "u": "InternalEnergy_298K_au",
    "h": "Enthalphy_298K_au",
    "g": "GibbsFreeEnergy_298K_au",
    "cv": "Heatcapacity_Cv_cal_mol_K",
}
NEEDED = ("Index", "Elements", "XYZ_Ang", *COLUMNS.values())


class Tables(Form):
    """One molecule a line; lines are found first, then those wanted are parsed."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        """Look through ``files``; ``path`` is what they were found at.

        Raises:
            ValueError: a file of another layout, or cut off.
        """
        self.path = path
        self._lines = [(table, *place) for table in map(_Table, files) for place in table.places]
        self.indices = np.array([index for _, _, index in self._lines], dtype=np.int64)

    def read(self, rows: Sequence[int]) -> Iterator[Example | Rejected]:
        """The molecules in those lines."""
        for row in rows:
            table, offset, index = self._lines[row]
            try:
                yield _molecule(table.line(offset), index)
            except (ValueError, KeyError, SyntaxError, TypeError) as error:
                yield Rejected(f"{table.path.name}:{index}", f"not a molecule of QM9: {error!r}")


class _Table:
    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._header = next(csv.reader([file.readline().decode(errors="replace")]), [])
            missing = [name for name in NEEDED if name not in self._header]
            if missing or self._header[1] != "Index":
                raise ValueError(
                    f"{path}: expected the columns of qm9pack, XYZ_file, Index and so on; missing "
                    f"{', '.join(missing) or 'none'}, got {', '.join(self._header)[:200]!r}"
                )
            self.places: list[tuple[int, int]] = []
            offset = file.tell()
            for line in file:
                self.places.append((offset, _index(line, path)))
                offset += len(line)

    def line(self, offset: int) -> dict[str, str]:
        """The line that begins at ``offset``, by column."""
        with self.path.open("rb") as file:
            file.seek(offset)
            (row,) = csv.reader([file.readline().decode()])
        return dict(zip(self._header, row, strict=True))


def _index(line: bytes, path: Path) -> int:
    try:
        return int(line.split(b",", 2)[1])
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: expected an index in the second column, got {line[:60]!r}: it is cut off") from error


def _molecule(line: dict[str, str], index: int) -> Example:
    numbers = atomic_numbers(ast.literal_eval(line["Elements"]))
    flat = line["XYZ_Ang"].replace("[", "").replace("]", "").split(",")  # five times as fast as a parser of literals
    values = {name: float(line[column]) for name, column in COLUMNS.items()}
    return of_published(index, numbers, np.array(flat, dtype=np.float64).reshape(len(numbers), 3), values)
