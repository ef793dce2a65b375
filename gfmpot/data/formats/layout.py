"""Packed arrays of labelled structures (CSR): what a store holds, and how frames become it and come back.

One array per field. Structure ``i`` owns the atoms ``atom_offsets[i]:atom_offsets[i + 1]`` and the characters
``group_offsets[i]:group_offsets[i + 1]`` of its group's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Frame
from gfmpot.data.frames import FrameSet

SCHEMA_VERSION: Final = 2

Axis = Literal["atom", "structure", "offset", "byte"]
Packed: TypeAlias = dict[str, NDArray[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Field:
    """One array: its type on disk, what its first axis counts, the shape of one row, and its unit."""

    dtype: str
    axis: Axis
    row: tuple[int, ...] = ()
    unit: str = ""


FIELDS: Mapping[str, Field] = {
    "numbers": Field("|u1", "atom"),
    "positions": Field("<f8", "atom", (3,), "Å"),
    "forces": Field("<f4", "atom", (3,), "eV/Å"),
    "energy": Field("<f8", "structure", (), "eV"),
    "stress": Field("<f4", "structure", (6,), "eV/Å³"),
    "cell": Field("<f8", "structure", (3, 3), "Å"),
    "pbc": Field("|u1", "structure", (3,)),
    "charge": Field("<i2", "structure", (), "e"),
    "spin": Field("<i2", "structure"),
    "atom_offsets": Field("<i8", "offset"),
    "group_offsets": Field("<i8", "offset"),
    "group": Field("|u1", "byte"),
}
"""All of them, in the order in which they are written. A row per offset is one more than a row per structure."""

PER_ATOM = tuple(name for name, field in FIELDS.items() if field.axis == "atom")
PER_STRUCTURE = tuple(name for name, field in FIELDS.items() if field.axis == "structure")


def offsets(counts: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """(S + 1,) where each structure starts, and the end."""
    ends = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends


def pack(frames: Sequence[Frame]) -> Packed:
    """The arrays of single frames, of which there may be none."""
    names = [frame.group.encode() for frame in frames]
    packed: Packed = {
        "atom_offsets": offsets([len(frame.numbers) for frame in frames]),
        "group_offsets": offsets([len(name) for name in names]),
        "group": np.frombuffer(b"".join(names), dtype=np.uint8),
    }
    for name in PER_ATOM:
        packed[name] = _joined([getattr(frame, name) for frame in frames], name)
    for name in PER_STRUCTURE:
        packed[name] = _joined([np.asarray(getattr(frame, name))[None] for frame in frames], name)
    return packed


def _joined(arrays: list[NDArray[Any]], name: str) -> NDArray[Any]:
    field = FIELDS[name]
    joined = np.concatenate(arrays) if arrays else np.zeros((0, *field.row))
    return joined.astype(field.dtype)


def size(packed: Packed) -> int:
    """Number of structures."""
    return len(packed["atom_offsets"]) - 1


def select(packed: Packed, keep: Mask) -> Packed:
    """The structures where ``keep`` (S,) is true."""
    lengths = {name: np.diff(packed[name]) for name in ("atom_offsets", "group_offsets")}
    masks = {
        "atom": np.repeat(keep, lengths["atom_offsets"]),
        "structure": keep,
        "byte": np.repeat(keep, lengths["group_offsets"]),
    }
    chosen = {name: packed[name][masks[f.axis]] for name, f in FIELDS.items() if f.axis != "offset"}
    return chosen | {name: offsets(counts[keep]) for name, counts in lengths.items()}


def join(parts: Sequence[Packed]) -> Packed:
    """Several as one; there must be at least one."""
    joined = {}
    for name, field in FIELDS.items():
        if field.axis == "offset":
            joined[name] = offsets(np.concatenate([np.diff(part[name]) for part in parts]))
        else:
            joined[name] = np.concatenate([part[name] for part in parts])
    return joined


def cut(packed: Packed, start: int, stop: int) -> Packed:
    """The structures ``start`` to ``stop``, without copying atoms."""
    spans = {"structure": slice(start, stop)}
    for axis, name in (("atom", "atom_offsets"), ("byte", "group_offsets")):
        spans[axis] = slice(int(packed[name][start]), int(packed[name][stop]))
    piece = {name: packed[name][spans[f.axis]] for name, f in FIELDS.items() if f.axis != "offset"}
    ends = ("atom_offsets", "group_offsets")
    return piece | {name: packed[name][start : stop + 1] - packed[name][start] for name in ends}


def group_names(packed: Mapping[str, NDArray[Any]]) -> list[str]:
    """(S,) decoded."""
    text, ends = packed["group"].tobytes(), packed["group_offsets"].tolist()
    return [text[a:b].decode() for a, b in pairwise(ends)]


def frame_set(packed: Mapping[str, NDArray[Any]], name: str) -> FrameSet:
    """The same, in the types that training computes with."""
    return FrameSet(
        name,
        numbers=packed["numbers"].astype(np.int64),
        positions=packed["positions"],
        offsets=packed["atom_offsets"],
        energy=packed["energy"],
        forces=packed["forces"].astype(np.float64),
        stress=packed["stress"].astype(np.float64),
        cell=packed["cell"],
        pbc=packed["pbc"].astype(bool),
        charge=packed["charge"].astype(np.int64),
        spin=packed["spin"].astype(np.int64),
        group=np.array(group_names(packed), dtype=np.str_),
    )
