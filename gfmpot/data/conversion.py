"""From the files of a dataset to an ADIOS2 store: in parallel, resumable, atomic, equal for any number of workers.

The files' records are cut into parts, which workers read, check and pack into ``OUT.partial``; a run that was killed
goes on with those that are there. The merge then decides about sides and filters, writes the store beside them, and
renames it when it is complete.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from gfmpot.data.formats.manifest import NAME as MANIFEST
from gfmpot.data.formats.manifest import QUARANTINE, Description, Manifest
from gfmpot.data.frames import npz_metadata
from gfmpot.data.merging import Store
from gfmpot.data.parts import Finished, Part, Refusal, convert_part
from gfmpot.data.plausibility import Evidence
from gfmpot.data.source import Source
from gfmpot.data.survey import Settings, check_sides, survey

__all__ = ["Settings", "convert", "describe"]

log = logging.getLogger(__name__)

MEND = "mend the data, or name a file for the quarantine to go on without what is bad"

PARTS = 256
SMALLEST_PART, LARGEST_PART = 16, 4096
"""Into how many parts the records are cut, and how many records a part has at least and at most."""

FIRST_LOOK = 8
"""Parts after which the evidence for wrong units is first looked at: fewer may all be of one unusual molecule."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is to do."""

DEFAULTS = Settings()

T = TypeVar("T")
R = TypeVar("R")


