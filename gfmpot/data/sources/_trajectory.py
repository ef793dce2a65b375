"""Trajectories of the Open Catalyst project by frame: ASE's ``.traj``, and extended XYZ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources import _extxyz
from gfmpot.data.sources._ase import frame_or_rejected
from gfmpot.data.split import SplitName

if TYPE_CHECKING:
    from ase import Atoms


def count_frames(path: Path) -> int:
    """Number of frames.

    Raises:
        ValueError: not a trajectory, or cut off.
    """
    if path.suffix != ".traj":
        return _extxyz.count_frames(path)
    with _traj(path) as trajectory:
        return len(trajectory)


def read_trajectory(
    path: Path, start: int, stop: int, group: Callable[[int], str], split: SplitName | None
) -> Iterator[Frame | Rejected]:
    """Frames ``start`` to ``stop``, that of number ``i`` in ``group(i)``."""
    frames = _read_traj if path.suffix == ".traj" else _extxyz.read_frames
    for index, atoms in enumerate(frames(path, start, stop), start):
        where = f"{path.name}:{index}"
        if isinstance(atoms, ValueError):
            yield Rejected(where, str(atoms))
        else:
            yield frame_or_rejected(atoms, group(index), where, split=split)


def _read_traj(path: Path, start: int, stop: int) -> Iterator[Atoms | ValueError]:
    with _traj(path) as trajectory:
        for index in range(start, min(stop, len(trajectory))):
            try:
                yield trajectory[index]
            except (ValueError, KeyError, OSError) as error:
                yield ValueError(f"the frame cannot be read: {error}")


def _traj(path: Path) -> Any:
    from ase.io.trajectory import TrajectoryReader

    try:
        return TrajectoryReader(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a whole ASE trajectory ({error}); if it was downloaded, do so again") from error
