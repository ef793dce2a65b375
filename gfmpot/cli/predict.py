"""``gfmpot predict``: energies, forces and stress of any number of structures, or a property of theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias

import typer

from gfmpot.atomic import atomic
from gfmpot.cli import options, output
from gfmpot.cli.console import clean_errors, note, report, table
from gfmpot.cli.structures import Failure, Frame, read_all

if TYPE_CHECKING:
    from ase import Atoms

    from gfmpot.inference import Results

Evaluated: TypeAlias = "tuple[Frame, Any]"
"""A structure and what was answered."""


class Evaluator(Protocol):
    """A calculator, or what predicts a property."""

    def evaluate_many(self, structures: Iterable[Atoms]) -> Sequence[Mapping[str, Any]]:
        """Answers for all; a ``ValueError`` or ``MemoryError`` for any of them is one for all."""


CHUNK = 512
"""Frames that are handed over together; the calculator packs them into batches by size."""

HEADERS = {
    "energy": "energy\n(eV)",
    "energy_per_atom": "energy\n(eV/atom)",
    "max_force": "max force\n(eV/Å)",
    "energy_std": "std\n(eV)",
    "novelty": "novelty\n(largest)",
    "branch_weights": "branch weights",
}
"""Of the printed table, where they differ from the names in files."""


def predict(
    files: Annotated[list[Path], typer.Argument(help="Anything ASE or pymatgen reads; all frames.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write results, too: .csv, .json, .parquet, or .extxyz with forces and stress."
        ),
    ] = None,
    model: options.Model = "default",
    head: options.Head = None,
    precision: options.Precision = "fp32",
    tolerance: options.Tolerance = None,
    device: options.Device = None,
    charge: options.Charge = 0,
    spin: options.Spin = None,
) -> None:
    """Energy, largest force and uncertainty of every structure in FILES; or, by a model of a property, that property.

    What cannot be read or answered is listed at the end, with file and frame, and makes the exit code 1; all other
    results are printed and written nevertheless.
    """
    with clean_errors():
        from gfmpot.models import kind_of

        if out is not None:
            output.check_output(out, [*output.TABLES, ".extxyz"])
        if kind_of(model) == "property":
            from gfmpot.cli.predict_property import predict_property

            unused = {"--head": head, "--tolerance": tolerance}
            predict_property(files, out, model, precision, device, charge, spin, unused)
            return
        calculator = options.build_calculator(model, head, precision, device, charge, spin, tolerance)
        found = list(evaluate(calculator, read_all(files)))
        good = [entry for entry in found if not isinstance(entry, Failure)]
        records = [record(frame, results) for frame, results in good]
        options.tell_choice(calculator)
        if records:
            _print(records)
        if records and out is not None:
            write(out, records, (_labelled(frame, results) for frame, results in good))
        report([entry for entry in found if isinstance(entry, Failure)])


def evaluate(calculator: Evaluator, frames: Iterable[Frame | Failure]) -> Iterator[Evaluated | Failure]:
    """Results of all frames, in order, computed in batches; a frame that fails does not take others with it."""
    stream = iter(frames)
    while chunk := list(islice(stream, CHUNK)):
        answers = iter(_answers(calculator, [entry for entry in chunk if isinstance(entry, Frame)]))
        for entry in chunk:
            yield entry if isinstance(entry, Failure) else next(answers)


def place(frame: Frame) -> dict[str, Any]:
    """The first columns of a row: which structure it is."""
    return {
        "file": str(frame.file),
        "frame": frame.index,
        "formula": frame.atoms.get_chemical_formula(),
        "natoms": len(frame.atoms),
    }


def record(frame: Frame, results: Results) -> dict[str, Any]:
    """The row of one structure, by the names and units of all result tables."""
    novelty = {"novelty": float(results["novelty"].max())} if "novelty" in results else {}
    return {
        **place(frame),
        "energy": results["energy"],
        "energy_per_atom": results["energy"] / len(frame.atoms),
        "max_force": float((results["forces"] ** 2).sum(axis=1).max() ** 0.5),
        "energy_std": results["energy_std"],
        **novelty,
        "branch_weights": results["branch_weights"],
    }


def _answers(calculator: Evaluator, frames: Sequence[Frame]) -> list[Evaluated | Failure]:
    """All at once; if that fails, by halves, until the frames that fail stand alone."""
    if not frames:
        return []
    try:
        return list(zip(frames, calculator.evaluate_many(frame.atoms for frame in frames), strict=True))
    except (ValueError, MemoryError) as error:
        if len(frames) > 1:
            middle = len(frames) // 2
            return _answers(calculator, frames[:middle]) + _answers(calculator, frames[middle:])
        formula = frames[0].atoms.get_chemical_formula()
        return [Failure(f"{frames[0]} ({formula})", str(error).removeprefix(f"structure 0 ({formula}): "))]


def _print(records: Sequence[dict[str, Any]]) -> None:
    columns = [HEADERS.get(name, name) for name in records[0]]
    table(columns, [[*list(r.values())[:-1], _largest(r["branch_weights"])] for r in records])


def _largest(weights: dict[str, float], count: int = 3) -> str:
    ranked = sorted(weights.items(), key=lambda item: -item[1])[:count]
    return ", ".join(f"{name} {weight:.2f}" for name, weight in ranked if weight >= 0.005)


def write(out: Path, records: Sequence[Mapping[str, Any]], labelled: Iterable[Atoms]) -> None:
    """A table of ``records``, or in an ``.extxyz`` the structures with their answers."""
    with atomic(out) as partial:
        if out.suffix == ".extxyz":
            output.write_structures(partial, list(labelled))
        else:
            output.TABLES[out.suffix](partial, records)
    note(f"wrote {out}")


def _labelled(frame: Frame, results: Results) -> Atoms:
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = frame.atoms.copy()
    kept = {key: results[key] for key in ("energy", "free_energy", "forces", "stress") if key in results}
    atoms.calc = SinglePointCalculator(atoms, **kept)
    atoms.info |= {"file": str(frame.file), "frame": frame.index, "energy_std": results["energy_std"]}
    atoms.info["branch_weights"] = json.dumps(results["branch_weights"])
    if "novelty" in results:
        atoms.arrays["novelty"] = results["novelty"]
    return atoms
