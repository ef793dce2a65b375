"""From finished parts of a conversion to a store: sides, filters, blocks, checksums, manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfmpot.data.formats import layout
from gfmpot.data.formats.adios_writer import Extent, SplitWriter
from gfmpot.data.formats.layout import FIELDS, SCHEMA_VERSION, Packed
from gfmpot.data.formats.manifest import (
    QUARANTINE,
    SPLITS,
    Block,
    Description,
    Manifest,
    StoredFile,
)
from gfmpot.data.parts import Content, Part, Refusal, plain, read_part
from gfmpot.data.statistics import NOTHING, SplitStatistics
from gfmpot.data.survey import LEFT_OUT, Settings, Survey

CHUNK = 8192
"""Structures whose statistics are taken at once."""


class _Side:
    """One split while it is being written."""

    def __init__(self, folder: Path, name: str, extent: Extent) -> None:
        self.writer = SplitWriter(folder / f"{name}.bp", extent)
        self.statistics: SplitStatistics = NOTHING
        self._waiting: list[Packed] = []

    def add(self, packed: Packed) -> None:
        """More structures, written as soon as there are enough for a block."""
        self._waiting.append(packed)
        block = self.writer.extent.block
        while sum(layout.size(part) for part in self._waiting) >= block:
            joined = layout.join(self._waiting)
            self._write(layout.cut(joined, 0, block))
            self._waiting = [layout.cut(joined, block, layout.size(joined))]

    def close(self) -> None:
        """Write what is left."""
        joined = layout.join(self._waiting)
        if layout.size(joined):
            self._write(joined)

    def _write(self, packed: Packed) -> None:
        self.writer.append(packed)
        for start in range(0, layout.size(packed), CHUNK):
            piece = layout.cut(packed, start, min(start + CHUNK, layout.size(packed)))
            self.statistics += SplitStatistics.of(layout.frame_set(piece, ""))


@dataclass
class Store:
    """Writes a store into an empty folder."""

    folder: Path
    about: Description
    settings: Settings
    unreadable: Sequence[Refusal] = ()
    """Whole files."""

    left_out: dict[str, int] = field(default_factory=dict)

    def write(self, parts: Sequence[tuple[Part, Path]], found: Survey, advance: Callable[[int], None]) -> Manifest:
        """All splits, the quarantine and the manifest; ``advance`` hears of the structures that are done."""
        extents = {name: found.extent(side) for side, name in enumerate(SPLITS)}
        sides: dict[str, _Side] = {
            name: _Side(self.folder, name, extent) for name, extent in extents.items() if extent.structures
        }
        with (self.folder / QUARANTINE).open("w", encoding="utf-8") as quarantine:
            for refusal in self.unreadable:
                self._count(refusal.kind)
                quarantine.write(refusal.line())
            for i, (part, path) in enumerate(parts):
                content = read_part(path)
                rows = slice(found.starts[i], found.starts[i + 1])
                kept = np.where(found.supported[found.elements[rows]], found.side[rows], LEFT_OUT)
                for number, name in enumerate(SPLITS):
                    if name in sides:
                        sides[name].add(layout.select(content.packed, kept == number))
                quarantine.writelines(self._refusals(part, content, found, rows, kept))
                advance(layout.size(content.packed))
        for side in sides.values():
            side.close()
        return self._finish(sides)

    def _refusals(self, part: Part, content: Content, found: Survey, rows: slice, kept: NDArray[Any]) -> Iterator[str]:
        for line in content.refusals:
            self._count(json.loads(line)["kind"])
            yield line
        for i in np.flatnonzero(kept == LEFT_OUT).tolist():
            reason, kind = self._reason(content, found, rows.start + i, i)
            self._count(kind)
            frame = layout.cut(content.packed, i, i + 1)
            where = part.where(int(content.item[i]), content.items)
            yield Refusal(where, reason, kind, _as_frame(frame)).line()

    def _reason(self, content: Content, found: Survey, row: int, i: int) -> tuple[str, str]:
        if found.side[row] == LEFT_OUT:
            reason = f"a force of {content.largest_force[i]:.4g} eV/Å, above {self.settings.max_force:g}"
            return reason, "large force"
        rare = np.flatnonzero(found.sets[found.elements[row]] & (found.counts == 0))
        symbols = ", ".join(chemical_symbols[z + 1] for z in rare)
        fewest = self.settings.min_structures_per_element
        return f"contains {symbols}, in fewer than {fewest} usable training structures", "rare element"

    def _count(self, kind: str) -> None:
        self.left_out[kind] = self.left_out.get(kind, 0) + 1

    def _finish(self, sides: dict[str, _Side]) -> Manifest:
        references = sides["train"].statistics.references
        e0 = references.fit() if references.count else {}
        blocks: dict[str, tuple[Block, ...]] = {}
        for name, side in sides.items():
            blocks[name] = side.writer.close(self._attributes(name, side.statistics, e0))
        if not self.left_out:
            (self.folder / QUARANTINE).unlink()
        manifest = self._manifest({name: side.statistics for name, side in sides.items()}, e0, blocks)
        (self.folder / "manifest.json").write_text(manifest.text(), encoding="utf-8")
        _flush(self.folder)
        return manifest

    def _attributes(self, name: str, statistics: SplitStatistics, e0: dict[str, float]) -> dict[str, Any]:
        """What makes the BP5 directory say by itself what it holds."""
        texts = {key: getattr(self.about, key) or "not stated" for key in ("branch", "theory", "licence", "citation")}
        return {
            "schema_version": np.array([SCHEMA_VERSION]),
            "split": name,
            **texts,
            **{f"units/{key}": entry.unit for key, entry in FIELDS.items() if entry.unit},
            "structures": np.array([statistics.structures]),
            "atoms": np.array([statistics.atoms]),
            "elements": list(statistics.elements),
            "elements/structures": np.array(list(statistics.elements.values())),
            **({"e0/elements": list(e0), "e0": np.array(list(e0.values()))} if e0 else {}),
        }

    def _manifest(
        self, statistics: dict[str, SplitStatistics], e0: dict[str, float], blocks: dict[str, tuple[Block, ...]]
    ) -> Manifest:
        from gfmpot import __version__

        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return Manifest(
            schema=SCHEMA_VERSION,
            gfmpot=__version__,
            about=self.about,
            split=self.settings.split,
            max_force=self.settings.max_force,
            min_structures_per_element=self.settings.min_structures_per_element,
            counts={name: entry.structures for name, entry in statistics.items()},
            left_out=dict(sorted(self.left_out.items())),
            e0=e0,
            statistics={name: entry.to_mapping() for name, entry in statistics.items()},
            blocks=blocks,
            files={path.relative_to(self.folder).as_posix(): StoredFile.of(path) for path in paths},
        ).signed()


def _as_frame(packed: Packed) -> dict[str, Any]:
    """One packed structure in the words of a :class:`~gfmpot.data.frame.Frame`."""
    fields = {name: packed[name] for name in layout.PER_ATOM} | {name: packed[name][0] for name in layout.PER_STRUCTURE}
    return plain(fields | {"group": layout.group_names(packed)[0]})


def _flush(folder: Path) -> None:
    """Onto the disk, before the store gets its name."""
    for path in (folder, *folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
