"""The best of all results: the N rows that are lowest or highest in one column, and their structures."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gfmpot.config import did_you_mean
from gfmpot.data.frame import Frame
from gfmpot.inference.screening.folder import Folder
from gfmpot.inference.screening.formats import WHOLE, Defaults
from gfmpot.inference.screening.inputs import structures
from gfmpot.inference.screening.plan import Plan
from gfmpot.inference.screening.tables import RELAXED, TYPES, pyarrow, whole

if TYPE_CHECKING:
    from ase import Atoms

RANKING = b"gfmpot.top"
"""Under which key the metadata of ``top.parquet`` say what was ranked by what."""

NUMBERS = [name for name, kind in (TYPES | RELAXED).items() if kind[0] in "if"]


@dataclass(frozen=True)
class Top:
    """Which results are the best.

    Args:
        count: how many.
        by: name of a column with numbers.
        largest: whether the best are the largest, rather than the smallest.

    Raises:
        ValueError: a count below 1, or no such column.
    """

    count: int
    by: str = "energy_per_atom"
    largest: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"the number of best results must be at least 1, got {self.count}")
        if self.by not in NUMBERS:
            raise ValueError(f"no column {self.by!r} to rank by{did_you_mean(self.by, NUMBERS)}")

    def check(self, columns: Collection[str]) -> None:
        """Whether a table with these columns can be ranked.

        Raises:
            ValueError: it cannot.
        """
        if self.by not in columns:
            raise ValueError(f"there is no column {self.by!r} to rank by without a relaxation")


def write_top(folder: Folder, plan: Plan, top: Top, defaults: Defaults) -> Any:
    """Write the best results as ``top.parquet``, and their structures, relaxed if they were, as ``top.extxyz``.

    Args:
        folder: of a complete run.
        plan: of the run.
        top: how many by what.
        defaults: what reads the inputs.

    Returns:
        The rows as an Arrow table, the best first.

    Raises:
        ValueError: an input has changed.
    """
    import pyarrow.parquet as pq
    from ase.io import write

    rows = best(folder, top)
    found = [_structure(folder, plan, row, defaults) for row in rows.to_pylist()]
    with whole(folder.path / "top.extxyz") as partial:
        write(partial, found, format="extxyz")
    metadata = {**(rows.schema.metadata or {}), RANKING: json.dumps(asdict(top)).encode()}
    with whole(folder.path / "top.parquet") as partial:  # comes last, since it says what the best are
        pq.write_table(rows.replace_schema_metadata(metadata), partial)
    return rows


def ranked_by(folder: Folder) -> Top | None:
    """What :func:`write_top` has written; None if nothing."""
    import pyarrow.parquet as pq

    path = folder.path / "top.parquet"
    if not path.exists():
        return None
    stated = (pq.read_schema(path).metadata or {}).get(RANKING)
    return None if stated is None else Top(**json.loads(stated))


def best(folder: Folder, top: Top) -> Any:
    """The rows in order, as an Arrow table; equal ones by file and index, undefined ones not at all.

    Memory holds as many rows as are wanted and a part of the results.
    """
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    pa, data = pyarrow(), ds.dataset(folder.results)
    order = [(top.by, "descending" if top.largest else "ascending"), ("file", "ascending"), ("index", "ascending")]
    as_good = pc.greater_equal if top.largest else pc.less_equal
    found = data.schema.empty_table()
    for batch in data.to_batches():
        column = batch[top.by]
        full = len(found) == top.count
        chosen = as_good(column, found[top.by][-1]) if full else pc.is_valid(column)
        if pc.any(chosen).as_py():
            joined = pa.concat_tables([found, pa.Table.from_batches([batch.filter(chosen)])])
            found = joined.sort_by(order).slice(0, top.count)
    return found


def _structure(folder: Folder, plan: Plan, row: Mapping[str, Any], defaults: Defaults) -> Atoms:
    """The structure of a row, with its energy, origin and uncertainty."""
    from ase.calculators.singlepoint import SinglePointCalculator

    relaxed = plan.options["relax"] is not None
    atoms = _final(folder, plan, row) if relaxed else _read(plan, row, defaults)
    atoms.info |= {name: row[name] for name in ("file", "index", "energy_std", "novelty") if row[name] is not None}
    atoms.calc = SinglePointCalculator(atoms, energy=row["energy"])
    return atoms


def _final(folder: Folder, plan: Plan, row: Mapping[str, Any]) -> Atoms:
    from ase.io import iread

    number = plan.numbers[row["file"]]
    block = plan.blocks().number_of(number, 0 if plan.inputs[number].kind == WHOLE else row["index"])
    for atoms in iread(folder.finals(block), index=":", format="extxyz"):
        if (str(atoms.info["file"]), atoms.info["index"]) == (row["file"], row["index"]):
            return atoms
    raise ValueError(f"{folder.finals(block)} has no structure {row['index']} of {row['file']}")


def _read(plan: Plan, row: Mapping[str, Any], defaults: Defaults) -> Atoms:
    from ase import Atoms

    item, index = plan.inputs[plan.numbers[row["file"]]], row["index"]
    start, stop = (0, 1) if item.kind == WHOLE else (index, index + 1)
    for found, frame in structures(item, start, stop, defaults):
        if found == index and isinstance(frame, Frame):
            info = {name: value for name, value in (("charge", frame.charge), ("spin", frame.spin)) if value}
            return Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc, info=info)
    raise ValueError(f"{item.path}: structure {index} is not there any more")
