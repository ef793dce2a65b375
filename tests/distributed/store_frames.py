"""Structures for the checks of the distributed store, and when two sets of them are the same."""

from __future__ import annotations

import dataclasses

import numpy as np

from gfmpot.data.frames import FrameSet

SIZE = 60
FIELDS = [field.name for field in dataclasses.fields(FrameSet) if field.name not in ("name", "sha256")]


def frames(size: int = SIZE, seed: int = 0) -> FrameSet:
    """Random structures of 1 to 40 atoms, partly labelled, with group names of several lengths and alphabets."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 41, size)
    atoms = int(counts.sum())
    forces, stress = rng.normal(size=(atoms, 3)), rng.normal(size=(size, 6))
    forces[: counts[0]], stress[::2] = np.nan, np.nan
    return FrameSet(
        "set",
        numbers=rng.integers(1, 119, atoms),
        positions=rng.normal(size=(atoms, 3)),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        energy=rng.normal(size=size) * 1e5,
        forces=forces,
        stress=stress,
        cell=rng.normal(size=(size, 3, 3)),
        pbc=rng.random((size, 3)) < 0.5,
        charge=rng.integers(-3, 4, size),
        spin=rng.integers(0, 5, size),
        group=np.array([f"{'α-Fe₂O₃ ' * (i % 9)}{i // 2}" if i % 7 else "" for i in range(size)]),
    )


def same(got: FrameSet, expected: FrameSet) -> None:
    assert got.name == expected.name
    for field in FIELDS:
        mine, theirs = getattr(got, field), getattr(expected, field)
        assert mine.dtype.kind == theirs.dtype.kind, field
        np.testing.assert_array_equal(mine, theirs, err_msg=field)
        assert mine.flags.writeable, field
