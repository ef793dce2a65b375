"""Structures without labels from files of all kinds, by record, so that any part of a file is read alone.

A record is a frame or a row; for formats that are read as a whole (CIF, and whatever else ASE reads) it is the file.
"""

from __future__ import annotations

import atexit
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from gfmpot.data.formats.adios import AdiosSplit, AdiosStore
from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.frames import FrameSet
from gfmpot.data.sources._hdf5 import open_hdf5
from gfmpot.data.sources._npz import open_arrays, verify_arrays
from gfmpot.data.sources._packed import Packed
from gfmpot.data.sources._scale import ASE_UNITS
from gfmpot.data.sources.ase_db import AseDb
from gfmpot.data.sources.aselmdb import AnyAseLmdb
from gfmpot.data.sources.extxyz import ExtXyz
from gfmpot.graph.build import charge_and_spin
from gfmpot.inference.screening.plain_extxyz import NO_FORCES, plain_frame

if TYPE_CHECKING:
    from ase import Atoms

ReadFile: TypeAlias = "Callable[[Path], Iterable[Atoms | str]]"
"""All structures of one file, in order; for what cannot be read, the reason."""

WHOLE = "whole"
"""The kind of the files that are one record."""

KINDS = {
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".db": "ase_db",
    ".aselmdb": "aselmdb",
    ".npz": "npz",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".bp": "store",
    ".cif": WHOLE,
    ".vasp": WHOLE,
}
"""By suffix, what is looked for in folders."""

GEOMETRY = ("natoms", "numbers", "positions")
"""Arrays that a packed file must have; others that are read follow."""

OPTIONAL = ("cell", "pbc", "charge", "spin")

STRETCH = 256
"""Structures of a packed file or a store that are in memory together."""


@dataclass(frozen=True)
class Defaults:
    """What holds for structures that do not state it, and what reads files as a whole."""

    charge: int = 0
    spin: int | None = None
    read_file: ReadFile | None = None

    def __post_init__(self) -> None:
        if self.spin is not None and self.spin < 1:
            raise ValueError(f"spin is a multiplicity 2S+1, at least 1, or None for unspecified; got {self.spin}")

    def bare(self, atoms: Atoms, where: str) -> Frame | Rejected:
        """The structure of ``atoms``, without labels."""
        try:
            charge, spin = charge_and_spin(atoms, self.charge, self.spin)
        except ValueError as error:
            return Rejected(where, str(error))
        if spin is not None and spin < 1:  # in arrays, 0 is unspecified; here, nothing is
            return Rejected(where, f"multiplicity {spin} is impossible: it must be at least 1, or not stated at all")
        return Frame(
            numbers=atoms.numbers.astype(np.int64),
            positions=atoms.positions,
            energy=np.nan,
            forces=NO_FORCES,
            group="",
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            charge=charge,
            spin=spin or 0,
        )


class Format(Protocol):
    """Reads the files of one kind."""

    def count(self, path: Path) -> int:
        """Number of records.

        Raises:
            ValueError, OSError: not a file of that kind, or a damaged one.
        """

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """Records ``start`` to ``stop``; one entry each, unless the file is one record."""


def format_of(kind: str, defaults: Defaults) -> Format:
    """What reads the files of a kind of :data:`KINDS`."""
    return _FORMATS[kind](defaults)


@dataclass(frozen=True)
class _Bare:
    """Before a source that reads ``ase.Atoms``: leaves the labels out, so that bad ones do no harm."""

    defaults: Defaults = Defaults()

    def frame(self, atoms: Atoms, path: Path, index: int) -> Frame | Rejected:
        """The structure of record ``index``."""
        return self.defaults.bare(atoms, f"{path.name}:{index}")


@dataclass(frozen=True)
class BareExtXyz(_Bare, ExtXyz):
    """Extended XYZ."""

    def parsed(self, text: str, path: Path, index: int) -> Frame | Rejected:
        """The structure in the text of one frame."""
        plain = plain_frame(text, self.defaults.charge, self.defaults.spin)
        return super().parsed(text, path, index) if plain is None else plain


@dataclass(frozen=True)
class _BareAseDb(_Bare, AseDb):
    """ASE's SQLite databases."""


