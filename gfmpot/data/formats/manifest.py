"""``manifest.json`` of a store: where the data come from, what they are, and the checksums of every piece."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gfmpot.config import from_mapping, to_mapping
from gfmpot.data.formats.layout import SCHEMA_VERSION, Axis
from gfmpot.data.split import SplitName
from gfmpot.data.statistics import SplitStatistics

NAME = "manifest.json"
QUARANTINE = "quarantine.jsonl"
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class SplitSettings:
    """How groups were put on sides."""

    valid: float = 0.05
    test: float = 0.05
    seed: int = 0
    published: bool = False
    """Whether frames go where the publishers put them, and only those that they did not place by the hash."""


@dataclass(frozen=True)
class Block:
    """A stretch of consecutive structures that was written at once."""

    structures: tuple[int, ...]
    """First structure, and the one after the last."""

    atoms: tuple[int, ...]
    characters: tuple[int, ...]
    """Of the group names."""

    checksums: dict[str, str]
    """SHA-256 of each field's values in this block, little-endian, by name."""

    def rows(self, axis: Axis, *, last: bool) -> tuple[int, int]:
        """First row that this block contributes to a global array, and the one after its last."""
        spans = {"atom": self.atoms, "byte": self.characters}
        start, stop = spans.get(axis, self.structures)
        return start, stop + (axis == "offset" and last)  # the last block also says where everything ends


@dataclass(frozen=True)
class StoredFile:
    """A file of the store."""

    size: int
    """Bytes."""

    sha256: str

    @classmethod
    def of(cls, path: Path) -> StoredFile:
        """Size and checksum of a file as it is."""
        with path.open("rb") as file:
            return cls(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Description:
    """What the data are and whose."""

    source: str
    """Name of the reader, a file in ``gfmpot/data/sources``."""

    branch: str
    """``<dataset>-<theory>``."""

    theory: str
    title: str = ""
    licence: str = ""
    citation: str = ""
    url: str = ""
    units: str = ""
    """Units in the original files; those of the store are eV and Å."""


@dataclass(frozen=True)
class Manifest:
    """All about a store that is not the data themselves."""

    schema: Literal[2]
    gfmpot: str
    """Version that wrote it."""

    about: Description
    split: SplitSettings
    max_force: float | None
    """eV/Å; structures with a larger force were left out."""

    min_structures_per_element: int
    counts: dict[str, int]
    """Structures by split."""

    left_out: dict[str, int]
    """Structures by kind of reason; each is in ``quarantine.jsonl``."""

    e0: dict[str, float]
    """Reference energy of each element in eV, fitted to the training split."""

    statistics: dict[str, Any]
    """By split; see :meth:`split_statistics`."""

    blocks: dict[str, tuple[Block, ...]]
    files: dict[str, StoredFile]
    """Every file of the store but this one, by its path inside."""

    sha256: str = ""
    """Of everything above, hence of the data."""

    @property
    def branch(self) -> str:
        """Name of the branch that learns these data."""
        return self.about.branch

    @property
    def theory(self) -> str:
        """Level of theory."""
        return self.about.theory

    @property
    def licence(self) -> str:
        """Of the data."""
        return self.about.licence

    @property
    def citation(self) -> str:
        """Of the data."""
        return self.about.citation

    def split_statistics(self, split: str) -> SplitStatistics:
        """Counts and sums over a split."""
        return SplitStatistics.from_mapping(self.statistics[split])

    def signed(self) -> Manifest:
        """The same with its ``sha256``."""
        return dataclasses.replace(self, sha256=_digest(to_mapping(self)))

    def text(self) -> str:
        """What the file contains, to the byte."""
        lines = [f"{json.dumps(key)}: {_compact(value)}" for key, value in to_mapping(self).items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def read(cls, store: Path) -> Manifest:
        """That of a store.

        Raises:
            FileNotFoundError: not a store.
            ValueError: of another schema version, damaged, or edited.
        """
        path = store / NAME
        if not store.exists():
            others = ", ".join(sorted(p.name for p in store.parent.glob("*.bp"))) or "no stores"
            raise FileNotFoundError(f"there is no {store}; {store.parent} has {others}")
        if not path.is_file():
            raise FileNotFoundError(f"{store} is no store of gfmpot: it has no {NAME}; `gfmpot data convert` makes one")
        try:
            mapping = json.loads(path.read_bytes())
            if not isinstance(mapping, dict):
                raise ValueError(f"expected an object, got {type(mapping).__name__}")
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        if mapping.get("schema") != SCHEMA_VERSION:
            raise ValueError(
                f"{path}: schema version {mapping.get('schema')!r}, but this gfmpot reads {SCHEMA_VERSION}; "
                f"convert the data again"
            )
        manifest = from_mapping(cls, mapping, str(path))
        if path.read_text(encoding="utf-8") != manifest.signed().text():
            raise ValueError(f"{path} is damaged or was edited: it does not match its own checksum")
        return manifest


def _digest(mapping: dict[str, Any]) -> str:
    content = {key: value for key, value in mapping.items() if key != "sha256"}
    return hashlib.sha256(_compact(content).encode()).hexdigest()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
