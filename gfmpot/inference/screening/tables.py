"""Results as Parquet: the columns, their types and units, and files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfmpot.inference.screening.evaluating import Floats, Rows
from gfmpot.inference.screening.where import Columns

TYPES = {
    "file": "U1",
    "index": "i8",
    "formula": "U1",
    "natoms": "i4",
    "energy": "f8",
    "energy_per_atom": "f8",
    "max_force": "f8",
    "energy_std": "f8",
    "novelty": "f8",
}
"""Columns that a condition may name, in the order of the table."""

RELAXED = {"steps": "i4", "converged": "?"}
"""The same, with a relaxation."""

UNITS = {
    "energy": "eV",
    "energy_per_atom": "eV/atom",
    "max_force": "eV/Å",
    "energy_std": "eV",
    "forces": "eV/Å",
    "stress": "eV/Å³, Voigt xx yy zz yz xz xy",
}

SUMMARY = b"gfmpot"
"""Under which key a file's metadata has the summary of its block."""


@dataclass(frozen=True)
class Table:
    """What the files of a run look like.

    Args:
        paths: of the inputs, in order.
        branches: names, in the order of the weights.
        forces: whether there is a column ``forces``.
        stress: whether there is a column ``stress``.
        relaxed: whether there are the columns of a relaxation.
    """

    paths: tuple[str, ...]
    branches: tuple[str, ...]
    forces: bool = False
    stress: bool = False
    relaxed: bool = False

    @property
    def types(self) -> dict[str, str]:
        """Column name to NumPy type, of the columns that a condition may name."""
        return TYPES | (RELAXED if self.relaxed else {})

    def no_rows(self) -> Rows:
        """An empty table."""
        whole = np.zeros(0, dtype=np.int64)
        none = np.zeros(0)
        weights, forces, stress = (np.zeros((0, n)) for n in (len(self.branches), 3, 6))
        return Rows(whole, whole, [], whole, none, none, none, none, weights, forces, stress)

    def columns(self, rows: Rows) -> Columns:
        """The columns that a condition may name."""
        found: dict[str, Any] = {
            "file": np.array([self.paths[i] for i in rows.inputs], dtype=np.str_),
            "index": rows.indices,
            "formula": np.array(rows.formulas, dtype=np.str_),
            "natoms": rows.natoms,
            "energy": rows.energy,
            "energy_per_atom": rows.energy / rows.natoms,
            "max_force": rows.max_force,
            "energy_std": rows.energy_std,
            "novelty": rows.novelty,
        }
        if self.relaxed:
            found["steps"] = np.array([end.steps for end in rows.relaxations], dtype=np.int64)
            found["converged"] = np.array([end.converged for end in rows.relaxations], dtype=bool)
        return found

    def arrow(self, rows: Rows) -> Any:
        """The table in memory; what is undefined is null."""
        pa = pyarrow()
        columns = {name: pa.array(values, from_pandas=True) for name, values in self.columns(rows).items()}
        weights = [pa.array(values) for values in rows.weights.T]
        columns["branch_weights"] = pa.StructArray.from_arrays(weights, names=list(self.branches))
        if self.forces:
            ends = pa.array(np.concatenate([[0], np.cumsum(rows.natoms)]), type=pa.int32())
            columns["forces"] = pa.ListArray.from_arrays(ends, _vectors(rows.forces, 3))
        if self.stress:
            columns["stress"] = _vectors(rows.stress, 6)
        return pa.table(columns)

    def write(self, path: Path, rows: Rows, summary: Mapping[str, Any]) -> None:
        """Write a file, with a summary of its block beside the units in its metadata."""
        import pyarrow.parquet as pq

        metadata = {SUMMARY: json.dumps(summary).encode(), b"units": json.dumps(UNITS, ensure_ascii=False).encode()}
        with whole(path) as partial:
            pq.write_table(self.arrow(rows).replace_schema_metadata(metadata), partial, compression="zstd")


def read_summary(path: Path) -> dict[str, Any]:
    """The summary that :meth:`Table.write` was given.

    Raises:
        ValueError: not such a file, or a damaged one.
    """
    import pyarrow.parquet as pq

    try:
        summary: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[SUMMARY])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and the same command does it again") from error
    return summary


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` once it is on the disk.

    The name is this process's own, and one that readers of folders pass over, should the process be killed.
    """
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what :func:`whole` was writing in processes of this machine that are no more."""
    for path in folder.glob(f".*.{socket.gethostname()}-*.partial"):
        number = path.stem.rpartition("-")[2]
        if number.isdigit() and not _is_alive(int(number)):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def pyarrow() -> Any:
    """The module.

    Raises:
        ImportError: names the extra that has it.
    """
    try:
        import pyarrow
        import pyarrow.parquet  # which takes as long as some batches: not when the first block is written
    except ImportError as error:
        raise ImportError('Parquet files need pyarrow: pip install "gfmpot[parquet]"') from error
    return pyarrow


def _vectors(values: Floats, length: int) -> Any:
    """(S, length) as one fixed-size list per row; null where nothing is defined."""
    pa = pyarrow()
    undefined = np.isnan(values).all(axis=1)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), length, mask=pa.array(undefined))
