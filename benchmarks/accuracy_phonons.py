"""Are crystals that are stable stable, and how high do their phonons go?

Cells are relaxed, then phonopy's finite displacements (0.02 Å) in supercells of about 10 Å, without the splitting of
longitudinal and transversal optical modes, which no model here knows. Stable means no frequency below -0.1 THz on a
mesh of 8 x 8 x 8 points, which has the centre of the zone.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_models import REFERENCES, Model, Part, attempt, number, progress, relaxed_cell, tell_failures
from accuracy_pbe import Crystal, crystals
from ase import Atoms

from gfmpot.cli.console import table
from gfmpot.training.report_style import CYCLE, MUTED, legend, panels, style

STABLE = ("Al", "Cu", "Fe", "W", "Mg", "C", "Si", "Ge", "LiF", "MgO", "NaCl", "GaAs")
QUICK = ("Al", "Si", "MgO")
UNSTABLE = -0.1
"""THz."""

DISPLACEMENT, LENGTH, MESH = 0.02, 10.0, (8, 8, 8)
"""Å, Å, points."""

MEASURED = {"Al": 9.7, "C": 39.9, "Si": 15.5, "Ge": 9.1}
"""THz, of highest frequencies: neutron scattering (Al, at X) and Raman shifts."""

CHGNET = REFERENCES["chgnet"]


def run(models: Sequence[Model], given: argparse.Namespace) -> Part:
    """Every crystal by every model."""
    try:
        import phonopy  # noqa: F401
    except ImportError as error:
        raise ValueError('phonons need phonopy: pip install "gfmpot[props]"') from error
    chosen = [one for one in crystals() if one.name in (QUICK if given.quick else STABLE)]
    rows = {
        model.label: {
            one.name: attempt(partial(_phonons, model, one)) for one in progress(chosen, f"phonons, {model.label}")
        }
        for model in models
        if model.crystals
    }
    return {"rows": rows, "summary": {label: _summary(found) for label, found in rows.items()}}


def _phonons(model: Model, one: Crystal) -> dict[str, Any]:
    """THz; imaginary frequencies are negative."""
    found = _force_constants(model, relaxed_cell(one.atoms, model, fmax=0.002))
    found.run_mesh(MESH, is_gamma_center=True)
    frequencies = found.mesh.frequencies
    return {
        "lowest (THz)": float(frequencies.min()),
        "highest (THz)": float(frequencies.max()),
        "stable": bool(frequencies.min() > UNSTABLE),
        "bands": _bands(found),
    }


def _force_constants(model: Model, relaxed: Atoms) -> Any:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = PhonopyAtoms(relaxed.symbols, cell=relaxed.cell.array, scaled_positions=relaxed.get_scaled_positions())
    repeats = np.maximum(1, np.round(LENGTH / relaxed.cell.lengths())).astype(int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="primitive_matrix defaulted")  # phonopy 4 says so even when asked to
        found = Phonopy(cell, np.diag(repeats), primitive_matrix="auto", symprec=1e-4, log_level=0)
    found.generate_displacements(distance=DISPLACEMENT)
    found.forces = [_forces(model, each) for each in found.supercells_with_displacements]
    found.produce_force_constants()
    found.symmetrize_force_constants()
    return found


def _forces(model: Model, cell: Any) -> np.ndarray:
    atoms = Atoms(cell.symbols, cell.positions, cell=cell.cell, pbc=True)
    atoms.calc = model.calculator
    return np.asarray(atoms.get_forces())


def _bands(found: Any) -> dict[str, Any]:
    """Along ASE's path through the zone; pieces as lists of distances and of frequencies (THz) per branch."""
    primitive = Atoms(found.primitive.symbols, positions=found.primitive.positions, cell=found.primitive.cell, pbc=True)
    whole = primitive.cell.bandpath(npoints=0).path
    path = primitive.cell.bandpath(whole.split(",")[0], npoints=120)  # its pieces after the first repeat what was seen
    along, ticks, labels = path.get_linear_kpoint_axis()
    found.run_band_structure([path.kpts])
    frequencies = found.band_structure.frequencies[0]
    bands = {"along": (along / along[-1]).tolist(), "frequencies": frequencies.T.tolist()}
    return bands | {"ticks": (ticks / along[-1]).tolist(), "labels": [one.replace("G", "Γ") for one in labels]}


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    done = [row for row in found.values() if "error" not in row]
    return {"crystals": len(found), "failed": len(found) - len(done), "stable": sum(row["stable"] for row in done)}


def show(part: Part) -> None:
    """A line per crystal."""
    kinds = {"lowest (THz)": ".2f", "highest (THz)": ".1f", "of CHGNet's highest": ".0%"}
    columns = [(label, kind) for label in part["rows"] for kind in list(kinds)[: 2 if label == CHGNET else 3]]
    lines = []
    for name in next(iter(part["rows"].values())):
        rows = {label: dict(found[name]) for label, found in part["rows"].items()}
        if theirs := rows.get(CHGNET, {}).get("highest (THz)"):
            for row in rows.values():
                row["of CHGNet's highest"] = row["highest (THz)"] / theirs if "error" not in row else None
        cells = [number(rows[label].get(kind), kinds[kind]) for label, kind in columns]
        lines.append([name, number(MEASURED.get(name)), *cells])
    heads = ["crystal", "highest (THz)\nmeasured", *(f"{kind}\n{label}" for label, kind in columns)]
    counts = [f"{label} {one['stable']} of {one['crystals']}" for label, one in part["summary"].items()]
    table(heads, lines, f"Phonons; stable: {', '.join(counts)}")
    tell_failures(part["rows"])


def draw(part: Part, folder: Path) -> None:
    """Bands."""
    names = list(next(iter(part["rows"].values())))
    with style():
        figure, axes = panels(len(names), 4, 2.0)
        for axis, name in zip(axes, names, strict=True):
            axis.axhline(0, color=MUTED, lw=0.8)
            for (label, found), colour in zip(part["rows"].items(), CYCLE, strict=False):
                if "bands" not in found[name]:
                    continue
                bands = found[name]["bands"]
                for i, branch in enumerate(bands["frequencies"]):
                    axis.plot(bands["along"], branch, color=colour, lw=1.0, label=label if i == 0 else None)
                axis.set_xticks(bands["ticks"], bands["labels"])
            axis.set(title=name, xlim=(0, 1))
        figure.supylabel("frequency (THz); imaginary ones below zero", fontsize=9)
        legend(figure, axes[0])
        figure.savefig(folder / "accuracy_phonons.png")
