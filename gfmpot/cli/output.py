"""What verbs write: tables of results, and structures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gfmpot.atomic import atomic
from gfmpot.config import did_you_mean

if TYPE_CHECKING:
    from ase import Atoms

Record = Mapping[str, Any]


class Finals:
    """Writes final structures: each to the folder at once, or all to one file at the end, however the end comes."""

    def __init__(self, out: Path | None, count: int) -> None:
        self.out = out
        self.collected: dict[int, Atoms] = {}
        self.folder = out is not None and (out.is_dir() or not out.suffix)
        if out is not None and self.folder:
            out.mkdir(parents=True, exist_ok=True)
        elif out is not None:
            check_folder(out)
            _check_format(out, count)

    def add(self, place: int, name: str, atoms: Atoms) -> None:
        """One more; ``place`` is where it belongs in a file."""
        if self.out is not None and self.folder:
            write_structures(self.out / f"{name}.extxyz", [atoms])
        else:
            self.collected[place] = atoms

    def __enter__(self) -> None:
        """Nothing is open before something is added."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.out is not None and self.collected:
            write_structures(self.out, [self.collected[place] for place in sorted(self.collected)])


def check_output(path: Path, suffixes: Iterable[str]) -> None:
    """Refuse a result file that could not be written, before anything is computed.

    Raises:
        ValueError: unknown suffix, no such folder, or pyarrow is missing.
    """
    known = sorted(suffixes)
    if path.suffix not in known:
        raise ValueError(f"{path}: unknown suffix {path.suffix!r}{did_you_mean(path.suffix, known)}")
    check_folder(path)
    if path.suffix == ".parquet":
        from gfmpot.inference.screening.tables import pyarrow

        pyarrow()


def check_folder(path: Path) -> None:
    """Refuse a file in a folder that does not exist."""
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")


def check_checkpoint(path: Path) -> None:
    """Refuse a name that no checkpoint has, or a folder that does not exist."""
    if path.suffix != ".safetensors":
        raise ValueError(f"--out {path}: the name of a checkpoint ends in .safetensors")
    check_folder(path)


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """A table; mappings are JSON, and what is undefined is empty."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, records[0])
        writer.writeheader()
        for record in records:
            writer.writerow({k: json.dumps(v) if isinstance(v, Mapping) else v for k, v in _defined(record).items()})


def write_json(path: Path, records: Sequence[Record]) -> None:
    """A list of objects; what is undefined is null."""
    path.write_text(json.dumps([_defined(record) for record in records], indent=1))


def write_parquet(path: Path, records: Sequence[Record]) -> None:
    """Columns with types; what is undefined is null."""
    from gfmpot.inference.screening.tables import pyarrow

    arrow = pyarrow()
    arrow.parquet.write_table(arrow.Table.from_pylist([_defined(record) for record in records]), path)


TABLES: dict[str, Callable[[Path, Sequence[Record]], None]] = {
    ".csv": write_csv,
    ".json": write_json,
    ".parquet": write_parquet,
}
"""What writes records, by suffix."""


def _defined(record: Record) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}


def _check_format(out: Path, count: int) -> None:
    from ase.io.formats import filetype, ioformats

    try:
        known = ioformats[filetype(str(out), read=False)]
    except KeyError as error:
        raise ValueError(
            f"{out}: ASE writes no {out.suffix!r} files; use .extxyz, .cif, .vasp, .xsf, .traj ..."
        ) from error
    if not known.can_write:
        raise ValueError(f"{out}: ASE reads {out.suffix!r} files but cannot write them; use .extxyz")
    if known.single and count > 1:
        raise ValueError(
            f"{out} holds one structure, got {count}; give a folder, or a file such as {out.with_suffix('.extxyz')}"
        )


def write_structures(path: Path, frames: Sequence[Atoms]) -> None:
    """Structures in ASE's format for the suffix, with energy, forces and stress where it has room for them."""
    from ase.io import write

    with atomic(path) as partial:
        write(partial, frames)
