"""Files ``*.aselmdb``: ASE databases in LMDB, in which the datasets of FAIR Chemistry are published.

The layout is that of ``LMDBDatabase`` in ase-db-backends (``ase_db_backends/aselmdb.py``, release 0.11) and of its
predecessor in fairchem-core 1.x (``fairchem/core/datasets/lmdb_database.py``): every value is zlib-compressed JSON;
rows are under the ASCII keys "1", "2", ..., the next free row number is under "nextid", and rows that were removed are
listed under "deleted_ids". The newer writer stores arrays as ``{"__ndarray__": [shape, dtype, flat list]}``, the older
one as nested lists; both are read. A row is a dictionary with the attributes of ``ase.db.row.AtomsRow``; ``data`` holds
what readers put into ``atoms.info``.
"""

from __future__ import annotations

import json
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Floats, Frame, Rejected
from gfmpot.data.source import Source
from gfmpot.data.sources._ase import floats, scalar, voigt
from gfmpot.data.sources._folders import TRAIN_VAL, split_of_folder
from gfmpot.data.sources._lmdb import Lmdb
from gfmpot.data.sources._molecules import formula
from gfmpot.data.split import SplitName
from gfmpot.graph.atom_graph import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from ase import Atoms

Row = dict[str, Any]


class AseLmdb:
    """The rows of one file, by their index in the file."""

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises:
            ImportError: the package ``lmdb`` is not installed.
            ValueError: not an LMDB file, truncated, or of another layout.
        """
        self._file = Lmdb.open(path)
        self._path = path
        self.ids = self._row_numbers()

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, index: int) -> Row:
        """Row ``index``, counted from 0 over the rows that were not removed.

        Raises:
            ValueError: it is missing or damaged.
        """
        value = self._file.get(str(self.ids[index]))
        if value is None:
            raise ValueError("the row is missing from the database")
        row = _decoded(value)
        if not isinstance(row, dict):
            raise ValueError(f"expected a row, got {str(row)[:60]!r}")
        return row

    def _row_numbers(self) -> NDArray[np.int64]:
        following = self._file.get("nextid")
        if following is None:
            raise ValueError(f"{self._path}: no key 'nextid'; an ASE database (*.aselmdb) has one, other LMDBs do not")
        try:
            rows = np.arange(1, int(_decoded(following)), dtype=np.int64)
            removed = self._file.get("deleted_ids")
            return rows if removed is None else np.setdiff1d(rows, np.array(_decoded(removed), dtype=np.int64))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self._path}: the list of rows cannot be read: {error}") from error


class AseLmdbSource(Source):
    """A dataset published as ``*.aselmdb``: eV, eV/Å and eV/Å³, total energies. A record is one row."""

    suffixes = (".aselmdb",)

    splits: ClassVar[Mapping[str, SplitName]] = TRAIN_VAL
    """Names (regular expressions) of the publishers' folders, and what they stand for."""

    def count(self, path: Path) -> int:
        """Number of rows."""
        return len(AseLmdb(path))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per row, of the rows that belong to the dataset."""
        database = AseLmdb(path)
        split = split_of_folder(path, self.splits)
        for index in range(start, min(stop, len(database))):
            try:
                frame = self.frame(database.row(index), split)
            except ValueError as error:
                yield Rejected(f"{path.name}:{database.ids[index]}", str(error))
                continue
            if self.has(frame):
                yield frame

    @abstractmethod
    def frame(self, row: Row, split: SplitName | None) -> Frame:
        """The structure in a row.

        Raises:
            ValueError: something is missing or ill-formed.
        """

    def has(self, frame: Frame) -> bool:
        """Whether a structure in the files belongs to the dataset; for datasets that are a part of another."""
        return True


def periodic(row: Row, group: str, split: SplitName | None) -> Frame:
    """A periodic structure; charge and multiplicity are not stated.

    Raises:
        ValueError: an array is missing or ill-formed.
    """
    atoms = _labelled_atoms(row)
    cell, pbc = floats(_value(row, "cell"), "cell"), floats(_value(row, "pbc"), "pbc")
    if cell.shape != (3, 3) or pbc.shape != (3,):
        raise ValueError(f"expected cell (3, 3) and pbc (3,), got {cell.shape} and {pbc.shape}")
    return Frame(
        **atoms,
        cell=cell,
        pbc=pbc.astype(bool),
        stress=voigt(_value(row, "stress")) if row.get("stress") is not None else np.full(6, np.nan),
        group=group,
        split=split,
    )


def molecule(row: Row, split: SplitName | None) -> Frame:
    """A molecule in vacuum with the charge and multiplicity in ``data``; the group is its sum formula.

    Raises:
        ValueError: an array is missing or ill-formed, or charge or multiplicity are no whole numbers.
    """
    data, atoms = data_of(row), _labelled_atoms(row)
    return Frame(
        **atoms,
        charge=_whole(data, "charge"),
        spin=_whole(data, "spin"),
        group=formula(atoms["numbers"]),
        split=split,
    )


def atoms_of(row: Row) -> Atoms:
    """The row as ``ase.Atoms``: data and key-value pairs in ``info``, labels in the results of a calculator.

    Raises:
        ValueError: an array is missing or ill-formed.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    frame = periodic(row, "", None)
    info = data_of(row) | _mapping(row.get("key_value_pairs"))
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, info=info)
    labels = {name: getattr(frame, name) for name in ("energy", "forces", "stress") if row.get(name) is not None}
    if row.get("free_energy") is not None:
        labels["free_energy"] = scalar(row["free_energy"], "free_energy")
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def data_of(row: Row) -> Row:
    """What the writer put into ``data``: metadata that readers put into ``atoms.info``."""
    return _mapping(row.get("data"))


