"""The tree in which regions and their times are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType


@dataclass(frozen=True)
class RegionTime:
    """Wall time of one region on one rank, in s."""

    count: int
    """How often it was left."""

    total: float
    """Time inside, that of a region still open included."""

    min: float
    max: float
    """Shortest and longest single pass, from entry to exit; 0 before the first exit."""

    own: float
    """``total`` less that of the regions inside ("self time")."""

    def __add__(self, other: RegionTime) -> RegionTime:
        least = min((t.min for t in (self, other) if t.count), default=0.0)
        most = max(self.max, other.max)
        return RegionTime(self.count + other.count, self.total + other.total, least, most, self.own + other.own)


NOTHING = RegionTime(0, 0.0, 0.0, 0.0, 0.0)


class Cursor:
    """Where a program is in the tree, and what it waits for on the way."""

    __slots__ = ("region", "synchronise")

    def __init__(self, synchronise: Callable[[], None] | None) -> None:
        self.synchronise = synchronise
        self.region = Region(self, "", None)


class Region:
    """One place in the tree, and its times since the last :meth:`clear`. Entered with ``with``."""

    __slots__ = ("_began", "_credited", "_cursor", "children", "count", "max", "min", "name", "parent", "total")

    def __init__(self, cursor: Cursor, name: str, parent: Region | None) -> None:
        self.name, self.parent, self._cursor = name, parent, cursor
        self.children: dict[str, Region] = {}
        self._began = self._credited = 0.0
        self.count, self.total, self.min, self.max = 0, 0.0, float("inf"), 0.0

    def __enter__(self) -> None:
        cursor = self._cursor
        cursor.region = self
        if cursor.synchronise is not None:
            cursor.synchronise()
        self._began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cursor = self._cursor
        if cursor.synchronise is not None:
            cursor.synchronise()
        seconds = perf_counter() - self._began
        self.count += 1
        self.total += seconds - self._credited
        self._credited = 0.0
        if seconds < self.min:
            self.min = seconds
        if seconds > self.max:
            self.max = seconds
        cursor.region = self.parent  # type: ignore[assignment]  # only the root has none, and nobody enters it

    def clear(self) -> None:
        """Forget the times; a region that is open stays open."""
        self.count, self.total, self.min, self.max = 0, 0.0, float("inf"), 0.0

    def credit(self, now: float) -> None:
        """Count what passed so far in an open region."""
        part = now - self._began - self._credited
        self.total += part
        self._credited += part

    def child(self, name: str) -> Region:
        """The region of this name inside, made where there is none."""
        if not name or "/" in name:
            raise ValueError(f"name of a region: got {name!r}, expected a word without '/'; nest regions instead")
        return self.children.setdefault(name, Region(self._cursor, name, self))

    def descend(self, path: str) -> None:
        """Make the regions on a path below."""
        region = self
        for name in path.split("/"):
            region = region.child(name)

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Region]]:
        """All regions below with their paths, parents before children."""
        for name, region in self.children.items():
            yield prefix + name, region
            yield from region.walk(f"{prefix}{name}/")

    def time(self) -> RegionTime:
        """The times as they stand."""
        own = self.total - sum(child.total for child in self.children.values())
        return RegionTime(self.count, self.total, self.min if self.count else 0.0, self.max, own)