def convert(
    source: Source,
    inputs: Sequence[Path],
    out: Path,
    about: Description,
    *,
    settings: Settings = DEFAULTS,
    workers: int = 1,
    quarantine: Path | None = None,
    allow_implausible: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> Manifest:
    """Convert the dataset's files into the store ``out``, and return its manifest.

    Args:
        source: reads the files; with more than one worker it is sent to other processes, and a script that calls this
            needs the usual ``if __name__ == "__main__":``.
        inputs: files and folders.
        out: the store, a folder that must not exist.
        about: whose data, and at what level of theory; see :func:`describe`.
        settings: sides and filters.
        workers: processes.
        quarantine: go on without structures that cannot be read or trained on, and write them there, one JSON object
            per line; else the first one ends the conversion. What ``settings`` leave out is written there as well.
        allow_implausible: accept distances, or forces against energies, that look like wrong units.
        overwrite: replace an existing store once the new one is complete.
        progress: is told how far it is.

    Raises:
        FileExistsError: ``out`` exists, and is no store or is not to be replaced.
        FileNotFoundError: an input does not exist.
        ImplausibleDataError: units look wrong.
        ValueError: a structure that cannot be read or trained on, with file, record and reason; an empty split.
        OSError: a worker died.
    """
    _check_target(out, overwrite)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    folder = out.with_name(f"{out.name}.partial")
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    with _pool(workers) as pool:
        parts, unreadable = _plan(source, source.files(inputs), pool, progress)
        if unreadable and quarantine is None:
            raise ValueError(f"{unreadable[0].reason}; nothing was converted: {MEND}")
        finished = _read_all(parts, folder / "parts", pool, progress, allow_implausible, refuse=quarantine is None)
    written = folder / f"store-{os.getpid()}"
    store = Store(written, about, settings, unreadable)
    manifest = _merge(store, list(zip(parts, finished, strict=True)), progress)
    if quarantine is not None:
        _keep_quarantine(written / QUARANTINE, quarantine)
    _put_in_place(written, out, folder)
    return manifest


EXAMPLES = {"branch": "mine-pbe", "theory": "PBE"}
"""What a store must say, and how a user may."""


def describe(source: Source, name: str, inputs: Sequence[Path] = (), **given: str | None) -> Description:
    """What a store will say about its data: what is ``given``, else what the source or the files themselves state.

    Args:
        source: the reader.
        name: the reader's name.
        inputs: the files; a packed ``.npz`` may state theory, licence and citation.
        given: fields of :class:`Description`.

    Raises:
        ValueError: neither says of which branch or level of theory the data are.
    """
    info, npz = source.info, [path for path in inputs if path.suffix == ".npz" and path.is_file()]
    stated = npz_metadata(npz[0]) if npz and not info.branch else {}
    fields = {}
    for field in ("branch", "theory", "title", "licence", "citation", "url", "units"):
        fields[field] = given.get(field) or getattr(info, field) or _text(stated.get(field))
    missing = [f"--{field} {example}" for field, example in EXAMPLES.items() if not fields[field]]
    if missing:
        raise ValueError(f"the source {name!r} does not say whose data these are: give, e.g., {' '.join(missing)}")
    return Description(source=name, **fields)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _check_target(out: Path, overwrite: bool) -> None:
    """Nothing but a store may be replaced."""
    if out.suffix != ".bp":
        raise ValueError(f"a store's name ends in .bp, got {out}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another name, or replace it (--overwrite)")
    if out.exists() and not (out / MANIFEST).is_file():
        raise FileExistsError(f"{out} is no store, so it is not replaced; choose another name")


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes to work in, or None for this one.

    Raises:
        OSError: a worker died.
    """
    if workers == 1:
        yield None
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise OSError(
            "a worker died, perhaps for want of memory; finished parts are kept: run again, with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _each(pool: ProcessPoolExecutor | None, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Results in order."""
    if pool is None:
        return map(function, items)
    futures = [pool.submit(function, item) for item in items]
    return (future.result() for future in futures)


def _plan(
    source: Source, files: Sequence[Path], pool: ProcessPoolExecutor | None, progress: Progress
) -> tuple[list[Part], list[Refusal]]:
    """Parts of the files that can be read, and the other files."""
    counts, unreadable = [], []
    for file, count in zip(files, _each(pool, partial(_count, source), files), strict=True):
        if isinstance(count, str):
            unreadable.append(Refusal(str(file), count, "unreadable file"))
        counts.append(0 if isinstance(count, str) else count)
        progress("counting", len(counts), len(files))
    size = min(max(-(-sum(counts) // PARTS), SMALLEST_PART), LARGEST_PART)
    parts = [
        Part(source, file, start, min(start + size, count))
        for file, count in zip(files, counts, strict=True)
        for start in range(0, count, size)
    ]
    return parts, unreadable


def _count(source: Source, file: Path) -> int | str:
    """Number of records, or why there is none."""
    try:
        return source.count(file)
    except (ValueError, OSError) as error:
        return str(error) if file.name in str(error) else f"{file}: {error}"


def _read_all(
    parts: Sequence[Part],
    folder: Path,
    pool: ProcessPoolExecutor | None,
    progress: Progress,
    allow_implausible: bool,
    refuse: bool,
) -> list[Finished]:
    """All parts; the evidence for wrong units is looked at early, and again each time it has doubled."""
    finished: list[Finished] = []
    records, so_far = sum(part.stop - part.start for part in parts), 0
    for part, done in zip(parts, _each(pool, partial(convert_part, folder=folder), parts), strict=True):
        finished.append(done)
        if refuse and done.refused:
            more = f", and {done.refused - 1} more up to record {part.stop} of this file" if done.refused > 1 else ""
            raise ValueError(f"{done.first}{more}; nothing was converted: {MEND}")
        n = len(finished)
        if not allow_implausible and (n == len(parts) or (n >= FIRST_LOOK and n & (n - 1) == 0)):
            Evidence.join([part.evidence for part in finished]).check()
        so_far += part.stop - part.start
        progress("reading", so_far, records)
    log.info("%d parts, of which %d were there before", len(parts), sum(done.reused for done in finished))
    return finished


def _merge(store: Store, parts: Sequence[tuple[Part, Finished]], progress: Progress) -> Manifest:
    total, so_far = sum(done.structures for _, done in parts), 0
    if total == 0:
        reasons = [done.first for _, done in parts if done.refused] + [r.reason for r in store.unreadable]
        first = reasons[0] if reasons else "the files have no records"
        raise ValueError(f"not one usable structure: {first}")
    paths = [(part, done.path) for part, done in parts]
    found = survey([path for _, path in paths], store.settings)
    check_sides(found, store.settings)
    shutil.rmtree(store.folder, ignore_errors=True)
    store.folder.mkdir()

    def advance(structures: int) -> None:
        nonlocal so_far
        so_far += structures
        progress("writing", so_far, total)

    return store.write(paths, found, advance)


def _keep_quarantine(written: Path, wanted: Path) -> None:
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_bytes(written.read_bytes() if written.exists() else b"")


def _put_in_place(written: Path, out: Path, folder: Path) -> None:
    """Each step is a rename, so that there is never half a store under the name."""
    if out.exists():
        out.rename(folder / f"replaced-{os.getpid()}")
    written.rename(out)
    shutil.rmtree(folder)