def _mapping(value: Any) -> Row:
    return value if isinstance(value, dict) else {}


def _numbers(row: Row) -> NDArray[np.int64]:
    numbers = floats(_value(row, "numbers"), "numbers")
    within = (numbers >= 1) & (numbers <= MAX_ATOMIC_NUMBER) & (numbers % 1 == 0)
    if numbers.ndim != 1 or not within.all():
        raise ValueError(f"expected atomic numbers from 1 to {MAX_ATOMIC_NUMBER}, got {numbers}")
    return numbers.astype(np.int64)


def _labelled_atoms(row: Row) -> dict[str, Any]:
    numbers = _numbers(row)
    positions = floats(_value(row, "positions"), "positions")
    forces = _forces(row, len(numbers))
    if positions.shape != (len(numbers), 3) or forces.shape != positions.shape:
        raise ValueError(
            f"expected positions and forces ({len(numbers)}, 3) for {len(numbers)} atomic numbers, "
            f"got {positions.shape} and {forces.shape}"
        )
    energy = scalar(row["energy"], "energy") if row.get("energy") is not None else np.nan
    return {"numbers": numbers, "positions": positions, "energy": energy, "forces": forces}


def _forces(row: Row, atoms: int) -> Floats:
    return floats(_value(row, "forces"), "forces") if row.get("forces") is not None else np.full((atoms, 3), np.nan)


def _value(row: Row, name: str) -> Any:
    if name not in row:
        raise ValueError(f"the row has no {name}; it has {', '.join(sorted(row))}")
    return _array(row[name])


def _array(value: Any) -> Any:
    """A stored array in either form; anything else as it is."""
    if not isinstance(value, dict) or "__ndarray__" not in value:
        return value
    try:
        shape, dtype, flat = value["__ndarray__"]
        return np.array(flat, dtype=dtype).reshape(shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a stored array cannot be decoded: {error}") from error


def _whole(data: Row, name: str) -> int:
    value = data.get(name)
    number = np.nan if value is None else scalar(_array(value), name)
    if number % 1 != 0:
        raise ValueError(f"expected a whole number as {name} in data, got {value!r}")
    return int(number)


def _decoded(value: bytes) -> Any:
    try:
        return json.loads(zlib.decompress(value))
    except (zlib.error, ValueError) as error:
        raise ValueError(f"expected zlib-compressed JSON: {error}") from error
