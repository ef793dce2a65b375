"""Whether each input structure is in the output exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfmpot.inference.screening.folder import Folder, read_lines
from gfmpot.inference.screening.formats import WHOLE
from gfmpot.inference.screening.inputs import Block, Span
from gfmpot.inference.screening.plan import Plan
from gfmpot.inference.screening.tables import read_summary

Ints = NDArray[np.int64]


def check(out: str | Path) -> list[str]:
    """What is wrong with a complete run; empty if each structure of the inputs was screened exactly once.

    Every block has one table; in each, the structures that were written, left out by the condition and quarantined add
    up to those of its records, and those written and quarantined are all different and of that block. Blocks do not
    overlap, so that no structure can be in two.

    Raises:
        FileNotFoundError: no run there.
        ValueError: a damaged plan.
    """
    folder = Folder(out)
    plan = Plan.read(folder)
    blocks, done = plan.blocks(), folder.done()
    missing = [number for number in range(len(blocks)) if number not in done]
    problems = [f"{len(missing)} of {len(blocks)} blocks are not done, the first is {missing[0]}"] if missing else []
    problems += [f"{folder.table(n)} belongs to no block" for n in sorted(done) if n >= len(blocks)]
    for number in sorted(done & set(range(len(blocks)))):
        problems += [f"block {number}: {problem}" for problem in _problems(folder, plan, blocks[number])]
    return problems


def _problems(folder: Folder, plan: Plan, block: Block) -> Iterator[str]:
    try:
        summary, found = read_summary(folder.table(block.number)), _read(folder, plan, block.number)
    except (ValueError, OSError, KeyError) as error:
        yield str(error)
        return
    stated = {name: summary[name] for name in ("written", "not_selected", "quarantined")}
    for name, count in (("written", found.written), ("quarantined", found.quarantined)):
        if stated[name] != count:
            yield f"{stated[name]} structures were {name}, {count} are there"
    if sum(stated.values()) != summary["structures"]:
        yield f"{summary['structures']} structures were read, but {stated} were accounted for"
    whole = any(plan.inputs[span.input].kind == WHOLE for span in block.spans)
    if summary["structures"] < block.records or (summary["structures"] > block.records and not whole):
        yield f"{summary['structures']} structures were read from {block.records} records"
    elsewhere = ~np.isin(found.inputs, [span.input for span in block.spans])
    if elsewhere.any():
        yield f"{elsewhere.sum()} structures are of files that are not in it"
    for span in block.spans:
        yield from _wrong_indices(plan, span, found.indices[found.inputs == span.input], not stated["not_selected"])


def _wrong_indices(plan: Plan, span: Span, indices: Ints, all_there: bool) -> Iterator[str]:
    """What is wrong with the structures of one file in one block."""
    item = plan.inputs[span.input]
    unique, counts = np.unique(indices, return_counts=True)
    if (counts > 1).any():
        yield f"{item.path}, structure {unique[counts > 1][0]} is there {counts.max()} times"
    start, stop = (0, int(unique.max(initial=0)) + 1) if item.kind == WHOLE else (span.start, span.stop)
    outside = unique[(unique < start) | (unique >= stop)]
    if len(outside):
        yield f"{item.path}, structure {outside[0]} is of another block"
    missing = np.setdiff1d(np.arange(start, stop), unique)
    if all_there and len(missing):
        yield f"{item.path}, structure {missing[0]} is missing"


class _Found(NamedTuple):
    """What is in the files of a block."""

    inputs: Ints  # (K,) number of the file of each structure that was written or quarantined
    indices: Ints  # (K,)
    written: int
    quarantined: int


def _read(folder: Folder, plan: Plan, block: int) -> _Found:
    import pyarrow.parquet as pq

    rows = pq.read_table(folder.table(block), columns=["file", "index"], partitioning=None)
    refusals = folder.refusals(block)
    lines = list(read_lines([refusals])) if refusals.exists() else []
    files = [*rows["file"].to_pylist(), *(line["file"] for line in lines)]
    indices = [*rows["index"].to_pylist(), *(line["index"] for line in lines)]
    if strangers := set(files) - plan.numbers.keys():
        raise ValueError(f"it has structures of {min(strangers)}, which is no input of this run")
    return _Found(
        np.array([plan.numbers[file] for file in files], dtype=np.int64),
        np.array(indices, dtype=np.int64),
        len(rows),
        len(lines),
    )
