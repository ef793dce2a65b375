"""The folder of a run: what is in it, and which blocks are done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfmpot.inference.screening.inputs import RESULTS
from gfmpot.inference.screening.locks import Locks
from gfmpot.inference.screening.tables import remove_abandoned, whole


class Folder:
    """Where a run keeps its results.

    ====================================  =======================================================================
    ``results.parquet/block-*.parquet``   the table of each block; that it is there means that the block is done
    ``quarantine/block-*.jsonl``          what was left out of a block, with reasons
    ``relaxed/block-*.extxyz``            final structures of relaxations
    ``run.json``                          what the run is
    ``locks``                             who works at what
    ====================================  =======================================================================

    What is written when all blocks are done: ``quarantine.jsonl``, ``report.json``, ``report.txt``, ``top.*``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path = Path(path)
        self.results, self.quarantine, self.relaxed = path / RESULTS, path / "quarantine", path / "relaxed"
        self.run, self.locks = path / "run.json", path / "locks"

    def table(self, block: int) -> Path:
        """Results of a block."""
        return self.results / f"block-{block:07}.parquet"

    def refusals(self, block: int) -> Path:
        """What was left out of a block."""
        return self.quarantine / f"block-{block:07}.jsonl"

    def finals(self, block: int) -> Path:
        """Relaxed structures of a block."""
        return self.relaxed / f"block-{block:07}.extxyz"

    def done(self) -> set[int]:
        """Numbers of the blocks that are done."""
        numbers = (path.stem.removeprefix("block-") for path in self.results.glob("block-*.parquet"))
        return {int(number) for number in numbers if number.isdigit()}

    def prepare(self, *, overwrite: bool = False) -> None:
        """Make the folder, or empty it.

        Raises:
            FileExistsError: it holds something else than a run, or another process works in it.
            OSError: it cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file: give a folder for the results")
        if self.path.is_dir() and not self.run.exists() and not self._is_new():
            raise FileExistsError(f"{self.path} holds other things than a screening: choose another folder")
        if overwrite and self.run.exists():
            with Locks(self.locks) as locks:
                if not locks.alone():
                    raise FileExistsError(f"another process is screening into {self.path}: end it first")
            shutil.rmtree(self.path)
        for path in (self.results, self.quarantine):
            path.mkdir(parents=True, exist_ok=True)
        for path in (self.path, self.results, self.quarantine, self.relaxed):
            remove_abandoned(path)

    def _is_new(self) -> bool:
        own = {self.results, self.quarantine, self.locks}
        return all(path in own or path.name.endswith(".partial") for path in self.path.iterdir())


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, whole or not at all."""
    with whole(path) as partial, partial.open("w") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read_lines(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The objects in some files."""
    for path in paths:
        with path.open() as file:
            yield from map(json.loads, file)
