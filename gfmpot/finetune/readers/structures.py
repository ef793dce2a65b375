"""Files of a user's own structures, with whatever numbers are stored beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources._generic import AtomsSource, GenericSource
from gfmpot.data.sources.ase_db import AseDb
from gfmpot.data.sources.aselmdb import AnyAseLmdb
from gfmpot.data.sources.extxyz import ExtXyz
from gfmpot.data.sources.hdf5 import Hdf5
from gfmpot.data.sources.npz import Npz
from gfmpot.finetune.reader import Example, Reader
from gfmpot.finetune.readers._parts import Parts, runs

if TYPE_CHECKING:
    from ase import Atoms

Kept = dict[int, dict[str, float]]
LABELS = ("energy", "free_energy", "charge", "spin")
"""Numbers that are no targets, since frames have them."""


@dataclass(frozen=True)
class Structures(Reader):
    """Energies and forces are the labels; every other number stored with a structure is a target by its name."""

    title: ClassVar[str] = "structures"
    forms: ClassVar[tuple[str, ...]] = (
        "extended XYZ, .extxyz or .xyz: targets are the numbers in the comment line",
        "ASE databases, .db or .aselmdb: targets are the numbers in a row's key-value pairs and data",
        "the packed layout of docs/data.md, .npz or .h5: energy and forces alone (targets: reader 'packed')",
        "a folder of such files, all of one kind",
    )
    where: ClassVar[str] = ""

    energy_unit: str = "eV"
    length_unit: str = "Å"
    force_unit: str = ""
    stress_unit: str = ""
    energy_key: str = "energy"
    forces_key: str = "forces"
    stress_key: str = "stress"
    group_by: str = "group"
    """Key whose value is the group, or "formula", or "file"; a structure without it is its own group."""

    def __post_init__(self) -> None:
        ExtXyz(**dataclasses.asdict(self))  # refuses units that there are not

    def units(self, path: Path) -> Mapping[str, str]:
        """Names are those that the first structure has; the files do not state units."""
        found = next(iter(self.read(path, [0])), None)
        return dict.fromkeys(found.targets, "") if isinstance(found, Example) else {}

    def count(self, path: Path) -> int:
        """Number of structures."""
        return len(self._parts(path))

    def read(self, path: Path, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The structures at ``indices``, numbered on from file to file."""
        for file, inside in self._parts(path).of(indices):
            kept: Kept = {}
            source = self._source(file, kept)
            for start, stop in runs(inside):
                for i, frame in zip(range(start, stop), source.read(file, start, stop), strict=True):
                    targets = kept.pop(i, {})
                    yield frame if isinstance(frame, Rejected) else Example(frame, f"{file.stem}:{i}", targets)

    def _parts(self, path: Path) -> Parts:
        kinds = {suffix: cls for cls in (*KEEPERS, *PACKED) for suffix in cls.suffixes}
        inside = sorted(file for file in self.existing(path).rglob("*") if file.suffix in kinds)
        files = inside if path.is_dir() else [path]
        if not files:
            raise self.missing(path)
        if any(file.suffix not in kinds for file in files) or len({kinds[file.suffix] for file in files}) > 1:
            raise ValueError(
                f"{path}: expected files of one kind ending in {', '.join(kinds)}, got "
                f"{', '.join(sorted({file.suffix or file.name for file in files}))}"
            )
        return Parts(files, lambda file: self._source(file, {}).count(file))

    def _source(self, file: Path, kept: Kept) -> GenericSource:
        """What reads a file, and puts numbers of structures into ``kept``."""
        options: dict[str, Any] = dataclasses.asdict(self)
        for cls in KEEPERS:
            if file.suffix in cls.suffixes:
                return cls(**options, kept=kept)
        (packed,) = [cls for cls in PACKED if file.suffix in cls.suffixes]
        return packed(self.energy_unit, self.length_unit, self.force_unit, self.stress_unit)


def _numbers(atoms: Atoms, source: AtomsSource) -> dict[str, float]:
    """The single numbers and truth values among what is stored with a structure."""
    names = [name for name in atoms.info if name not in (*LABELS, source.energy_key, source.group_by)]
    values = {str(name): np.asarray(atoms.info[name]) for name in names}
    return {name: float(value.reshape(())) for name, value in values.items() if value.size == 1 and _is_number(value)}


def _is_number(value: np.ndarray[Any, Any]) -> bool:
    return value.dtype.kind in "fiub"


@dataclass(frozen=True)
class _ExtXyz(ExtXyz):
    kept: Kept = field(default_factory=dict)

    def frame(self, atoms: Atoms, path: Path, index: int) -> Frame | Rejected:
        self.kept[index] = _numbers(atoms, self)
        return super().frame(atoms, path, index)


@dataclass(frozen=True)
class _AseDb(AseDb):
    kept: Kept = field(default_factory=dict)

    def frame(self, atoms: Atoms, path: Path, index: int) -> Frame | Rejected:
        self.kept[index] = _numbers(atoms, self)
        return super().frame(atoms, path, index)


@dataclass(frozen=True)
class _AseLmdb(AnyAseLmdb):
    kept: Kept = field(default_factory=dict)

    def frame(self, atoms: Atoms, path: Path, index: int) -> Frame | Rejected:
        self.kept[index] = _numbers(atoms, self)
        return super().frame(atoms, path, index)


KEEPERS = (_ExtXyz, _AseDb, _AseLmdb)
PACKED = (Npz, Hdf5)
