"""Checks that structures nobody can answer for are refused, with an error that names the culprit."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from gfmpot.testing.compare import Errors, NotApplicable, verdict
from gfmpot.testing.subject import Subject


def refusals(subject: Subject) -> Errors:
    """Unknown and unsupported elements, positions that are not finite, coincident atoms, no atoms at all."""
    if not subject.refuses:
        raise NotApplicable("foreign calculators may do as they like: pass strict=True to test")
    for name, (atoms, culprit) in _faulty(subject).items():
        error = _error(subject, atoms)
        good = isinstance(error, ValueError) and culprit.lower() in str(error).lower()
        yield f"{name}: {f'{type(error).__name__}: {error}' if error else 'no error'}", verdict(good)


def _error(subject: Subject, atoms: Atoms) -> Exception | None:
    try:
        subject.evaluate(atoms)
    except Exception as error:  # judged by the caller
        return error
    return None


def _faulty(subject: Subject) -> dict[str, tuple[Atoms, str]]:
    """Structures, and what the message must contain."""
    symbol = subject.samples.metal
    good = Atoms(symbol * 3, [[0, 0, 0], [2, 0, 0], [0, 2, 0]])
    unknown, nan, coincident = good.copy(), good.copy(), good.copy()
    unknown.numbers[1] = 0
    nan.positions[2, 1] = np.nan
    coincident.positions[1] = [0.0, 2.0, 0.01]
    cases = {
        "unknown element": (unknown, "atom 1"),
        "NaN position": (nan, "atom 2"),
        "coincident atoms": (coincident, f"atoms 1 (Z={good.numbers[1]}) and 2"),
        "no atoms": (Atoms(), "no atoms"),
    }
    unsupported = subject.samples.unsupported()
    if unsupported is not None:
        cases[f"unsupported {unsupported}"] = (Atoms(symbol + unsupported, [[0, 0, 0], [2, 0, 0]]), unsupported)
    return cases
