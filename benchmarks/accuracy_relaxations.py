"""Do relaxations of unseen crystals converge, and to which volume?

Positions and cells of 100 crystals of held-out groups, FIRE to 0.05 eV/Å in at most 500 steps. Structures that were
relaxed with PBE come first (forces below 0.05 eV/Å, stress below 0.5 GPa): their volume is PBE's. The rest are the
least perturbed frames of parents labelled by CHGNet: there the reference is the volume of the frame and, if CHGNet
runs, of its own relaxation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from accuracy_models import REFERENCES, Model, Part, Progress, attempt, number, progress, tell_failures
from accuracy_unseen import COUNT, SOURCES, Start, starts
from ase import Atoms

from gfmpot import GFMCalculator
from gfmpot.calculators.batched import relax_as_done
from gfmpot.calculators.relaxation import relax
from gfmpot.cli.console import table
from gfmpot.training.report_style import CYCLE, MUTED, legend, panels, style

SETTINGS = {"cell": True, "fmax": 0.05, "steps": 500, "optimizer": "FIRE"}
CHGNET, OWN = REFERENCES["chgnet"], "CHGNet's minimum"


def run(models: Sequence[Model], given: argparse.Namespace) -> Part:
    """Every model from the same starts."""
    if given.data is None:
        raise ValueError("it needs --data FOLDER with alexandria.npz, mptrj_random.npz and chgnet_pbe_u.npz")
    begin = starts(given.data, 10 if given.quick else COUNT)
    rows = {model.label: list(_relaxations(model, begin)) for model in models if model.crystals}
    return {"rows": rows, "summary": {label: _summary(found, rows) for label, found in rows.items()}}


def _relaxations(model: Model, begin: list[Start]) -> Iterator[dict[str, Any]]:
    label = f"relaxations, {model.label}"
    if not isinstance(model.calculator, GFMCalculator):
        for start in progress(begin, label):
            yield _row(start, attempt(partial(_alone, model, start)))
        return
    bar, found = Progress(label, len(begin)), {}
    for place, end in relax_as_done([start.atoms for start in begin], model.calculator, **SETTINGS):
        found[place] = {"error": end.error} if end.error else _end(end.atoms, end.converged, end.steps, end.energies)
        bar.at(len(found))
    yield from (_row(start, found[i]) for i, start in enumerate(begin))


def _alone(model: Model, start: Start) -> dict[str, Any]:
    atoms = start.atoms.copy()
    atoms.calc = model.calculator
    end = relax(atoms, **SETTINGS)
    return _end(end.atoms, end.converged, end.steps, end.energies)


def _end(atoms: Atoms, converged: bool, steps: int, energies: Sequence[float]) -> dict[str, Any]:
    change = 1000 * (energies[-1] - energies[0]) / len(atoms)
    return {"converged": converged, "steps": steps, "volume": atoms.get_volume() / len(atoms), "change": change}


def _row(start: Start, found: dict[str, Any]) -> dict[str, Any]:
    about = {"name": start.name, "formula": start.atoms.get_chemical_formula(), "source": start.source}
    return {**about, "atoms": len(start.atoms), "reference": start.atoms.get_volume() / len(start.atoms), **found}


def _summary(found: list[dict[str, Any]], rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    done = [row for row in found if "error" not in row]
    errors = {kind: [_percent(*pair) for pair in pairs] for kind, pairs in _pairs(found, rows).items()}
    return {
        "structures": len(found),
        "failed": len(found) - len(done),
        "converged (%)": 100 * sum(row["converged"] for row in done) / len(found),
        "steps": median(row["steps"] for row in done) if done else None,
        "volume MAPE (%)": {kind: fmean(map(abs, each)) if each else None for kind, each in errors.items()},
        "median volume error (%)": {kind: median(map(abs, each)) if each else None for kind, each in errors.items()},
        "compared": {kind: len(each) for kind, each in errors.items()},
        "energy change (meV/atom)": median(row["change"] for row in done) if done else None,
        "energy went up": sum(row["change"] > 1e-3 for row in done),
    }


def _pairs(found: list[dict[str, Any]], rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[tuple[float, float]]]:
    """Volumes and references, by kind of reference."""
    done = [row for row in found if "error" not in row]
    pairs = {kind: [(row["volume"], row["reference"]) for row in done if row["source"] == kind] for kind in SOURCES}
    both = zip(found, rows.get(CHGNET, []), strict=False)  # the same structures in the same order
    return pairs | {OWN: [(a["volume"], b["volume"]) for a, b in both if "error" not in {**a, **b}]}


def _percent(volume: float, reference: float) -> float:
    return 100 * (volume / reference - 1)


def show(part: Part) -> None:
    """Summary, and who failed."""
    kinds = (*SOURCES, OWN)
    heads = ["model", "structures", "failed", "converged", "steps", *(f"volume MAPE,\n{kind}" for kind in kinds)]
    lines = []
    for label, one in part["summary"].items():
        volumes = [number(one["volume MAPE (%)"][kind], ".2f") for kind in kinds]
        cells = [one["structures"], one["failed"], f"{one['converged (%)']:.0f}%", number(one["steps"], ".0f")]
        lines.append([label, *cells, *volumes, number(one["energy change (meV/atom)"])])
    table([*heads, "energy change\n(meV/atom)"], lines, "Relaxations of unseen crystals (volume errors in %)")
    tell_failures({label: {row["name"]: row for row in rows} for label, rows in part["rows"].items()})


def draw(part: Part, folder: Path) -> None:
    """Volumes against the references, and how many errors are below."""
    with style():
        figure, (volumes, below) = panels(2, 2, 4.2)
        for (label, rows), colour in zip(part["rows"].items(), CYCLE, strict=False):
            done = [row for row in rows if "error" not in row]
            for source, marker in zip(SOURCES, "ox", strict=True):
                pairs = [(row["reference"], row["volume"]) for row in done if row["source"] == source]
                marks = {"marker": marker, "s": 16, "color": colour, "alpha": 0.7, "linewidths": 1.0}
                volumes.scatter(*zip(*pairs, strict=True), **marks) if pairs else None
            errors = np.sort([abs(_percent(row["volume"], row["reference"])) for row in done])
            below.step(errors, 100 * np.arange(1, len(errors) + 1) / len(rows), where="post", color=colour, label=label)
        end = volumes.get_xlim()[1]
        volumes.plot((0, end), (0, end), color=MUTED, lw=0.8, zorder=0)
        volumes.set(title="Volume per atom (Å³)", xlabel="reference: PBE (●), CHGNet frame (×)", ylabel="relaxed")
        volumes.set(xlim=(0, end), ylim=(0, 1.2 * end))
        below.set(title="Structures with a smaller volume error (%)", xlabel="volume error (%)", xlim=(0.1, 100))
        below.set(xscale="log", ylim=(0, 100), xticks=(0.1, 1, 10, 100), xticklabels=("0.1", "1", "10", "100"))
        legend(figure, below)
        figure.savefig(folder / "accuracy_relaxations.png")
