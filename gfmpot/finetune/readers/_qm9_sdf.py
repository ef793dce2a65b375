"""QM9 as DeepChem and PyG download it: ``gdb9.sdf`` and ``gdb9.sdf.csv``.

Layout: the geometries in an SD file (V2000, titles ``gdb_1`` and so on), the properties in the columns ``mol_id, A, B,
C, mu, alpha, homo, lumo, gap, r2, zpve, u0, u298, h298, g298, cv`` and more, with energies in Hartree.
"""

from __future__ import annotations

import csv
import mmap
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gfmpot.data.frame import Floats, Rejected
from gfmpot.finetune.reader import Example
from gfmpot.finetune.readers._qm9 import PUBLISHED, Form, Ints, atomic_numbers, of_published

COLUMNS = tuple({"u": "u298", "h": "h298", "g": "g298"}.get(name, name) for name in PUBLISHED)
END = re.compile(rb"^\$\$\$\$\r?\n?", re.MULTILINE)


class Sdf(Form):
    """Both files; the first is looked through for where molecules begin."""

    def __init__(self, path: Path, table: Path) -> None:
        """Open ``path`` with the properties in ``table``.

        Raises:
            ValueError: a file of another layout, or cut off; or files that do not belong together.
        """
        self.path = path
        self.indices, self._values = _table(table)
        self._offsets = _offsets(path)
        if len(self._offsets) - 1 != len(self.indices):
            raise ValueError(
                f"{path} has {len(self._offsets) - 1} molecules, {table.name} has {len(self.indices)}: one of them is "
                "cut off, or they do not belong together; download them again"
            )

    def read(self, rows: Sequence[int]) -> Iterator[Example | Rejected]:
        """Those molecules only are parsed."""
        with self.path.open("rb") as file:
            for row in rows:
                file.seek(self._offsets[row])
                text = file.read(int(self._offsets[row + 1] - self._offsets[row])).decode(errors="replace")
                try:
                    yield self._molecule(text, row)
                except (ValueError, IndexError) as error:
                    yield Rejected(f"{self.path.name}:{row}", f"not a molecule of QM9: {error}")

    def _molecule(self, text: str, row: int) -> Example:
        index, lines = int(self.indices[row]), text.splitlines()
        if lines[0].strip() != f"gdb_{index}":
            raise ValueError(f"the table has gdb_{index} in this row, the structure is {lines[0][:40]!r}")
        numbers, positions = _atoms(lines)
        return of_published(index, numbers, positions, dict(zip(PUBLISHED, self._values[row].tolist(), strict=True)))


def _atoms(lines: Sequence[str]) -> tuple[Ints, Floats]:
    """Atomic numbers (n,) and positions (n, 3) Å of a V2000 block."""
    atoms = int(lines[3][:3])
    block = lines[4 : 4 + atoms]
    if "V2000" not in lines[3] or len(block) != atoms or "M  END" not in lines:
        raise ValueError(f"expected a V2000 block of {atoms} atoms that ends in 'M  END'")
    positions = [[float(line[0:10]), float(line[10:20]), float(line[20:30])] for line in block]
    return atomic_numbers([line[31:34].strip() for line in block]), np.array(positions)


def _offsets(path: Path) -> Ints:
    """(S + 1,) bytes, where molecules begin, and the end of the last."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        ends = [match.end() for match in END.finditer(data)]
        if not ends or data[ends[-1] :].strip():
            raise ValueError(f"{path}: expected molecules that end in '$$$$', but the last one does not: it is cut off")
    return np.array([0, *ends], dtype=np.int64)


def _table(path: Path) -> tuple[Ints, Floats]:
    """Numbers in GDB-9 (S,), and what ``COLUMNS`` lists (S, 12)."""
    with path.open(newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        missing = [name for name in ("mol_id", *COLUMNS) if name not in header]
        if missing:
            raise ValueError(f"{path}: missing columns {', '.join(missing)}; got {', '.join(header)[:200]!r}")
        name, places = header.index("mol_id"), [header.index(column) for column in COLUMNS]
        try:
            found = [(int(row[name].removeprefix("gdb_")), [float(row[place]) for place in places]) for row in rows]
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}: line {rows.line_num} is damaged or cut off: {error}") from error
    return np.array([index for index, _ in found], dtype=np.int64), np.array([values for _, values in found])
