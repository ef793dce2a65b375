"""The models of benchmarks/accuracy.py, and what its parts share: who fails is said, and how far the work is."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from accuracy_remote import Remote
from ase import Atoms
from ase.calculators.calculator import Calculator

from gfmpot import GFMCalculator
from gfmpot.calculators.relaxation import relax

T = TypeVar("T")
Part = dict[str, Any]
"""Results of one part, ready for JSON."""

REFERENCES = {"chgnet": "CHGNet 0.3.0", "gfn2": "GFN2-xTB"}
ENVIRONMENTS = Path(__file__).resolve().parent / "envs"


@dataclass(frozen=True)
class Model:
    """Whoever answers."""

    label: str
    calculator: Calculator
    reference: bool = False
    crystals: bool = True
    molecules: bool = True


def open_models(given: argparse.Namespace, stack: ExitStack) -> list[Model]:
    """The blend, single heads if they were asked for, and references.

    Raises:
        ValueError: a reference that is not installed; the message says how to install it.
    """
    asked = {"blend": None} | {head: head for head in given.heads}
    found = [
        Model(f"gfmpot {label}", GFMCalculator(given.model, head=head, device="cpu")) for label, head in asked.items()
    ]
    return found + [_reference(name, given, stack) for name in given.references]


def _reference(name: str, given: argparse.Namespace, stack: ExitStack) -> Model:
    if name == "gfn2":
        return Model(REFERENCES[name], _gfn2(), reference=True, crystals=False)
    python = given.envs / name / "bin" / "python"
    if not python.exists():
        raise ValueError(f"no environment of {name} at {python}: make it as benchmarks/envs/README.md says")
    remote = Remote(name, python, given.threads)
    stack.callback(remote.close)
    return Model(REFERENCES[name], remote, reference=True, molecules=False)


def _gfn2() -> Calculator:
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise ValueError("GFN2-xTB needs tblite: pip install tblite") from error
    return TBLite(method="GFN2-xTB", verbosity=0)


def relaxed_cell(atoms: Atoms, model: Model, fmax: float) -> Atoms:
    """A crystal with positions and cell relaxed.

    Raises:
        ValueError: 500 steps were not enough.
    """
    start = atoms.copy()
    start.calc = model.calculator
    end = relax(start, cell=True, fmax=fmax, steps=500)
    if not end.converged:
        raise ValueError(f"its cell has not converged in {end.steps} steps")
    return end.atoms


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found, or ``error`` with the reason: one structure that fails must not end the others."""
    try:
        return work()
    except Exception as error:  # whatever a package raises
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def tell_failures(rows: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """Why, and at which structures, by model."""
    for label, found in rows.items():
        reasons: dict[str, list[str]] = {}
        for name, row in found.items():
            if "error" in row:
                reasons.setdefault(row["error"], []).append(name)
        for reason, names in reasons.items():
            print(f"{label} failed at {', '.join(names)}: {reason}")


class Progress:
    """A line on standard error with the time that is left; into a file, a line every 20 s.

    Args:
        label: what is done.
        total: of what is counted.
    """

    def __init__(self, label: str, total: float) -> None:
        self.label, self.total, self.begun = label, total, time.perf_counter()
        self.last, self.every = 0.0, 0.5 if sys.stderr.isatty() else 20.0

    def at(self, done: float, note: str = "") -> None:
        """So much is done."""
        passed = time.perf_counter() - self.begun
        finished = done >= self.total
        if not finished and passed - self.last < self.every:
            return
        self.last = passed
        left = "" if not 0 < done < self.total else f", {passed * (self.total / done - 1):.0f} s left"
        text = f"{self.label}: {100 * done / self.total:.0f} %, {passed:.0f} s{left}  {note}"
        if sys.stderr.isatty():
            print(f"\r{text:<100}", end="\n" if finished else "", file=sys.stderr, flush=True)
        else:
            print(text.rstrip(), file=sys.stderr, flush=True)


def progress(items: Sequence[T], label: str) -> Iterator[T]:
    """Each item, with a line that says how far it is."""
    bar = Progress(label, len(items))
    for i, item in enumerate(items):
        yield item
        bar.at(i + 1, str(getattr(item, "name", "")))


def number(value: float | None, form: str = ".1f") -> str | None:
    """For tables; None where it is missing."""
    return None if value is None else format(value, form)
