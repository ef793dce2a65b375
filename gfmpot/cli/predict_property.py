"""``gfmpot predict`` with a model of a property: a band gap, a dipole, metal or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfmpot.cli.console import report, table
from gfmpot.cli.predict import Evaluated, evaluate, place, write
from gfmpot.cli.structures import Failure, read_all

if TYPE_CHECKING:
    from ase import Atoms

    from gfmpot.models import Target


def predict_property(
    files: Sequence[Path],
    out: Path | None,
    model: str,
    precision: str,
    device: str | None,
    charge: int,
    spin: int | None,
    unused: Mapping[str, object],
) -> None:
    """As ``gfmpot predict``; what is written has the property under its name, and its unit beside it.

    Raises:
        ValueError: an option that only potentials have.
    """
    from gfmpot.inference import PropertyPredictor

    given = [option for option, value in unused.items() if value is not None]
    if given or precision == "auto":
        asked = " and ".join([*given, *(["--precision auto"] if precision == "auto" else [])])
        raise ValueError(f"{model} is a model of a property, for which there is no {asked}; leave it out")
    predictor = PropertyPredictor(model, precision=precision, device=device, charge=charge, spin=spin)
    found = list(evaluate(predictor, read_all(files)))
    good = [entry for entry in found if not isinstance(entry, Failure)]
    records = [{**place(frame), **answer} for frame, answer in good]
    if records:
        _print(records, predictor.target)
    if records and out is not None:
        write(out, records, map(_labelled, good))
    report([entry for entry in found if isinstance(entry, Failure)])


def _print(records: Sequence[Mapping[str, Any]], target: Target) -> None:
    unit = "probability" if target.is_class else target.unit
    title = f"{target.name}\n({unit})" if unit else target.name
    columns = [name for name in records[0] if name != "unit"]
    headers = [title if name == target.name else name for name in columns]
    table(headers, [[record[name] for name in columns] for record in records])


def _labelled(entry: Evaluated) -> Atoms:
    frame, answer = entry
    atoms = frame.atoms.copy()
    atoms.info |= {"file": str(frame.file), "frame": frame.index, **answer}
    return atoms
