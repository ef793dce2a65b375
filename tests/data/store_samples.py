"""Structures whose forces are the gradient of their energy, and files of them, for the tests of stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gfmpot.data.formats.manifest import Description
from gfmpot.data.frame import Frame
from gfmpot.data.frames import FrameSet

ABOUT = Description("npz", "toy-harmonic", "harmonic", licence="CC0-1.0", citation="nobody")
ATOMS = {6: -1030.0, 7: -1480.0, 8: -2040.0, 9: -2710.0}
"""Reference energies, eV."""

SPRING = 5.0
"""eV/Å²."""


def harmonic_frames(n: int, seed: int = 0, group_size: int = 5) -> list[Frame]:
    """n structures of 2 to 9 atoms on springs, in groups of consecutive ones; every other group is periodic."""
    rng = np.random.default_rng(seed)
    frames: list[Frame] = []
    while len(frames) < n:
        number = len(frames) // group_size
        atoms = int(rng.integers(2, 10))
        numbers = rng.choice(list(ATOMS), atoms)
        rest = 1.4 * np.argwhere(np.ones((3, 3, 3)))[:atoms]
        frames += [_displaced(numbers, rest, number, rng) for _ in range(min(group_size, n - len(frames)))]
    return frames


def _displaced(numbers: np.ndarray, rest: np.ndarray, number: int, rng: np.random.Generator) -> Frame:
    move = rng.normal(scale=0.05, size=rest.shape)
    periodic = number % 2 == 1
    return Frame(
        numbers=numbers.astype(np.int64),
        positions=rest + move,
        energy=float(sum(ATOMS[z] for z in numbers) + 0.5 * SPRING * (move**2).sum()),
        forces=-SPRING * move,
        group=f"gruppe-ä{number}",
        cell=np.eye(3) * 12.0 if periodic else np.zeros((3, 3)),
        pbc=np.full(3, periodic),
        stress=rng.normal(size=6) if periodic else np.full(6, np.nan),
        charge=-1 if number % 7 == 3 else 0,
    )


def write_npz(path: Path, frames: Sequence[Frame]) -> Path:
    """The packed file of ``docs/data.md``."""
    data = FrameSet.from_frames(frames)
    labels, group = np.unique(data.group, return_inverse=True)
    fields = ("numbers", "positions", "energy", "forces", "stress", "cell", "pbc", "charge", "spin")
    arrays = {name: getattr(data, name) for name in fields}
    np.savez(path, natoms=data.atoms_per_structure, group=group, group_labels=labels, **arrays)
    return path


def assert_same(found: FrameSet, expected: FrameSet) -> None:
    """Equal to the precision that a store keeps: forces and stresses are float32 there."""
    for name in ("numbers", "positions", "offsets", "energy", "cell", "pbc", "charge", "spin", "group"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in ("forces", "stress"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name).astype(np.float32), err_msg=name)
    for name in ("numbers", "positions", "forces", "stress", "charge"):
        assert getattr(found, name).dtype == getattr(expected, name).dtype
