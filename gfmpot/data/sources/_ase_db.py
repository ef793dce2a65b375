"""Reading SQLite databases of ASE, by position and without writing to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from gfmpot.data.frame import Frame, Rejected


def count_rows(path: Path) -> int:
    """Number of rows.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a database of ASE, or a damaged one.
    """
    return int(_query(path, "SELECT COUNT(*) FROM systems")[0][0])


def read_rows(
    path: Path, start: int, stop: int, frame: Callable[[Any, int], Frame | Rejected]
) -> Iterator[Frame | Rejected]:
    """What ``frame(row, index)`` makes of rows ``start`` to ``stop`` in the order of their ids.

    A row that cannot be read or decoded comes as :class:`Rejected`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a database of ASE, or a damaged one.
    """
    ids = _query(path, "SELECT id FROM systems ORDER BY id LIMIT ? OFFSET ?", max(stop - start, 0), start)
    with _opened(path) as database:
        for index, (number,) in enumerate(ids, start):
            try:
                yield frame(database.get(id=number), index)
            except (KeyError, IndexError, TypeError, ValueError, sqlite3.Error) as error:
                yield Rejected(f"{path.name}:{index}", f"the row with id {number} cannot be decoded: {error!r}")


def metadata(path: Path) -> dict[str, Any]:
    """The database's metadata; empty if it has none."""
    _query(path, "SELECT COUNT(*) FROM systems")
    with _opened(path) as database:
        found: dict[str, Any] = database.metadata
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The database as ASE sees it; what SQLite does not like about it is a ValueError."""
    from ase.db import connect

    try:
        with connect(path, type="db", use_lock_file=False) as database:
            yield database
    except sqlite3.Error as error:
        raise _damaged(path, error) from error


def _query(path: Path, sql: str, *arguments: int) -> list[tuple[Any, ...]]:
    """Asked of SQLite itself, read-only: ASE would create its tables in a file that is no database of its own."""
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, arguments).fetchall()
    except sqlite3.Error as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: sqlite3.Error) -> ValueError:
    return ValueError(
        f"{path}: not a whole SQLite database of ASE, which has a table 'systems' ({error}); if it was downloaded, "
        "do so again"
    )
