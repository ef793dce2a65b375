"""Reading NumPy archives, with an error that says what is wrong with the file."""

from __future__ import annotations

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


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
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a whole .npz of plain arrays ({error})") from error
