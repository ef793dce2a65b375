"""Do molecules keep their bonds when they are relaxed, and how far are they from GFN2-xTB's structures?

Ten molecules with sulphur or chlorine (G2) and ten complexes (S22), BFGS to 0.02 eV/Å. None of their compositions is in
the sets that embedded models learn from. Bonds are pairs within 1.25 times the sum of covalent radii.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from accuracy_bonds import bonded
from accuracy_models import REFERENCES, Model, Part, attempt, number, progress, tell_failures
from ase import Atoms
from ase.build import minimize_rotation_and_translation, molecule
from ase.collections import s22

from gfmpot.calculators.relaxation import relax
from gfmpot.cli.console import table
from gfmpot.training.report_style import CYCLE, legend, panels, style

SMALL = ("CH3SH", "CH3SCH3", "CH3CH2SH", "C4H4S", "CH2SCH2", "C2H6SO", "CH3Cl", "CH3CH2Cl", "C3H7Cl", "CH3COCl")
COMPLEXES = (
    "Formic_acid_dimer",
    "Formamide_dimer",
    "Uracil_dimer_h-bonded",
    "Uracil_dimer_stack",
    "Adenine-thymine_Watson-Crick_complex",
    "Indole-benzene_complex_stack",
    "Indole-benzene_T-shape_complex",
    "Benzene_dimer_parallel_displaced",
    "Benzene_dimer_T-shaped",
    "Phenol_dimer",
)
QUICK = ("CH3SH", "C3H7Cl", "Formic_acid_dimer")
GFN2 = REFERENCES["gfn2"]


def run(models: Sequence[Model], given: argparse.Namespace) -> Part:
    """Every molecule by every model; references first, since others are compared with them."""
    starts = {name: molecule(name) for name in SMALL} | {name: s22[name] for name in COMPLEXES}
    chosen = [name for name in starts if not given.quick or name in QUICK]
    rows: dict[str, dict[str, Any]] = {}
    ends: dict[str, Atoms] = {}
    for model in sorted(models, key=lambda model: not model.reference):
        if model.molecules:
            rows[model.label] = {}
            for name in progress(chosen, f"molecules, {model.label}"):
                row = attempt(partial(_relaxed, model, starts[name], ends.get(name)))
                end = row.pop("end", None)
                if model.label == GFN2 and end is not None:
                    ends[name] = end
                rows[model.label][name] = row
    return {"rows": rows, "summary": {label: _summary(found) for label, found in rows.items()}}


def _relaxed(model: Model, start: Atoms, reference: Atoms | None) -> dict[str, Any]:
    atoms = start.copy()
    atoms.calc = model.calculator
    found = relax(atoms, fmax=0.02, steps=500, optimizer="BFGS")
    end = Atoms(found.atoms.numbers, found.atoms.positions)
    before, after = bonded(start), bonded(end)
    return {
        "atoms": len(atoms),
        "converged": found.converged,
        "steps": found.steps,
        "broken": sorted("–".join(start.symbols[list(pair)]) for pair in before - after),
        "new": sorted("–".join(start.symbols[list(pair)]) for pair in after - before),
        "rmsd (Å)": None if reference is None else _rmsd(reference, end),
        "end": end,
    }


def _rmsd(reference: Atoms, end: Atoms) -> float:
    """Å, after the best superposition."""
    moved = end.copy()
    minimize_rotation_and_translation(reference, moved)
    return float(np.sqrt(((moved.positions - reference.positions) ** 2).sum(axis=1).mean()))


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    done = [row for row in found.values() if "error" not in row]
    apart = [row["rmsd (Å)"] for row in done if row["rmsd (Å)"] is not None]
    return {
        "molecules": len(found),
        "failed": len(found) - len(done),
        "converged": sum(row["converged"] for row in done),
        "bonds kept": sum(not (row["broken"] or row["new"]) for row in done),
        "mean rmsd (Å)": fmean(apart) if apart else None,
        "median rmsd (Å)": median(apart) if apart else None,
    }


def show(part: Part) -> None:
    """A line per model, and whose bonds changed."""
    heads = ["model", "molecules", "failed", "converged", "bonds kept", "RMSD to GFN2\nmean (Å)", "median (Å)"]
    lines = []
    for label, one in part["summary"].items():
        counts = [one[key] for key in ("molecules", "failed", "converged", "bonds kept")]
        lines.append([label, *counts, number(one["mean rmsd (Å)"], ".3f"), number(one["median rmsd (Å)"], ".3f")])
    table(heads, lines, "Relaxed molecules")
    for label, found in part["rows"].items():
        for name, row in found.items():
            if "error" not in row and (said := _changed(row)):
                print(f"{label}: {name}: {said}")
    tell_failures(part["rows"])


def _changed(row: dict[str, Any]) -> str:
    kinds = [f"{kind} {', '.join(row[kind])}" for kind in ("broken", "new") if row[kind]]
    return "; ".join(kinds + ([] if row["converged"] else [f"not converged in {row['steps']} steps"]))


def draw(part: Part, folder: Path) -> None:
    """Distances from GFN2-xTB's structures, if it ran; a cross where bonds changed."""
    if GFN2 not in part["rows"]:
        return
    rows = {label: found for label, found in part["rows"].items() if label != GFN2}
    names = list(next(iter(part["rows"].values())))
    with style():
        figure, (axis,) = panels(1, 1, 1.5 + 0.24 * len(names))
        for i, ((label, found), colour) in enumerate(zip(rows.items(), CYCLE, strict=False)):
            how = {"color": colour, "ms": max(4.0, 8.0 - 2.0 * i)}  # one may hide another
            axis.plot([], [], "o", label=label, **how)
            for kept, marker in ((True, "o"), (False, "x")):
                some = [
                    (place, found[name]) for place, name in enumerate(names) if found[name].get("rmsd (Å)") is not None
                ]
                points = [
                    (row["rmsd (Å)"], place) for place, row in some if (not (row["broken"] or row["new"])) == kept
                ]
                axis.plot(*zip(*points, strict=True), marker, **how) if points else None
        axis.set(yticks=range(len(names)), yticklabels=[name.replace("_", " ") for name in names], xlim=(0, None))
        axis.set(xlabel="RMSD to the structure relaxed with GFN2-xTB (Å); × bonds changed")
        axis.invert_yaxis()
        legend(figure, axis)
        figure.savefig(folder / "accuracy_molecules.png")
