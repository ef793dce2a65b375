"""The results of one block, until it is written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfmpot.inference.screening.evaluating import Rows
from gfmpot.inference.screening.folder import Folder, write_lines
from gfmpot.inference.screening.inputs import Block
from gfmpot.inference.screening.preparing import Refused
from gfmpot.inference.screening.tables import Table, whole
from gfmpot.inference.screening.where import Where

if TYPE_CHECKING:
    from ase import Atoms


class Assembly:
    """What has come of a block so far."""

    def __init__(self, block: Block, table: Table, where: Where | None) -> None:
        self.block, self._table, self._where = block, table, where
        self._rows, self._refused = [table.no_rows()], list[Refused]()
        self.structures = self.atoms = self.edges = self.not_selected = 0
        self.seconds: dict[str, float] = {}
        self._began = time.time()

    def add(self, rows: Rows, refused: list[Refused], edges: int) -> None:
        """Results of a piece, from graphs of so many ``edges``."""
        self.structures += len(rows) + len(refused)
        self.atoms, self.edges = self.atoms + int(rows.natoms.sum()), self.edges + edges
        chosen = rows if self._where is None else rows.select(self._where(self._table.columns(rows)))
        self.not_selected += len(rows) - len(chosen)
        self._rows.append(chosen)
        self._refused += refused

    def spent(self, seconds: Mapping[str, float]) -> None:
        """Time by what it was spent on."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def write(self, folder: Folder, whose: Mapping[str, Any]) -> None:
        """Put it into the folder; the table comes last, since it says that the block is done.

        Args:
            folder: of the run.
            whose: who did it and how, for the summary.
        """
        rows, number = Rows.join(self._rows), self.block.number
        if self._refused:
            in_order = sorted(self._refused, key=lambda refused: (refused.input, refused.index))
            write_lines(folder.refusals(number), map(self._line, in_order))
        else:
            folder.refusals(number).unlink(missing_ok=True)  # of one who was killed before the table
        if rows.relaxations:
            folder.relaxed.mkdir(exist_ok=True)
            self._write_finals(folder.finals(number), rows)
        else:
            folder.finals(number).unlink(missing_ok=True)
        self._table.write(folder.table(number), rows, {**self._summary(len(rows)), **whose})

    def _summary(self, written: int) -> dict[str, Any]:
        return {
            "block": self.block.number,
            "records": self.block.records,
            "structures": self.structures,
            "written": written,
            "not_selected": self.not_selected,
            "quarantined": len(self._refused),
            "atoms": self.atoms,
            "edges": self.edges,
            "seconds": self.seconds,
            "began": self._began,
            "ended": time.time(),
        }

    def _line(self, refused: Refused) -> dict[str, Any]:
        file = self._table.paths[refused.input]
        return {"file": file, "index": refused.index, "formula": refused.formula or None, "reason": refused.reason}

    def _write_finals(self, path: Path, rows: Rows) -> None:
        from ase.io import write

        finals: list[Atoms] = []
        for item, index, end in zip(rows.inputs, rows.indices, rows.relaxations, strict=True):
            finals.append(end.atoms.copy())
            finals[-1].calc = end.atoms.calc
            finals[-1].info |= {"file": self._table.paths[item], "index": int(index)}
        with whole(path) as partial:
            write(partial, finals, format="extxyz")
