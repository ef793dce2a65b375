"""The folder of a run: what is in it, and which blocks are done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gfmpot.inference.screening.inputs import RESULTS
from gfmpot.inference.screening.locks import Locks
from gfmpot.inference.screening.tables import remove_abandoned, whole

FINDINGS = ("quarantine.jsonl", "report.json", "report.txt", "distributions.png", "top.parquet", "top.extxyz")
"""What is written when all blocks are done."""


class Folder:
    """Where a run keeps its results.

    ====================================  =======================================================================
    ``results.parquet/block-*.parquet``   the table of each block; that it is there means that the block is done
    ``quarantine/block-*.jsonl``          what was left out of a block, with reasons
    ``relaxed/block-*.extxyz``            final structures of relaxations
    ``run.json``                          what the run is
    ``locks``                             who works at what
    ====================================  =======================================================================

    :data:`FINDINGS` come when all blocks are done.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path = Path(path)
        self.results, self.quarantine, self.relaxed = path / RESULTS, path / "quarantine", path / "relaxed"
        self.run, self.locks, self.report = path / "run.json", path / "locks", path / "report.json"

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

    def check(self, inputs: Iterable[Path]) -> None:
        """Whether a run with these inputs may be here.

        Raises:
            FileExistsError: it holds something else than a run.
            ValueError: an input is inside.
        """
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file: give a folder for the results")
        if self.path.is_dir() and not self.run.exists() and not self._is_new():
            raise FileExistsError(f"{self.path} holds other things than a screening: choose another folder")
        here = Path(os.path.realpath(self.path))
        places = {path if path.is_symlink() else path.parent: path for path in inputs}  # fewer than there are files
        for place, path in places.items():
            real = Path(os.path.realpath(place))
            if here == real or here in real.parents:
                raise ValueError(f"{path} is in the folder for the results, {self.path}: choose another one")

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            OSError: it cannot be written.
        """
        for path in (self.results, self.quarantine):
            path.mkdir(parents=True, exist_ok=True)
        for path in (self.path, self.results, self.quarantine, self.relaxed):
            remove_abandoned(path)

    def empty(self) -> None:
        """Remove the results of a run, and nothing that is not one of its files.

        Its plan stays, so that the folder is that of a run whatever happens next.

        Raises:
            FileExistsError: another process works in it.
        """
        with Locks(self.locks) as locks:
            if not locks.alone():
                raise FileExistsError(f"another process is screening into {self.path}: end it first")
            with locks.one_at_a_time():
                self.remove_findings()
                for number in self.done():  # a block that lacks its table is not done, whatever else there is of it
                    self.table(number).unlink()
                for path in (*self.quarantine.glob("block-*.jsonl"), *self.relaxed.glob("block-*.extxyz")):
                    path.unlink()

    def has_findings(self) -> bool:
        """Whether something is there of when all blocks were done."""
        return any((self.path / name).exists() for name in FINDINGS)

    def remove_findings(self) -> None:
        """Remove what was found when all blocks were done, since they are not any more."""
        for name in FINDINGS:
            (self.path / name).unlink(missing_ok=True)

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
