"""What ``gfmpot evaluate`` prints, writes and draws."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.symbols import Symbols
from numpy.typing import NDArray

from gfmpot import __version__
from gfmpot.atomic import atomic
from gfmpot.cli.console import note, table
from gfmpot.cli.evaluate_data import BLEND, Part
from gfmpot.cli.structures import Failure
from gfmpot.inference.comparison import Comparison, Metrics, Outcome
from gfmpot.models.checkpoint import find, fingerprint
from gfmpot.training.report_parity import parity_plots
from gfmpot.training.report_run import Run
from gfmpot.training.report_style import style
from gfmpot.units import GPA

Row = Mapping[str, Any]
Done = Sequence[tuple[Part, Outcome]]

ENERGY_AND_STRESS = (
    ("energy_mae", "energy\nMAE\nmeV/atom", 1e3),
    ("energy_rmse", "energy\nRMSE\nmeV/atom", 1e3),
    ("stress_mae", "stress\nMAE\nmeV/Å³", 1e3),
    ("stress_mae", "stress\nMAE\nGPa", 1 / GPA),
)
FORCES = (
    ("forces_mae", "forces\nMAE\nmeV/Å", 1e3),
    ("forces_rmse", "forces\nRMSE\nmeV/Å", 1e3),
    ("forces_component_mae", "component\nMAE\nmeV/Å", 1e3),
    ("forces_relative", "MAE of\nmean force\n%", 100.0),
    ("forces_cosine", "\n\ncosine", 1.0),
)
"""Of the printed tables, two for narrow terminals: metric, header, and the factor from eV and Å."""

SHARES = ("share", "relative")
"""Of the error of all forces, and of the forces of the structure or element itself."""

OTHER_SCALE = 1.0
"""eV/atom: larger errors that shifts of elements take away are told to be those of another scale."""


def show(done: Done) -> list[Row]:
    """Print the tables, and what they do not say.

    Returns:
        For each of DATA: metrics in eV and Å, and how many structures were left out for what.
    """
    rows: list[Row] = [_row(part, outcome) for part, outcome in done]
    if any(row["structures"] for row in rows):
        _print(rows)
    for (part, outcome), row in zip(done, rows, strict=True):
        _tell_left_out(part, outcome)
        _tell_scale(part, outcome, row)
    return rows


def show_worst(done: Done, rows: Sequence[Row], count: int) -> list[Row]:
    """Print who makes the error of forces: so many structures, and as many elements.

    Returns:
        The rows with lists of both.
    """
    longer: list[Row] = []
    for (part, outcome), row in zip(done, rows, strict=True):
        structures, elements = _worst(outcome, count)
        longer.append({**row, "worst_structures": structures, "worst_elements": elements})
        for found in filter(None, (structures, elements)):
            header = [*list(found[0])[:-2], "share of\nall error\n%", "error of\nits force\n%"]
            cells = [
                [*list(each.values())[:-2], *(None if each[key] is None else _short(100 * each[key]) for key in SHARES)]
                for each in found
            ]
            table(header, cells, f"{part} by {part.head}: the largest shares of the error of forces")
    return longer


def _worst(outcome: Outcome, count: int) -> tuple[list[Row], list[Row]]:
    """Structures, then elements, with the largest shares of the error of forces, which may be fewer."""
    if outcome.comparison is None:
        return [], []
    shares, composition = outcome.comparison.shares(), outcome.comparison.composition
    structures: list[Row] = [
        {"structure": outcome.compared[i], "formula": _formula(composition[i]), "atoms": int(composition[i].sum())}
        | _share(shares.structure_error, shares.structure_force, i)
        for i in _largest(shares.structure_error, count)
    ]
    elements: list[Row] = [
        {"element": chemical_symbols[z], "atoms": int(composition[:, z - 1].sum())}
        | _share(shares.element_error, shares.element_force, z)
        for z in _largest(shares.element_error, count)
    ]
    return structures, elements


def _largest(errors: NDArray[np.float64], count: int) -> list[int]:
    return [int(i) for i in np.argsort(-errors)[:count] if errors[i] > 0]


def _share(errors: NDArray[np.float64], forces: NDArray[np.float64], i: int) -> dict[str, float | None]:
    relative = float(errors[i] / forces[i]) if forces[i] > 0 else None
    return dict(zip(SHARES, (float(errors[i] / errors.sum()), relative), strict=True))


def _formula(composition: NDArray[np.float64]) -> str:
    numbers = np.repeat(np.arange(1, len(composition) + 1), composition.astype(int))
    return str(Symbols(numbers).get_chemical_formula())


def failures(done: Done) -> Iterator[Failure]:
    """What could not be read or evaluated."""
    for part, outcome in done:
        yield from part.failures
        for index, reason in outcome.failures.items():
            yield Failure(part.place(index), reason)
        if outcome.comparison is None:
            more = "" if part.split == "all" else f" in its {part.split} split; --split all takes all structures"
            yield Failure(str(part.path), f"nothing is left to compare{more}")


def write(path: Path, rows: Sequence[Row], model: str, precision: str) -> None:
    """All numbers as JSON."""
    file = find(model)
    about = {"gfmpot": __version__, "model": str(file), "sha256": fingerprint(file), "precision": precision}
    with atomic(path) as partial:
        partial.write_text(json.dumps({**about, "data": rows}, indent=1) + "\n")
    note(f"wrote {path}")


def draw(done: Done, folder: Path) -> None:
    """A figure for each of DATA, and the pairs that it shows."""
    stems = [part.path.stem for part, _ in done]
    for i, (part, outcome) in enumerate(done):
        if outcome.comparison is None:
            continue
        name = part.path.stem if stems.count(part.path.stem) == 1 else f"{part.path.stem}-{i}"
        pairs = folder / f"{name}.npz"
        np.savez(pairs, **_compared(part, outcome.comparison).pairs())  # type: ignore[arg-type]
        title = f"{part} by {part.head}; energies less a fit of one energy per element"
        with style():
            pictures, problems = parity_plots(Run(folder, name, parity={title: pairs}))
        for picture in pictures:
            pairs.with_suffix(".png").write_bytes(picture.png)
        note("; ".join(problems) if problems else f"wrote {pairs.with_suffix('.png')} and {pairs.name}")


def _compared(part: Part, comparison: Comparison) -> Comparison:
    return comparison.on_one_scale() if part.head == BLEND else comparison


def _row(part: Part, outcome: Outcome) -> dict[str, Any]:
    about = {"data": str(part.path), "head": part.head, "split": part.split, "theory": part.theory}
    counts = {"structures": 0, "atoms": 0}
    found: Metrics = {}
    if outcome.comparison is not None:
        shifted = outcome.comparison.on_one_scale()
        relative = shifted.metrics()
        found = relative if part.head == BLEND else outcome.comparison.metrics()
        found["energy_mae_shifted"] = relative.get("energy_mae", math.nan)
        counts = {name: int(found.pop(name)) for name in counts}
    left_out = {"lacking": dict(outcome.lacking), "unsupported": outcome.unsupported, "unlabelled": outcome.unlabelled}
    failed = len(part.failures) + len(outcome.failures)
    return {**about, **counts, **{k: v for k, v in found.items() if math.isfinite(v)}, **left_out, "failed": failed}


def _print(rows: Sequence[Row]) -> None:
    counts = ("structures", "atoms")
    for metrics, beside in ((ENERGY_AND_STRESS, counts), (FORCES, ())):
        used = [(name, header, factor) for name, header, factor in metrics if any(name in row for row in rows)]
        cells = [
            [
                *(Path(row["data"]).name, row["head"], *(row[name] for name in beside)),
                *(_short(factor * row[name]) if name in row else None for name, _, factor in used),
            ]
            for row in rows
        ]
        if used or beside:
            table(["data", "head", *beside, *(header for _, header, _ in used)], cells)


def _tell_left_out(part: Part, outcome: Outcome) -> None:
    if outcome.unsupported:
        lacking = ", ".join(symbol for symbol, _ in outcome.lacking.most_common())
        note(
            f"{part}: left out {_counted(outcome.unsupported)} with elements that {part.head} lacks: {lacking}",
            "yellow",
        )
    if outcome.unlabelled:
        note(f"{part}: left out {_counted(outcome.unlabelled)} without any label", "yellow")


def _tell_scale(part: Part, outcome: Outcome, row: Row) -> None:
    raw, shifted = row.get("energy_mae"), row.get("energy_mae_shifted")
    if part.head == BLEND and raw is not None:
        assert outcome.comparison is not None
        elements = np.count_nonzero(outcome.comparison.composition.any(axis=0))
        note(f"{part}: energies up to an energy per element, {elements} of which were fitted to the errors")
    elif part.head == BLEND and outcome.comparison is not None and np.isfinite(outcome.comparison.energy).any():
        note(f"{part}: no more structures than elements, so that energies of a blend cannot be compared", "yellow")
    elif raw is not None and raw > OTHER_SCALE and shifted is not None and shifted < raw / 5:
        note(
            f"{part}: its energies are on another scale than those of {part.head}; up to an energy per element, which "
            f"was fitted, the MAE is {_short(1e3 * shifted)} meV/atom",
            "yellow",
        )


def _counted(structures: int) -> str:
    return f"{structures} structure{'s' if structures != 1 else ''}"


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
