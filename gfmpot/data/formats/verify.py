"""Finds out what of a store is damaged: a flipped byte, a missing file, a block that reads differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from gfmpot.data.formats.adios_reader import SplitReader
from gfmpot.data.formats.adios_writer import checksum
from gfmpot.data.formats.layout import FIELDS
from gfmpot.data.formats.manifest import Manifest, StoredFile

Progress = Callable[[str, int, int], None]


def verify(path: str | Path, progress: Progress = lambda what, done, total: None) -> list[str]:
    """Everything that is wrong with a store, in words; nothing if it is intact.

    Every file is compared with its checksum, and every block of every field, read with ADIOS2, with its own: the first
    notices any change, the second says which structures it concerns.

    Args:
        path: the store.
        progress: is told which file or split is being read, how many are done, and of how many.

    Raises:
        FileNotFoundError: not a store.
    """
    store = Path(path)
    try:
        manifest = Manifest.read(store)
    except ValueError as error:
        return [f"{error}; nothing else can be checked without it"]
    total = len(manifest.files) + len(manifest.blocks)
    damaged: dict[str, str] = {}
    for done, (name, expected) in enumerate(manifest.files.items()):
        progress(name, done, total)
        problem = _file_problem(store / name, expected)
        if problem:
            damaged[name] = problem
    problems = [f"{name}: {problem}" for name, problem in damaged.items()]
    for done, split in enumerate(manifest.blocks, start=len(manifest.files)):
        progress(f"{split}.bp", done, total)
        if _readable(split, store, manifest, damaged):
            problems += _block_problems(store, split, manifest)
        else:
            problems.append(f"{split}.bp: cannot be read, so all of its {manifest.counts[split]} structures are lost")
    progress("done", total, total)
    return problems


def _file_problem(path: Path, expected: StoredFile) -> str | None:
    if not path.is_file():
        return "the file is missing"
    found = StoredFile.of(path)
    if found.size != expected.size:
        return f"the file has {found.size} bytes, not {expected.size}"
    return None if found.sha256 == expected.sha256 else "the file's content changed"


def _readable(split: str, store: Path, manifest: Manifest, damaged: dict[str, str]) -> bool:
    """Whether ADIOS2 can be trusted with it: with damaged metadata or cut off data it crashes or waits forever."""
    for name, expected in manifest.files.items():
        inside = name.startswith(f"{split}.bp/")
        whole_data = "data." in name and (store / name).is_file() and (store / name).stat().st_size == expected.size
        if inside and name in damaged and not whole_data:
            return False
    return True


def _block_problems(store: Path, split: str, manifest: Manifest) -> Iterator[str]:
    reader, blocks = SplitReader(store / f"{split}.bp", hold=0), manifest.blocks[split]
    for number, block in enumerate(blocks):
        for name, field in FIELDS.items():
            start, stop = block.rows(field.axis, last=block is blocks[-1])
            first, end = block.structures
            where = f"{split}.bp, block {number} (structures {first} to {end}), {name}"
            try:
                values = reader.values(name, start, stop)
            except OSError as error:
                yield f"{where}: {error}"
                continue
            if checksum(values) != block.checksums[name]:
                yield f"{where}: the values changed"
