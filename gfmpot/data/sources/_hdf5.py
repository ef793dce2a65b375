"""Opening HDF5 files and reading arrays from them, with errors that say what is wrong with the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources._molecules import formula, molecule
from gfmpot.data.sources._scale import Scale
from gfmpot.data.split import SplitName


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file for reading.

    Raises:
        ImportError: h5py is not installed.
        FileNotFoundError: no such file.
        ValueError: truncated, or not HDF5.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError('HDF5 files need h5py: pip install "gfmpot[hdf5]"') from error
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: not a whole HDF5 file ({error}); if it was downloaded, do so again") from error
    with file:
        yield file


def child(group: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The group ``name`` within an HDF5 group.

    Raises:
        ValueError: it is not there, cannot be opened, or is no group.
    """
    found = _item(group, name)
    if not isinstance(found, Mapping):
        raise ValueError(f"{name!r} is a dataset, expected a group")
    return found


def array(group: Mapping[str, Any], name: str) -> NDArray[Any]:
    """The dataset ``name`` of an HDF5 group.

    Raises:
        ValueError: it is not there, or its bytes cannot be read.
    """
    found = _item(group, name)
    if isinstance(found, Mapping):
        raise ValueError(f"{name!r} is a group, expected a dataset")
    try:
        return np.asarray(found[()])
    except OSError as error:
        raise ValueError(f"{name!r} cannot be read: {error}") from error


def conformations(
    file: Mapping[str, Any], place: str, keys: Sequence[str], name: str, scale: Scale, split: SplitName | None = None
) -> Iterator[Frame | Rejected]:
    """The c structures of one set of n atoms that a group holds as stacked arrays; their group is the sum formula.

    Args:
        file: the open file.
        place: path of the group in it.
        keys: names of the datasets atomic numbers (n,), positions (c, n, 3), energies (c,) and forces (c, n, 3).
        name: the file's name, for messages.
        scale: the file's units.
        split: the publishers' side.
    """
    where = f"{name}:{place}"
    try:
        stored = child(file, place)
        numbers, positions, energies, forces = (array(stored, key) for key in keys)
        if not np.shape(positions)[:1] == np.shape(energies)[:1] == np.shape(forces)[:1] != ():
            shapes = f"{positions.shape}, {energies.shape} and {forces.shape}"
            raise ValueError(f"expected {', '.join(keys[1:])} of equally many structures, got the shapes {shapes}")
        group = formula(numbers)
    except (ValueError, IndexError, TypeError) as error:
        yield Rejected(where, str(error))
        return
    for i, (xyz, energy, force) in enumerate(zip(positions, energies, forces, strict=True)):
        yield molecule(f"{where}/{i}", numbers, xyz, energy, force, group=group, scale=scale, split=split)


def few(names: Iterable[str]) -> str:
    """The first few of ``names``, for a message."""
    listed = sorted(names)
    return ", ".join(map(repr, listed[:6])) + (", ..." if len(listed) > 6 else "") if listed else "nothing"


def _item(group: Mapping[str, Any], name: str) -> Any:
    try:
        return group[name]
    except (KeyError, OSError, RuntimeError) as error:  # h5py raises any of these for a damaged link
        reason = f"cannot be opened: {error}" if name in group else f"is missing; there is {few(group)}"
        raise ValueError(f"{name!r} {reason}") from error
