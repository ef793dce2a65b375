"""Reading NumPy archives, with an error that says what is wrong with the file."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading raises in archives that are cut off or overwritten."""


def load_arrays(path: Path) -> Arrays:
    """All arrays of an ``.npz``; kept for the next call, since a file is read in many parts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an archive of plain arrays, or cut off.
    """
    state = path.stat()
    return _load(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)
def _load(path: Path, size: int, modified: int) -> Arrays:
    try:
        with path.open("rb") as raw:
            loaded = np.load(raw, allow_pickle=False)
            if not isinstance(loaded, NpzFile):
                raise ValueError("one array without a name")
            return {name: loaded[name] for name in loaded.files}
    except DAMAGE as error:
        raise ValueError(f"{path}: not a whole .npz of plain arrays ({error})") from error


def open_arrays(path: Path, names: Iterable[str]) -> dict[str, ArrayFile]:
    """Those of the named arrays that an ``.npz`` has, to be read in slices.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an archive of plain arrays, or cut off.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        archive = zipfile.ZipFile(path)
        members = [name for name in names if f"{name}.npy" in archive.namelist()]
        return {name: ArrayFile(archive.open(f"{name}.npy"), f"{path}: {name}") for name in members}
    except DAMAGE as error:
        raise ValueError(f"{path}: not a whole .npz of plain arrays ({error})") from error


def verify_arrays(path: Path, names: Iterable[str]) -> None:
    """Read those of the named arrays that there are to their ends, where the archive has their checksums.

    :func:`open_arrays` reads slices, which have none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged or cut off.
    """
    open_arrays(path, names)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in {f"{name}.npy" for name in names} & set(archive.namelist()):
                with archive.open(member) as file:
                    while file.read(1 << 20):
                        pass
    except DAMAGE as error:
        raise ValueError(f"{path}: not a whole .npz of plain arrays ({error})") from error


class ArrayFile:
    """An array in an archive, of which slices of the first axis are read.

    A compressed array is decompressed up to the slice: slices in ascending order cost one pass, and no memory.

    Args:
        file: where a ``.npy`` begins.
        where: file and array, for messages.

    Raises:
        ValueError: an array of objects, or in Fortran's order.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        self.shape, fortran, self.dtype = read_header(file)
        if self.dtype.hasobject or (fortran and len(self.shape) > 1):
            raise ValueError(f"{where} should be an array of numbers in C order")
        self._file, self._where, self._begin = file, where, file.tell()
        self._row = self.dtype.itemsize * math.prod(self.shape[1:])

    def __getitem__(self, key: slice | tuple[()]) -> NDArray[Any]:
        """The rows of a slice; all with ``()``.

        Raises:
            ValueError: the archive is damaged.
        """
        start, stop, _ = (key if isinstance(key, slice) else slice(None)).indices(self.shape[0])
        size = (stop - start) * self._row
        try:
            self._file.seek(self._begin + start * self._row)
            data = self._file.read(size)
        except DAMAGE as error:
            raise ValueError(f"{self._where} cannot be read from {start} to {stop}: {error}") from error
        if len(data) != size:
            raise ValueError(f"{self._where} ends before row {stop}: the file is cut off")
        return np.frombuffer(data, self.dtype).reshape(stop - start, *self.shape[1:])