@dataclass(frozen=True)
class _BareAseLmdb(_Bare, AnyAseLmdb):
    """ASE's databases in LMDB."""


@dataclass(frozen=True)
class _PackedFiles:
    """Packed ``.npz`` and HDF5."""

    defaults: Defaults
    open: Callable[[Path], AbstractContextManager[Packed]]

    def count(self, path: Path) -> int:
        if self.open is _npz:
            verify_arrays(path, (*GEOMETRY, *OPTIONAL))
        with self.open(path) as packed:
            return len(packed)

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        with self.open(path) as packed:
            stated = "charge" in packed.arrays
            for first in range(start, stop, STRETCH):
                for entry in packed.frames(first, min(first + STRETCH, stop), ASE_UNITS):
                    yield entry if isinstance(entry, Rejected) else _completed(entry, self.defaults, stated)


@dataclass(frozen=True)
class _Splits:
    """One split of an ADIOS2 store; the path is that of its directory."""

    defaults: Defaults

    def count(self, path: Path) -> int:
        return len(_split(path))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        for first in range(start, stop, STRETCH):
            frames = _split(path).block(first, min(first + STRETCH, stop))
            for i in range(len(frames)):
                yield _completed(_unpacked(frames, i), self.defaults, charge_stated=True)


@dataclass(frozen=True)
class _WholeFiles:
    """Files that are one record."""

    defaults: Defaults

    def count(self, path: Path) -> int:
        if self.defaults.read_file is None:
            raise ValueError(f"{path}: nothing was given that could read it")
        return 1

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        assert self.defaults.read_file is not None
        for entry in self.defaults.read_file(path):
            yield Rejected(path.name, entry) if isinstance(entry, str) else self.defaults.bare(entry, path.name)


def _npz(path: Path) -> AbstractContextManager[Packed]:
    state = path.stat()
    return nullcontext(_open_npz(path, state.st_size, state.st_mtime_ns))


@lru_cache(maxsize=2)
def _open_npz(path: Path, size: int, modified: int) -> Packed:
    """Stays open in this state of the file: what comes next is found where the last part ended."""
    return Packed(open_arrays(path, (*GEOMETRY, *OPTIONAL)), path.stem, path.name, needed=GEOMETRY)


@contextmanager
def _hdf5(path: Path) -> Iterator[Packed]:
    with open_hdf5(path) as file:
        arrays = {name: file[name] for name in (*GEOMETRY, *OPTIONAL) if name in file}
        yield Packed(arrays, path.stem, path.name, needed=GEOMETRY)


@lru_cache(maxsize=2)
def _split(path: Path) -> AdiosSplit:
    """Stays open: the offsets of a large store take long to read."""
    atexit.register(_split.cache_clear)  # ADIOS2 complains about what Python itself frees after it
    return AdiosStore(path.parent, hold=0).split(path.stem)


_FORMATS: dict[str, Callable[[Defaults], Format]] = {
    "extxyz": lambda defaults: BareExtXyz(defaults=defaults),
    "ase_db": lambda defaults: _BareAseDb(defaults=defaults),
    "aselmdb": lambda defaults: _BareAseLmdb(defaults=defaults),
    "npz": lambda defaults: _PackedFiles(defaults, _npz),
    "hdf5": lambda defaults: _PackedFiles(defaults, _hdf5),
    "store": _Splits,
    WHOLE: _WholeFiles,
}


def _unpacked(frames: FrameSet, i: int) -> Frame:
    atoms = slice(frames.offsets[i], frames.offsets[i + 1])
    return Frame(
        numbers=frames.numbers[atoms],
        positions=frames.positions[atoms],
        energy=np.nan,
        forces=NO_FORCES,
        group="",
        cell=frames.cell[i],
        pbc=frames.pbc[i],
        charge=int(frames.charge[i]),
        spin=int(frames.spin[i]),
    )


def _completed(frame: Frame, defaults: Defaults, charge_stated: bool) -> Frame:
    changes: dict[str, Any] = {}
    if defaults.charge and not charge_stated:
        changes["charge"] = defaults.charge
    if defaults.spin and not frame.spin:
        changes["spin"] = defaults.spin
    return dataclasses.replace(frame, **changes) if changes else frame
