"""Before the merge of a conversion: which side each structure goes to, and which are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.formats import layout
from gfmpot.data.formats.adios_writer import Extent
from gfmpot.data.formats.manifest import SPLITS, SplitSettings
from gfmpot.data.parts import Content, read_part
from gfmpot.data.split import split_of_group
from gfmpot.graph.atom_graph import MAX_ATOMIC_NUMBER

LEFT_OUT = -1

SURVEYED = ("numbers", "energy", "atom_offsets", "group_offsets", "group")
"""Fields that decide about sides and filters."""

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Settings:
    """What goes where, and what is left out."""

    split: SplitSettings = field(default_factory=SplitSettings)
    max_force: float | None = None
    """eV/Å."""

    min_structures_per_element: int = 1
    """Elements in fewer training structures with an energy cannot be learned: structures with them are left out."""

    def __post_init__(self) -> None:
        split_of_group("", self.split.valid, self.split.test)
        if self.max_force is not None and not self.max_force > 0:
            raise ValueError(f"max_force must be positive, got {self.max_force} eV/Å")
        if self.min_structures_per_element < 1:
            raise ValueError(f"min_structures_per_element must be at least 1, got {self.min_structures_per_element}")


@dataclass(frozen=True)
class Survey:
    """What decides about each structure of all parts, in order; 13 bytes per structure."""

    side: NDArray[np.int8]  # (S,) index into SPLITS, or LEFT_OUT
    atoms: NDArray[np.int32]  # (S,)
    characters: NDArray[np.int32]  # (S,) of the group's name
    elements: NDArray[np.int32]  # (S,) index into ``sets``
    sets: Mask  # (n, 118) the sets of elements that occur
    counts: Ints  # (118,) usable training structures that contain each element
    starts: Ints  # (parts + 1,) where the structures of each part are

    @property
    def supported(self) -> Mask:
        """(n,) whether all elements of a set can be learned."""
        supported: Mask = ~(self.sets & (self.counts == 0)).any(axis=1)
        return supported

    def extent(self, side: int) -> Extent:
        """How large a split will be."""
        kept = (self.side == side) & self.supported[self.elements]
        return Extent(int(kept.sum()), int(self.atoms[kept].sum()), int(self.characters[kept].sum()))


def survey(paths: Sequence[Path], settings: Settings) -> Survey:
    """Look at all parts once.

    Raises:
        ValueError: a damaged part; published sides wanted where there are none; or a split that is empty.
    """
    sets: dict[bytes, int] = {}
    columns, known, published = [], [], False
    for path in paths:
        content = read_part(path, SURVEYED)
        columns.append(_columns(content, settings, sets))
        known.append(np.isfinite(content.packed["energy"]))
        published |= bool((content.published >= 0).any())
    if settings.split.published and not published:
        raise ValueError("the published split is wanted, but no structure says on which side it was published")
    side, atoms, characters, elements = (np.concatenate(column) for column in zip(*columns, strict=True))
    bits = np.frombuffer(b"".join(sets), dtype=np.uint8).reshape(len(sets), -1)
    table = np.unpackbits(bits, axis=1, count=MAX_ATOMIC_NUMBER).astype(bool)
    counts = _element_counts(side, np.concatenate(known), elements, table, settings.min_structures_per_element)
    starts = layout.offsets([len(entry) for entry in known])
    return Survey(side, atoms, characters, elements, table, counts, starts)


def _columns(content: Content, settings: Settings, sets: dict[bytes, int]) -> tuple[NDArray[Any], ...]:
    packed = content.packed
    side = _sides(content, settings.split)
    if settings.max_force is not None:
        side[content.largest_force > settings.max_force] = LEFT_OUT
    atoms = np.diff(packed["atom_offsets"])
    present = np.zeros((len(atoms), MAX_ATOMIC_NUMBER), dtype=bool)
    present[np.repeat(np.arange(len(atoms)), atoms), packed["numbers"].astype(np.int64) - 1] = True
    keys = [row.tobytes() for row in np.packbits(present, axis=1)]
    elements = np.array([sets.setdefault(key, len(sets)) for key in keys], dtype=np.int32)
    return side, atoms.astype(np.int32), np.diff(packed["group_offsets"]).astype(np.int32), elements


def _sides(content: Content, split: SplitSettings) -> NDArray[np.int8]:
    known: dict[str, int] = {}
    for group in set(layout.group_names(content.packed)):
        known[group] = SPLITS.index(split_of_group(group, split.valid, split.test, split.seed))
    hashed = np.array([known[group] for group in layout.group_names(content.packed)], dtype=np.int8)
    return np.where(content.published >= 0, content.published, hashed) if split.published else hashed


def _element_counts(side: NDArray[np.int8], labelled: Mask, elements: Ints, sets: Mask, fewest: int) -> Ints:
    """(118,) training structures that contain an element, zero where they are fewer than ``fewest``.

    What is left out for one rare element does not count for others, so this goes on until nothing changes.
    """
    train = side == 0
    usable = train & labelled if (train & labelled).any() else train
    occurrences = np.bincount(elements[usable], minlength=len(sets))
    counts = occurrences @ sets
    while ((counts > 0) & (counts < fewest)).any():
        lost = (sets & (counts < fewest)).any(axis=1)
        counts = np.where(counts < fewest, 0, (occurrences * ~lost) @ sets)
    return counts


def check_sides(survey: Survey, settings: Settings) -> None:
    """Nothing, if every side that should have structures has some.

    Raises:
        ValueError: says which one has not.
    """
    fractions = {"train": 1.0, "valid": settings.split.valid, "test": settings.split.test}
    for side, name in enumerate(SPLITS):
        expected = name == "train" or (fractions[name] > 0 and not settings.split.published)
        if expected and survey.extent(side).structures == 0:
            raise ValueError(
                f"the {name} split would be empty: {len(survey.side)} structures, of which {(survey.side < 0).sum()} "
                f"exceed the largest force and {(~survey.supported[survey.elements]).sum()} have rare elements; use "
                f"more data, or other fractions (a fraction of 0 makes no such split)"
            )
