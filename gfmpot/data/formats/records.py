"""Structures as rows of seven 8-byte words, so that one structure is one contiguous piece of memory.

A record is three rows of head and one row per atom:

====  ===========================================================================
row   words
====  ===========================================================================
0     energy (eV), stress (6, eV/Å³)
1-2   cell (9, Å, rows are lattice vectors), pbc (3), charge, spin
3...  per atom: position (3, Å), force (3, eV/Å), atomic number
====  ===========================================================================

Numbers are float64; whole numbers are exact in it. Rows are passed around as int64, so that nothing touches the bits.
Groups are strings of any length and are packed beside the records, all of one width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frames import FrameSet

Ints = NDArray[np.int64]

WORDS = 7
"""Words in a row."""

HEAD = 3
"""Rows before the atoms."""

WORD_BYTES = 8


def record_offsets(atoms_per_structure: Ints) -> Ints:
    """(S + 1,) first row of each record, and the number of rows in all."""
    return np.concatenate([[0], np.cumsum(np.asarray(atoms_per_structure, dtype=np.int64) + HEAD)])


def pack(frames: FrameSet) -> Ints:
    """Records of S structures, (sum over structures of 3 + atoms, 7)."""
    offsets = record_offsets(frames.atoms_per_structure)
    rows = np.empty((offsets[-1], WORDS))
    head = _head_rows(offsets)
    per_structure = (
        frames.energy[:, None],
        frames.stress,
        frames.cell.reshape(-1, 9),
        frames.pbc,
        frames.charge[:, None],
        frames.spin[:, None],
    )
    rows[head] = np.concatenate(per_structure, axis=1, dtype=np.float64).reshape(-1, HEAD, WORDS)
    per_atom = (frames.positions, frames.forces, frames.numbers[:, None])
    rows[_atom_rows(head, len(rows))] = np.concatenate(per_atom, axis=1, dtype=np.float64)
    return rows.view(np.int64)


def unpack(name: str, rows: Ints, offsets: Ints, group: NDArray[np.str_]) -> FrameSet:
    """The inverse of :func:`pack`; ``offsets`` (S + 1,) says where the records begin in ``rows``."""
    words = rows.view(np.float64)
    head = _head_rows(offsets)
    structures = words[head].reshape(-1, HEAD * WORDS)
    atoms = words[_atom_rows(head, len(words))]
    return FrameSet(
        name,
        numbers=atoms[:, 6].astype(np.int64),
        positions=atoms[:, 0:3].copy(),
        offsets=offsets - HEAD * np.arange(len(offsets)),
        energy=structures[:, 0].copy(),
        forces=atoms[:, 3:6].copy(),
        stress=structures[:, 1:7].copy(),
        cell=structures[:, 7:16].reshape(-1, 3, 3),
        pbc=structures[:, 16:19].astype(bool),
        charge=structures[:, 19].astype(np.int64),
        spin=structures[:, 20].astype(np.int64),
        group=group,
    )


def encode(group: NDArray[np.str_]) -> NDArray[np.bytes_]:
    """Strings as UTF-8, padded to a whole number of words, at least one."""
    encoded: NDArray[np.bytes_] = np.char.encode(group, "utf-8")
    words = max(1, -(-encoded.dtype.itemsize // WORD_BYTES))
    return encoded.astype(f"S{words * WORD_BYTES}")


def decode(words: Ints) -> NDArray[np.str_]:
    """(S,) strings from (S, words)."""
    encoded = np.ascontiguousarray(words).view(f"S{words.shape[1] * WORD_BYTES}").reshape(-1)
    return np.char.decode(encoded, "utf-8")


def _head_rows(offsets: Ints) -> Ints:
    """(S, 3) indices of the rows before the atoms."""
    return offsets[:-1, None] + np.arange(HEAD)


def _atom_rows(head: Ints, rows: int) -> NDArray[np.bool_]:
    """(rows,) true where a row is an atom's."""
    mask = np.ones(rows, dtype=bool)
    mask[head] = False
    return mask
