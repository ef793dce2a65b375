"""Lattice constants and bulk moduli of well-known crystals.

Positions and cell are relaxed; then nine volumes within 6 % of that, of the same shape, and the
Birch-Murnaghan equation of state. Errors are percentages of PBE's values: of the cube root of the volume, and of the
bulk modulus.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from accuracy_models import Model, Part, attempt, number, progress, relaxed_cell, tell_failures
from accuracy_pbe import Crystal, crystals
from ase import Atoms, units
from ase.eos import EquationOfState, birchmurnaghan

from gfmpot.cli.console import table
from gfmpot.training.report_style import CYCLE, MUTED, legend, panels, style

SCALES = np.linspace(0.94, 1.06, 9)
QUICK = ("Al", "Si", "Mg", "MgO")


def run(models: Sequence[Model], given: argparse.Namespace) -> Part:
    """Every crystal by every model."""
    chosen = [one for one in crystals() if not given.quick or one.name in QUICK]
    references = {one.name: _reference(one) for one in chosen}
    rows = {
        model.label: {
            one.name: attempt(partial(_curve, model, one)) for one in progress(chosen, f"crystals, {model.label}")
        }
        for model in models
        if model.crystals
    }
    for found in rows.values():
        for name, row in found.items():
            row |= _errors(row, references[name]) if "error" not in row else {}
    return {
        "references": references,
        "rows": rows,
        "summary": {label: _summary(found) for label, found in rows.items()},
    }


def _curve(model: Model, one: Crystal) -> dict[str, Any]:
    relaxed = relaxed_cell(one.atoms, model, fmax=0.01)
    volumes, energies = zip(*[_strained(relaxed, model, scale) for scale in SCALES], strict=True)
    volume, least, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit(warn=False)
    if not volumes[0] < volume < volumes[-1]:
        raise ValueError(f"the equation of state has its minimum at {volume:.1f} Å³/atom, outside the volumes")
    length = relaxed.cell.lengths()[0] * (volume * len(relaxed) / relaxed.get_volume()) ** (1 / 3)
    return {
        "volume (Å³/atom)": float(volume),
        "lattice constant (Å)": float(length),
        "bulk modulus (GPa)": float(modulus / units.GPa),
        "curve": {"volumes": volumes, "energies (meV/atom)": [1000 * (energy - least) for energy in energies]},
    }


def _strained(relaxed: Atoms, model: Model, scale: float) -> tuple[float, float]:
    """Volume and energy per atom."""
    atoms = relaxed.copy()
    atoms.calc = model.calculator
    atoms.set_cell(relaxed.cell.array * scale ** (1 / 3), scale_atoms=True)
    return atoms.get_volume() / len(atoms), float(atoms.get_potential_energy()) / len(atoms)


def _reference(one: Crystal) -> dict[str, Any]:
    volume = one.atoms.get_volume() / len(one.atoms)
    found = {"volume (Å³/atom)": volume, "lattice constant (Å)": float(one.atoms.cell.lengths()[0])}
    if one.modulus is None:
        return {**found, "bulk modulus (GPa)": None, "curve": None}
    volumes = [volume * scale for scale in SCALES]
    energies = [birchmurnaghan(each, 0.0, one.modulus * units.GPa, one.derivative, volume) for each in volumes]
    curve = {"volumes": volumes, "energies (meV/atom)": [1000 * energy for energy in energies]}
    return {**found, "bulk modulus (GPa)": one.modulus, "curve": curve}


def _errors(row: dict[str, Any], reference: dict[str, Any]) -> dict[str, float | None]:
    size = (row["volume (Å³/atom)"] / reference["volume (Å³/atom)"]) ** (1 / 3)
    pbe = reference["bulk modulus (GPa)"]
    stiffness = None if pbe is None else 100 * (row["bulk modulus (GPa)"] / pbe - 1)
    return {"lattice error (%)": 100 * (size - 1), "modulus error (%)": stiffness}


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    """Mean absolute errors."""
    done = [row for row in found.values() if "error" not in row]
    kinds = {"lattice error (%)": "lattice MAPE (%)", "modulus error (%)": "modulus MAPE (%)"}
    means = {new: [abs(row[old]) for row in done if row[old] is not None] for old, new in kinds.items()}
    return {"failed": len(found) - len(done)} | {new: fmean(each) if each else None for new, each in means.items()}


def show(part: Part) -> None:
    """A line per crystal, means at the end."""
    heads = ["crystal", "a (Å)\nPBE", "B (GPa)\nPBE"]
    heads += [f"{what}\n{label}" for label in part["rows"] for what in ("a (Å)", "error (%)", "B (GPa)", "error (%)")]
    lines = []
    for name, reference in part["references"].items():
        line = [name, number(reference["lattice constant (Å)"], ".3f"), number(reference["bulk modulus (GPa)"], ".0f")]
        for found in part["rows"].values():
            row = found[name]
            line += [number(row.get("lattice constant (Å)"), ".3f"), number(row.get("lattice error (%)"), "+.1f")]
            line += [number(row.get("bulk modulus (GPa)"), ".0f"), number(row.get("modulus error (%)"), "+.0f")]
        lines.append(line)
    last: list[str | None] = ["mean |error|", None, None]
    for one in part["summary"].values():
        last += [None, number(one["lattice MAPE (%)"]), None, number(one["modulus MAPE (%)"], ".0f")]
    table(heads, [*lines, last], "Crystals")
    tell_failures(part["rows"])


def draw(part: Part, folder: Path) -> None:
    """Energies against volumes."""
    with style():
        figure, axes = panels(len(part["references"]), 6, 1.6)
        for axis, (name, reference) in zip(axes, part["references"].items(), strict=True):
            axis.axvline(reference["volume (Å³/atom)"], color=MUTED, lw=0.8, ls=":")
            _line(axis, reference, color=MUTED, ls="--", label="PBE (WIEN2k)")
            for (label, found), colour in zip(part["rows"].items(), CYCLE, strict=False):
                _line(axis, found[name], color=colour, label=label, marker="o", ms=2.5, lw=1.0)
            axis.set_title(name)
        figure.supxlabel("volume (Å³/atom); dotted: PBE's minimum", fontsize=9)
        figure.supylabel("energy above the minimum (meV/atom)", fontsize=9)
        legend(figure, axes[0])
        figure.savefig(folder / "accuracy_crystals.png")


def _line(axis: Any, row: dict[str, Any], **how: Any) -> None:
    if row.get("curve"):
        axis.plot(row["curve"]["volumes"], row["curve"]["energies (meV/atom)"], **how)
