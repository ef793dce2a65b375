"""Packed ``.npz`` files, as users make them for sets of properties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gfmpot.data.frame import Rejected
from gfmpot.finetune.reader import Example, Reader
from gfmpot.finetune.readers._packed import PackedExamples


class PackedFile(Reader):
    """Properties are the columns ``target_<name>``; their units are in ``meta["target_units"]``."""

    title = "packed"
    forms = (
        "NumPy .npz with the packed layout of docs/data.md, with energy and forces (eV, eV/Å) and columns "
        "target_<name>, any of which may be absent",
    )
    where = ""

    def units(self, path: Path) -> Mapping[str, str]:
        """Of the columns, as the file's ``meta`` states them."""
        return PackedExamples(self.existing(path)).units()

    def count(self, path: Path) -> int:
        """Number of structures."""
        return len(PackedExamples(self.existing(path)))

    def read(self, path: Path, indices: Sequence[int]) -> Iterator[Example | Rejected]:
        """The structures at ``indices``; their groups are the file's."""
        yield from PackedExamples(self.existing(path)).read(indices)
