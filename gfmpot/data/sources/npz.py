"""The packed ``.npz`` of ``docs/data.md``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources._generic import GenericSource, generic_info
from gfmpot.data.sources._npz import load_arrays
from gfmpot.data.sources._packed import Packed


@dataclass(frozen=True)
class Npz(GenericSource):
    """One array per field; the file is read whole, since compressed arrays cannot be read in part."""

    info = generic_info(
        "Packed .npz files",
        format="NumPy .npz with the packed layout",
        layout="docs/data.md",
        charge_spin="arrays 'charge' and 'spin'; else 0 and unspecified",
    )
    suffixes = (".npz",)

    def count(self, path: Path) -> int:
        """Number of structures."""
        return len(_packed(path))

    def read(self, path: Path, start: int, stop: int) -> Iterator[Frame | Rejected]:
        """One frame per structure."""
        yield from _packed(path).frames(start, stop, self.scale())


def _packed(path: Path) -> Packed:
    return Packed(load_arrays(path), path.stem, path.name)
