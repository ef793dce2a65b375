"""What recipes that make labels share: work in parts that are kept until the whole is there, on several processes."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gfmpot.atomic import atomic

PER_ATOM = ("numbers", "positions", "forces")
KINDS = {
    "numbers": np.uint8,
    "positions": np.float32,
    "cell": np.float32,
    "pbc": np.bool_,
    "forces": np.float32,
    "stress": np.float32,
    "natoms": np.int32,
    "charge": np.int16,
    "spin": np.int16,
    "group": np.int32,
}

LINES = 60.0
"""s between lines in a log."""

Row = dict[str, Any]
"""A labelled structure: its part of each array of the packed layout, ``natoms`` excepted."""


@dataclass(frozen=True)
class Job:
    """Structures that are labelled and kept together."""

    out: Path
    inputs: Sequence[Any]
    first: int
    """Number of the first one, of all."""

    seed: int


@dataclass(frozen=True)
class Labelling:
    """From inputs to a packed file.

    Args:
        label: gives the labelled structures of a job; runs in other processes, so it is a function of a module.
        per_part: structures of a job.
        meta: what the file says of itself.
    """

    label: Callable[[Job], list[Row]]
    per_part: int
    meta: dict[str, Any]
    extra: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Arrays that are not of a structure each, as ``group_labels``."""

    def run(self, out: Path, inputs: Sequence[Any], fingerprint: bytes, seed: int, workers: int) -> None:
        """Label all; parts that an earlier run of the same work has left are not made again.

        Args:
            out: the file.
            inputs: of structures.
            fingerprint: all that labels depend on besides the seed, so that other work's parts are not taken for this.
            seed: of all that is drawn.
            workers: processes.
        """
        digest = hashlib.sha256(f"{seed} {self.per_part}".encode() + fingerprint).hexdigest()[:12]
        folder = out.with_name(f"{out.name}.parts-{digest}")
        folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, len(inputs), self.per_part)
        jobs = [Job(folder / f"{a}.npz", inputs[a : a + self.per_part], a, seed) for a in starts]
        left = [job for job in jobs if not job.out.exists()]
        columns = (TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        with ExitStack() as stack:
            progress = stack.enter_context(Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()))
            task = progress.add_task(
                "", total=len(inputs), completed=len(inputs) - sum(len(j.inputs) for j in left), rate=""
            )
            one_by_one = map if workers < 2 else stack.enter_context(_pool(workers)).imap
            told = monotonic()
            for job, _ in zip(left, one_by_one(self._keep, left), strict=True):
                speed = progress.tasks[task].speed
                progress.update(task, advance=len(job.inputs), rate=f"{speed:.0f}/s" if speed else "")
                if not progress.console.is_terminal and monotonic() - told > LINES:
                    told = monotonic()
                    progress.console.print(f"labelled {progress.tasks[task].completed:.0f} of {len(inputs)}")
        pieces = [piece for job in jobs if len((piece := dict(np.load(job.out)))["natoms"])]
        if not pieces:
            raise SystemExit(f"error: none of {len(inputs)} structures could be labelled")
        arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        write(out, {**arrays, **self.extra, "meta": np.array(json.dumps(self.meta | {"seed": seed}))})
        shutil.rmtree(folder)
        print(f"{out}: {len(arrays['natoms'])} structures of {len(set(arrays['group'].tolist()))} groups")

    def _keep(self, job: Job) -> None:
        write(job.out, joined(self.label(job)))


def command_line(
    document: str,
    source: tuple[str, str],
    structures: tuple[int, str] | None,
    more: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> argparse.Namespace:
    """What recipes that make labels are given.

    Args:
        document: of the recipe.
        source: the option of what they are made from, and what that is.
        structures: how many by default, and why there may be fewer; None where that is not to be chosen.
        more: other options, and what ``argparse`` is to know of them.
    """
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    option, meaning = source
    parser.add_argument(option, type=Path, required=True, help=meaning)
    parser.add_argument("--out", type=Path, required=True, help="a packed file (.npz) that is not there yet")
    if structures:
        about = f"to try ({structures[0]}); {structures[1]}"
        parser.add_argument("--structures", type=int, default=structures[0], help=about)
    for name, options in more.items():
        parser.add_argument(name, **options)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in ("structures", "workers"):
        if getattr(given, name, 1) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(given, name)}")
    if given.out.suffix != ".npz" or given.out.exists():
        parser.error(f"--out must be a .npz that is not there yet, got {given.out}")
    path: Path = getattr(given, option.removeprefix("--"))
    if not path.exists():
        parser.error(f"{option}: no file {path}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # structures are small: a worker each is faster
    return given


def joined(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    """Arrays of the packed layout."""
    if not rows:
        return {"natoms": np.zeros(0, np.int32)}
    arrays = {n: (np.concatenate if n in PER_ATOM else np.array)([row[n] for row in rows]) for n in rows[0]}
    arrays["natoms"] = np.array([len(row["numbers"]) for row in rows])
    return {name: np.asarray(array, KINDS.get(name)) for name, array in arrays.items()}


def write(path: Path, arrays: dict[str, Any]) -> None:
    """A packed file, whole or not at all."""
    with atomic(path) as partial:
        np.savez_compressed(partial, **arrays)


def _pool(workers: int) -> Pool:
    return multiprocessing.get_context("spawn").Pool(workers)
