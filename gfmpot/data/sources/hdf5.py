"""The packed layout of ``docs/data.md`` in HDF5: the twin of ``npz`` for sets that do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources._generic import GenericSource, generic_info
from gfmpot.data.sources._hdf5 import open_hdf5
from gfmpot.data.sources._packed import Packed


@dataclass(frozen=True)
class Hdf5(GenericSource):
    """One dataset per field at the top of the file, named and shaped as in the packed ``.npz``."""

    info = generic_info(
        "Packed HDF5 files",
        format="HDF5 with the packed layout",
        layout="docs/data.md, each array as a dataset of that name at the top",
        charge_spin="datasets 'charge' and 'spin'; else 0 and unspecified",
    )
    suffixes = (".h5", ".hdf5")

    def count(self, path: Path) -> int:
        """Number of structures."""
        with open_hdf5(path) as file:
            return len(Packed(file, path.stem, path.name))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per structure."""
        with open_hdf5(path) as file:
            yield from Packed(file, path.stem, path.name).frames(start, stop, self.scale())
