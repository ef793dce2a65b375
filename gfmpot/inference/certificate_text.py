"""Certificates as tables and as sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gfmpot.inference.provenance import SHORT

if TYPE_CHECKING:
    from gfmpot.inference.certificate import Certificate, Measurement

MISSING = "–"

NOTHING = "nothing was measured"

PATHS = {"kernels": "compiled kernels", "compiled": "TorchInductor's code", "plain": "PyTorch's operations"}
"""What the paths of a predictor are called in a sentence."""

Value = Callable[["Measurement"], float | None]


@dataclass(frozen=True)
class Quantity:
    """A row of the tables."""

    name: str
    unit: str
    value: Value


def _part(owner: str, part: str) -> Value:
    """A field of a field that may be missing."""

    def value(measurement: Measurement) -> float | None:
        found: float | None = getattr(getattr(measurement, owner), part, None)
        return found

    return value


ENERGY = Quantity("energy against fp64", "eV/atom", _part("from_fp64", "energy"))
FORCES = Quantity("forces against fp64", "eV/Å", _part("from_fp64", "forces"))
STRESS = Quantity("stress against fp64", "eV/Å³", _part("from_fp64", "stress"))
FORCE_DIFFERENCES = Quantity("forces against finite differences", "eV/Å", lambda m: m.force_differences)
STRESS_DIFFERENCES = Quantity("stress against finite differences", "eV/Å³", lambda m: m.stress_differences)
EXTENSIVITY = Quantity("size extensivity", "eV/atom", lambda m: m.extensivity)
DRIFT = Quantity("NVE drift", "meV/atom/ps", _part("drift", "slope"))
SCATTER = Quantity("NVE scatter", "meV/atom", _part("drift", "scatter"))

SYMMETRIES = {"rotation": "rotation and reflection", "translation": "translation", "permutation": "permutation"}
INVARIANCES = {**SYMMETRIES, "batch": "batch against single"}
ENERGIES = {key: Quantity(f"{name}, energy", "eV/atom", _part(key, "energy")) for key, name in INVARIANCES.items()}
VECTORS = {key: Quantity(f"{name}, forces", "eV/Å", _part(key, "forces")) for key, name in INVARIANCES.items()}

QUANTITIES = (
    *(ENERGY, FORCES, STRESS, FORCE_DIFFERENCES, STRESS_DIFFERENCES),
    *(quantity for key in INVARIANCES for quantity in (ENERGIES[key], VECTORS[key])),
    *(EXTENSIVITY, DRIFT, SCATTER),
)


def columns(certificate: Certificate) -> list[str]:
    """Headers of the summary."""
    return ["largest over structures", "unit", *certificate.precisions]


def rows(certificate: Certificate) -> list[list[str]]:
    """Cells of the summary: a quantity, its unit, and the worst value in each precision."""
    by_precision = [certificate.of(precision) for precision in certificate.precisions]
    numbers = [[q.name, q.unit, *(_cell(worst(q, found)) for found in by_precision)] for q in QUANTITIES]
    repeats = ["yes" if all(m.repeatable for m in found) else "NO" for found in by_precision]
    times = [f"{1e6 * sum(m.seconds for m in found) / sum(m.natoms for m in found):.0f}" for found in by_precision]
    ways = [", ".join(_paths(found)) for found in by_precision]
    ends = [["bitwise repeatable", "", *repeats], ["evaluated by", "", *ways]]
    return [*numbers, *ends, ["time of an evaluation, mean", "µs/atom", *times]]


def table(certificate: Certificate) -> str:
    """The summary as plain text."""
    if not certificate.measurements:
        return headline(certificate)
    cells = [columns(certificate), *rows(certificate)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(_aligned, row, widths, range(len(row)))).rstrip() for row in cells]
    return "\n".join([headline(certificate), "", *lines, *remarks(certificate)])


def headline(certificate: Certificate) -> str:
    """Model, software, hardware and what was measured, in one line."""
    p = certificate.provenance
    what = _structures(certificate.of(certificate.precisions[0])) if certificate.measurements else NOTHING
    return f"{p.model} ({p.answer}), gfmpot {p.gfmpot}, version {p.version}, on {p.hardware}, {p.date}: {what}"


def remarks(certificate: Certificate) -> list[str]:
    """Why something is missing, each reason once, with its places."""
    places: dict[str, list[str]] = {}
    for m in certificate.measurements:
        for remark in m.remarks:
            places.setdefault(remark, []).append(f"{m.structure} ({m.precision})")
    return [f"{remark}: {', '.join(where[:3])}{_more(where[3:])}" for remark, where in places.items()]


def markdown(certificate: Certificate) -> str:
    """A paragraph for each precision, and the table."""
    if not certificate.measurements:
        return headline(certificate) + "\n"
    dashes = ["---"] * 2 + ["---:"] * len(certificate.precisions)
    lines = ["| " + " | ".join(row) + " |" for row in [columns(certificate), dashes, *rows(certificate)]]
    paragraphs = [paragraph(certificate, precision) for precision in certificate.precisions]
    return "\n\n".join([*paragraphs, "\n".join(lines)]) + "\n"


def paragraph(certificate: Certificate, precision: str) -> str:
    """What was computed with what, and how exactly, in one precision."""
    p, found = certificate.provenance, certificate.of(precision)
    rest = "" if precision == "fp64" else " (geometry and sums of energies in fp64)"
    way = " and ".join(PATHS.get(path, path) for path in _paths(found))
    turned = _worst_of(ENERGIES, SYMMETRIES, found), _worst_of(VECTORS, SYMMETRIES, found)
    sentences = [
        f"Energies, forces and stresses were computed with gfmpot {p.gfmpot}, model {p.model} ({p.answer}; SHA-256 "
        f"{p.model_sha256[:SHORT]}), in {precision}{rest} by {way}, with PyTorch {p.torch} on {p.hardware}; version "
        f"{p.version}.",
        f"On {_structures(found)} they differ from plain fp64 by at most {_values(found, ENERGY, FORCES, STRESS)}.",
        f"Forces equal central differences of the energy within {_values(found, FORCE_DIFFERENCES)}.",
        f"Rotated, mirrored, translated and permuted structures agree within {_listed(turned)}.",
        _dynamics(found),
        f"Repeated evaluations {'agree' if all(m.repeatable for m in found) else 'do not agree'} bit for bit.",
    ]
    return " ".join(filter(None, sentences))


def worst(quantity: Quantity, found: Sequence[Measurement]) -> float | None:
    """The value of largest magnitude, or None if no structure has any."""
    values = [value for m in found if (value := quantity.value(m)) is not None]
    return max(values, key=abs, default=None)


def _worst_of(quantities: dict[str, Quantity], keys: dict[str, str], found: Sequence[Measurement]) -> str:
    """The worst of several quantities of one unit, with the unit."""
    values = [value for key in keys if (value := worst(quantities[key], found)) is not None]
    return f"{_cell(max(values))} {next(iter(quantities.values())).unit}"


def _dynamics(found: Sequence[Measurement]) -> str:
    runs = [m.drift for m in found if m.drift is not None]
    if not runs:
        return ""
    length = min(run.steps * run.timestep * 1e-3 for run in runs)
    return f"In NVE runs of at least {length:g} ps the total energy drifts by at most {_values(found, DRIFT)}."


def _values(found: Sequence[Measurement], *quantities: Quantity) -> str:
    """Worst magnitudes with their units; what no structure has is left out."""
    values = [(worst(quantity, found), quantity.unit) for quantity in quantities]
    return _listed([f"{_cell(abs(value))} {unit}" for value, unit in values if value is not None])


def _paths(found: Sequence[Measurement]) -> list[str]:
    return sorted({m.path for m in found})


def _structures(found: Sequence[Measurement]) -> str:
    sizes = sorted(m.natoms for m in found)
    if len(sizes) == 1:
        return f"{found[0].formula} ({sizes[0]} atoms)"
    return f"{len(sizes)} structures of {sizes[0]} to {sizes[-1]} atoms"


def _listed(texts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _more(rest: Sequence[str]) -> str:
    return f" and {len(rest)} more" if rest else ""


def _cell(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1e}" if value else "0"


def _aligned(cell: str, width: int, column: int) -> str:
    """Names to the left, numbers to the right."""
    return cell.ljust(width) if column < 2 else cell.rjust(width)
