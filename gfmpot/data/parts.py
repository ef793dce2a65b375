"""One part of a conversion: a range of records of one file, checked, packed, and kept on disk until the merge.

A part depends on nothing but the file and how it is read, not on splits or filters, so that a conversion with other
settings, or one that was killed, finds those that are done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.formats.layout import FIELDS, SCHEMA_VERSION, Packed, pack
from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.plausibility import Evidence
from gfmpot.data.source import Source

PUBLISHED = {None: -1, "train": 0, "valid": 1, "test": 2}


@dataclass(frozen=True)
class Refusal:
    """A structure that is left out."""

    where: str
    reason: str
    kind: str
    """Short, to count by."""

    frame: Mapping[str, Any] | None = None
    """The structure itself in plain JSON types, if it could be read; what is not finite is null."""

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Part:
    """Records ``start`` to ``stop`` of a file."""

    source: Source
    file: Path
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of its file among the finished parts: a hash of all that the result depends on."""
        from gfmpot import __version__

        state, source = self.file.stat(), type(self.source)
        options: dict[str, Any] = dataclasses.asdict(self.source) if dataclasses.is_dataclass(self.source) else {}
        identity = [
            SCHEMA_VERSION,
            __version__,
            f"{source.__module__}.{source.__qualname__}",
            options,
            str(self.file.resolve()),
            [state.st_size, state.st_mtime_ns],
            [self.start, self.stop],
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24] + ".npz"

    def where(self, item: int, items: int) -> str:
        """File and record of the ``item``-th of ``items`` structures that came out of this part."""
        if items == self.stop - self.start:
            return f"{self.file}: record {self.start + item}"
        return f"{self.file}: records {self.start} to {self.stop}, structure {item} of them"


@dataclass(frozen=True)
class Finished:
    """What the main process needs to know of a part; the rest stays on disk."""

    path: Path
    structures: int
    refused: int
    first: str
    """Where and why the first structure was refused."""

    evidence: Evidence
    reused: bool


@dataclass(frozen=True)
class Content:
    """A part as it comes from disk."""

    packed: Packed
    item: NDArray[np.int64]  # (S,) which structure of the part it was
    items: int  # structures that came out of the part, refused ones included
    published: NDArray[np.int8]  # (S,) as in PUBLISHED
    largest_force: NDArray[np.float32]  # (S,) eV/Å; NaN without forces
    refusals: tuple[str, ...]  # lines of JSON


def convert_part(part: Part, folder: Path) -> Finished:
    """Read, check and pack a part, unless that was done before."""
    path = folder / part.name
    reused = path.exists()
    if not reused:
        _write(path, part)
    with np.load(path) as file:
        evidence = Evidence(*(file[f"evidence_{name}"] for name in Evidence.__dataclass_fields__))
        refusals = file["refusals"].tobytes().decode().splitlines()
        first = json.loads(refusals[0]) if refusals else {"where": "", "reason": ""}
        told = f"{first['where']}: {first['reason']}"
        return Finished(path, len(file["item"]), len(refusals), told, evidence, reused)


def read_part(path: Path, fields: Collection[str] = tuple(FIELDS)) -> Content:
    """What :func:`convert_part` left on disk, or some fields of it.

    Raises:
        ValueError: damaged, for instance by a full disk.
    """
    try:
        with np.load(path) as file:
            return Content(
                packed={name: file[name] for name in fields},
                item=file["item"],
                items=int(file["items"]),
                published=file["published"],
                largest_force=file["largest_force"],
                refusals=tuple(file["refusals"].tobytes().decode().splitlines(keepends=True)),
            )
    except Exception as error:  # zipfile, zlib and numpy each have their own
        raise ValueError(f"{path} is damaged ({error}); delete it and run the conversion again") from error


def _write(path: Path, part: Part) -> None:
    frames, items, refused = _read(part)
    refusals = [_refusal(part, item, len(refused) + len(frames), entry) for item, entry in refused]
    arrays: dict[str, Any] = {
        **pack(frames),
        "item": np.array(items, dtype=np.int64),
        "items": len(frames) + len(refused),
        "published": np.array([PUBLISHED[frame.split] for frame in frames], dtype=np.int8),
        "largest_force": np.array([np.linalg.norm(f.forces, axis=1).max() for f in frames], dtype=np.float32),
        "refusals": np.frombuffer("".join(r.line() for r in refusals).encode(), dtype=np.uint8),
    }
    arrays |= {f"evidence_{name}": values for name, values in vars(Evidence.of(frames)).items()}
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


Refused = tuple[int, Rejected | tuple[Frame, str]]


def _read(part: Part) -> tuple[list[Frame], list[int], list[Refused]]:
    """Good frames, which they were among all, and the others with reasons.

    A file that breaks off in the middle costs the rest of the part, not what came before.
    """
    frames, items, refused, item = [], [], list[Refused](), -1
    try:
        for item, entry in enumerate(part.source.read(part.file, part.start, part.stop)):
            if isinstance(entry, Rejected):
                refused.append((item, entry))
            elif problem := entry.problem():
                refused.append((item, (entry, problem)))
            else:
                frames.append(entry)
                items.append(item)
    except (ValueError, OSError) as error:
        where = f"{part.file}: records {part.start} to {part.stop}, after structure {item} of them"
        refused.append((item + 1, Rejected(where, f"the rest could not be read: {error}")))
    return frames, items, refused


def _refusal(part: Part, item: int, items: int, entry: Rejected | tuple[Frame, str]) -> Refusal:
    if isinstance(entry, Rejected):
        return Refusal(entry.where, entry.reason, "unreadable")
    return Refusal(part.where(item, items), entry[1], "failed the checks", plain(vars_of(entry[0])))


def vars_of(frame: Frame) -> dict[str, Any]:
    """The fields of a frame."""
    return {field.name: getattr(frame, field.name) for field in dataclasses.fields(frame)}


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as lists, and what is not finite as None, which JSON can say."""
    return {name: _plain(value) for name, value in fields.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
