"""Writes one split as an ADIOS2 BP5 directory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.formats.layout import FIELDS, Axis, Packed, size
from gfmpot.data.formats.manifest import Block

SMALL_BLOCK = 16384
"""Structures per block at least: what a checksum covers."""

MOST_BLOCKS = 32
"""Blocks per split at most: each makes every later read some 20 ns slower, because ADIOS2 searches all of them."""

PARAMETERS = {"StatsLevel": "0", "NumAggregators": "1"}
"""Of the BP5 engine: no minima and maxima, which nobody asks for, and one data file."""


def bindings() -> ModuleType:
    """The low-level interface of ADIOS2, which costs a microsecond a call where the other one costs ten.

    Raises:
        ImportError: ADIOS2 is not installed; says how to.
    """
    try:
        import adios2.bindings
    except ImportError as error:
        raise ImportError('ADIOS2 stores need adios2: pip install "gfmpot[adios]"') from error
    module: ModuleType = adios2.bindings
    return module


@dataclass(frozen=True)
class Extent:
    """How large a split is: every global array's shape follows from it."""

    structures: int = 0
    atoms: int = 0
    characters: int = 0

    def __add__(self, other: Extent) -> Extent:
        return Extent(self.structures + other.structures, self.atoms + other.atoms, self.characters + other.characters)

    @classmethod
    def of(cls, packed: Packed) -> Extent:
        """That of packed arrays."""
        return cls(size(packed), len(packed["numbers"]), len(packed["group"]))

    def start(self, axis: Axis) -> int:
        """Row of a global array at which whatever comes after this many structures starts."""
        at = {"atom": self.atoms, "structure": self.structures, "offset": self.structures, "byte": self.characters}
        return at[axis]

    def rows(self, axis: Axis) -> int:
        """Length of a global array along its first axis."""
        return self.start(axis) + (axis == "offset")

    @property
    def block(self) -> int:
        """Structures per block."""
        return max(SMALL_BLOCK, -(-self.structures // MOST_BLOCKS))


class SplitWriter:
    """An open BP5 directory to which the structures of a split are appended block by block.

    All global arrays are defined for the whole split when it is opened, so ``extent`` must be what will come.
    """

    def __init__(self, path: Path, extent: Extent) -> None:
        self.path, self.extent = path, extent
        self._at = Extent()
        self._blocks: list[Block] = []
        self._adios = bindings()
        self._library = self._adios.ADIOS()  # owns all that follows
        self._io = self._library.DeclareIO("write")
        self._io.SetEngine("BP5")
        self._io.SetParameters(PARAMETERS)
        # Arrays without rows (no group has a name) are not written: ADIOS2 has no such thing.
        self._variables = {name: self._define(name) for name, f in FIELDS.items() if extent.rows(f.axis)}
        self._engine = self._io.Open(str(path), self._adios.Mode.Write)
        self._engine.BeginStep()

    def _define(self, name: str) -> Any:
        field = FIELDS[name]
        shape = [self.extent.rows(field.axis), *field.row]
        zeros = [0] * len(shape)
        return self._io.DefineVariable(name, np.zeros(1, field.dtype), shape, zeros, shape)

    def append(self, packed: Packed) -> None:
        """The next structures; all but the last call should bring ``extent.block`` of them."""
        start, end = self._at, self._at + Extent.of(packed)
        pieces = dict(_pieces(packed, start, last=end.structures == self.extent.structures))
        for name, values in pieces.items():
            if name in self._variables:
                self._put(name, start.start(FIELDS[name].axis), values)
        self._engine.PerformDataWrite()
        self._at = end
        self._blocks.append(
            Block(
                structures=(start.structures, end.structures),
                atoms=(start.atoms, end.atoms),
                characters=(start.characters, end.characters),
                checksums={name: checksum(values) for name, values in pieces.items()},
            )
        )

    def _put(self, name: str, first: int, values: NDArray[Any]) -> None:
        zeros = [0] * (values.ndim - 1)
        self._variables[name].SetSelection([[first, *zeros], list(values.shape)])
        self._engine.Put(self._variables[name], values, self._adios.Mode.Sync)

    def close(self, attributes: Mapping[str, Any]) -> tuple[Block, ...]:
        """Finish the directory and return what was written; attributes are texts, numbers, and lists of either."""
        if self._at != self.extent:
            raise RuntimeError(f"{self.path}: announced {self.extent}, but wrote {self._at}")
        for name, value in attributes.items():
            self._io.DefineAttribute(name, value)
        self._engine.EndStep()
        self._engine.Close()
        (self.path / "profiling.json").unlink(missing_ok=True)  # timings differ from run to run
        return tuple(self._blocks)


def _pieces(packed: Packed, start: Extent, *, last: bool) -> Iterator[tuple[str, NDArray[Any]]]:
    """What a block contributes to each global array; only the last one knows where everything ends."""
    origin = {"atom_offsets": start.atoms, "group_offsets": start.characters}
    for name, field in FIELDS.items():
        values = packed[name]
        if field.axis == "offset":
            values = (values if last else values[:-1]) + origin[name]
        # The bindings of ADIOS2 2.12 crash on arrays that are not writeable.
        yield name, np.require(values, dtype=field.dtype, requirements=["C", "W"])


def checksum(values: NDArray[Any]) -> str:
    """SHA-256 of the values, little-endian, row by row."""
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return hashlib.sha256(raw.data).hexdigest()
