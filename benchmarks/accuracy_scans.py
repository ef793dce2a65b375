"""How do energies change along rigid scans of molecules? Two waters pulled apart, and seven torsions, beside GFN2-xTB.

The geometries are ASE's (G2: MP2; S22: CCSD(T) or MP2), moved rigidly, the same for all. The energy of the dimer is
relative to its molecules alone, that of a torsion to the least of its scan.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_models import REFERENCES, Model, Part, attempt, number, progress, tell_failures
from accuracy_scan_inputs import ANGLES, DISTANCES, Scan, dimer, torsions
from ase import Atoms

from gfmpot.cli.console import table
from gfmpot.training.report_style import CYCLE, INK, legend, panels, style

GFN2 = REFERENCES["gfn2"]


def run(models: Sequence[Model], given: argparse.Namespace) -> Part:
    """Every scan by every model."""
    thin = slice(None, None, 3 if given.quick else 1)
    scans = [dimer(DISTANCES[thin]), *torsions(ANGLES[thin])]
    rows = {
        model.label: {
            scan.name: attempt(partial(_energies, model, scan)) for scan in progress(scans, f"scans, {model.label}")
        }
        for model in models
        if model.molecules
    }
    about = {scan.name: {"along": list(scan.along), "unit": scan.unit} for scan in scans}
    for found in rows.values():
        for name, row in found.items():
            row |= _errors(row, rows.get(GFN2, {}).get(name, {"error": ""}), about[name]["unit"])
    return {"scans": about, "rows": rows}


def _energies(model: Model, scan: Scan) -> dict[str, Any]:
    """meV."""
    alone = sum(_energy(model, atoms) for atoms in scan.alone)
    energies = np.array([_energy(model, atoms) for atoms in scan.frames]) - alone
    return {"energies (meV)": (1000 * (energies if scan.alone else energies - energies.min())).tolist()}


def _energy(model: Model, atoms: Atoms) -> float:
    atoms.calc = model.calculator
    energy = float(atoms.get_potential_energy())
    atoms.calc = None
    return energy


def _errors(row: dict[str, Any], reference: dict[str, Any], unit: str) -> dict[str, Any]:
    """Depth or barrier, and how far all of the curve is from the reference's."""
    if "error" in row:
        return {}
    mine = np.array(row["energies (meV)"])
    height = float(mine.min() if unit == "Å" else mine.max() - mine.min())
    rmse = None if "error" in reference else float(np.sqrt(np.mean((mine - reference["energies (meV)"]) ** 2)))
    return {"height (meV)": height, "rmse (meV)": rmse}


def show(part: Part) -> None:
    """A line per scan."""
    heads = ["scan", *(f"{what}\n{label}" for label in part["rows"] for what in _columns(label))]
    lines = []
    for name, about in part["scans"].items():
        line = [f"{name}, {'least energy' if about['unit'] == 'Å' else 'barrier'}"]
        for label, found in part["rows"].items():
            line += [number(found[name].get(key), ".0f") for key in ("height (meV)", "rmse (meV)")][
                : len(_columns(label))
            ]
        lines.append(line)
    table(heads, lines, "Rigid scans of molecules (meV)")
    tell_failures(part["rows"])


def _columns(label: str) -> tuple[str, ...]:
    return ("meV",) if label == GFN2 else ("meV", "RMSE to GFN2")


def draw(part: Part, folder: Path) -> None:
    """Energies along each scan."""
    with style():
        figure, axes = panels(len(part["scans"]), 4, 2.1)
        for axis, (name, about) in zip(axes, part["scans"].items(), strict=True):
            for i, (label, row, colour) in enumerate(_lines(part, name)):
                how = {"color": colour, "label": label, "lw": max(1.2, 2.8 - 0.8 * i)}  # one may hide another
                axis.plot(about["along"], row["energies (meV)"], ls="--" if label == GFN2 else "-", **how)
            axis.set(title=name, xlabel=f"{'O–O distance' if about['unit'] == 'Å' else 'dihedral'} ({about['unit']})")
            if about["unit"] == "Å":
                axis.set(ylim=(-300, 300))
            else:
                axis.set(xticks=range(0, 361, 90))
        figure.supylabel("energy (meV)", fontsize=9)
        legend(figure, axes[0])
        figure.savefig(folder / "accuracy_scans.png")


def _lines(part: Part, name: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    colours = dict(zip([label for label in part["rows"] if label != GFN2], CYCLE, strict=False)) | {GFN2: INK}
    for label, found in part["rows"].items():
        if "error" not in found[name]:
            yield label, found[name], colours[label]
