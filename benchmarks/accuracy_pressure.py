"""Does squeezing a crystal cost energy, all the way, and how much?

Crystals at PBE's lattice constants, with all lengths scaled from 1 to 0.5. A crystal holds if its energy rises all the
way from its minimum on, falls of less than 1 meV/atom aside. What it costs to get to 0.8 of the lengths, half of the
volume, stands beside what the universal equation of state (Vinet et al., J. Phys.: Condens. Matter 1, 1941 (1989))
makes of PBE's bulk modulus and its derivative, which are known for the elements.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_models import Model, Part, attempt, number, progress, tell_failures
from accuracy_pbe import Crystal, crystals
from ase.units import GPa

from gfmpot.cli.console import table
from gfmpot.recipes._equation_of_state import squeezing
from gfmpot.recipes.label_compressed import scaled
from gfmpot.training.report_style import CYCLE, MUTED, legend, panels, style

LENGTHS = np.round(np.arange(1.0, 0.495, -0.01), 2)
HALF = 0.8
"""Of the lengths: half of the volume."""

FALL = 1e-3
"""eV/atom, by which rounding may lower an energy."""

QUICK = ("Al", "Si", "MgO")


def run(models: Sequence[Model], given: argparse.Namespace) -> Part:
    """Every crystal by every model."""
    chosen = [one for one in crystals() if one.name in QUICK or not given.quick]
    rows = {
        model.label: {
            one.name: attempt(partial(_squeezed, model, one)) for one in progress(chosen, f"pressure, {model.label}")
        }
        for model in models
        if model.crystals
    }
    expected = {one.name: universal(one) for one in chosen if one.modulus is not None}
    return {"rows": rows, "expected": expected, "summary": {name: _summary(found) for name, found in rows.items()}}


def universal(one: Crystal) -> float:
    """eV/atom that half of the volume costs, by PBE's bulk modulus and its derivative."""
    assert one.modulus is not None
    assert one.derivative is not None
    stiffness = 9 * one.modulus * GPa * one.atoms.get_volume() / len(one.atoms)
    return float(squeezing(np.array(HALF), stiffness, one.derivative))


def _squeezed(model: Model, one: Crystal) -> dict[str, Any]:
    energies = []
    for length in LENGTHS:
        atoms = scaled(one.atoms, length)
        atoms.calc = model.calculator
        energies.append(float(atoms.get_potential_energy()) / len(atoms))
    return measured(np.array(energies))


def measured(energies: np.ndarray) -> dict[str, Any]:
    """From energies (eV/atom) at :data:`LENGTHS`."""
    near = LENGTHS >= 0.9  # a model's own minimum may lie a little inside
    rest = int(np.argmin(energies[near]))
    falls = np.flatnonzero(np.diff(energies[rest:]) < -FALL)
    half = int(np.argmin(np.abs(LENGTHS - HALF)))
    return {
        "holds": len(falls) == 0,
        "holds down to": float(LENGTHS[rest + falls[0]] if len(falls) else LENGTHS[-1]),
        "half the volume (eV/atom)": float(energies[half] - energies[rest]),
        "energies (eV/atom)": (energies - energies[rest]).tolist(),
    }


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    done = [row for row in found.values() if "error" not in row]
    return {"crystals": len(found), "failed": len(found) - len(done), "hold": sum(row["holds"] for row in done)}


def show(part: Part) -> None:
    """A line per crystal."""
    kinds = {"holds down to": ".2f", "half the volume (eV/atom)": ".2f"}
    columns = [(label, kind) for label in part["rows"] for kind in kinds]
    lines = []
    for name in next(iter(part["rows"].values())):
        cells = [number(part["rows"][label][name].get(kind), kinds[kind]) for label, kind in columns]
        lines.append([name, number(part["expected"].get(name), ".2f"), *cells])
    heads = ["crystal", "half the volume\n(eV/atom)\nby PBE", *(f"{kind}\n{label}" for label, kind in columns)]
    counts = [f"{label} {one['hold']} of {one['crystals']}" for label, one in part["summary"].items()]
    table(heads, lines, f"Crystals under pressure; energies rise down to half of the lengths: {', '.join(counts)}")
    tell_failures(part["rows"])


def draw(part: Part, folder: Path) -> None:
    """Energies over lengths."""
    names = list(next(iter(part["rows"].values())))
    with style():
        figure, axes = panels(len(names), 6, 1.7, sharex=True, sharey=True)
        for axis, name in zip(axes, names, strict=True):
            axis.axhline(0, color=MUTED, lw=0.8)
            for (label, found), colour in zip(part["rows"].items(), CYCLE, strict=False):
                if "error" not in found[name]:
                    axis.plot(LENGTHS, found[name]["energies (eV/atom)"], color=colour, label=label, lw=1.2)
            if name in part["expected"]:
                axis.plot(HALF, part["expected"][name], "o", color=MUTED, ms=4, label="half the volume, by PBE")
            axis.set(title=name, xlim=(0.5, 1.0), ylim=(-20, 60))
        figure.supxlabel("lengths, of those at rest", fontsize=9)
        figure.supylabel("energy above rest (eV/atom)", fontsize=9)
        legend(figure, axes[0])
        figure.savefig(folder / "accuracy_pressure.png")
