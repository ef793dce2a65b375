"""Does dynamics at 1,000 K stay sane? Ten systems, 20 ps each, Langevin (ASE), 1 fs.

A run has survived if energies are finite, no two atoms come closer than half the sum of their covalent radii (0.6 Å if
one is hydrogen), and the mean temperature of the second half is within half of the target. In boxes of molecules bonds
may break, but no heavy atoms of different molecules may be bonded at the end (1.25 times the sum of radii). Looked at
every 10 steps, up to the first failure. Before it starts, positions are relaxed for 50 steps. With --md-references
references are simulated too, for 1 ps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_bonds import fragments
from accuracy_md_systems import MOLECULAR, systems
from accuracy_md_watch import EVERY, TARGET, Watch
from accuracy_models import Model, Part, Progress, attempt, number
from ase import Atoms, units
from ase.md.langevin import Langevin

from gfmpot.calculators.dynamics import draw_velocities
from gfmpot.calculators.relaxation import relax
from gfmpot.cli.console import table
from gfmpot.training.report_style import CYCLE, FAINT, legend, panels, style

FRICTION = 0.01
"""1/fs."""

STEPS, QUICK = 20_000, 1_000
"""Of 1 fs."""


def run(
    models: Sequence[Model],
    given: argparse.Namespace,
    before: Part | None = None,
    keep: Callable[[Part], object] = lambda part: None,
) -> Part:
    """Every model through every system.

    Args:
        models: who answers.
        given: the command line.
        before: results of the same model from before; its systems are not simulated again, unless all that was asked
            for are there.
        keep: what to do with the results after each system.
    """
    rows: dict[str, dict[str, Any]] = {label: dict(found) for label, found in (before or {}).get("rows", {}).items()}
    chosen = {name: atoms for name, atoms in systems().items() if name in (given.systems or systems())}
    if len(chosen) < len(given.systems or []):
        raise ValueError(f"--systems are some of {', '.join(systems())}; got {', '.join(given.systems)}")
    for model in models:
        if not model.crystals or (model.reference and not given.md_references):
            continue
        steps = QUICK if given.quick or model.reference else STEPS
        own = rows.setdefault(model.label, {})
        left = {name: atoms for name, atoms in chosen.items() if name not in own} or chosen
        for place, (name, atoms) in enumerate(left.items()):
            bar = Progress(f"dynamics, {model.label}, {name} ({place + 1} of {len(left)})", steps)
            own[name] = _simulated(model, name, atoms, steps, bar)
            bar.at(steps, own[name]["end"])
            keep(_part(rows))
    return _part(rows)


def _part(rows: dict[str, dict[str, Any]]) -> Part:
    """Systems in their order, and how many survived."""
    rows = {label: {name: found[name] for name in systems() if name in found} for label, found in rows.items()}
    survived = {label: [sum(r["survived"] for r in found.values()), len(found)] for label, found in rows.items()}
    return {"rows": rows, "survived": survived}


def _simulated(model: Model, name: str, atoms: Atoms, steps: int, bar: Progress) -> dict[str, Any]:
    """One run, up to its end or its first failure."""
    moving, watch, done, seconds = atoms.copy(), Watch(atoms), 0, 0.0
    moving.calc = model.calculator
    found = attempt(lambda: {"start": relax(moving, steps=50).atoms})
    if "start" in found:
        watch, begun = Watch(found["start"]), time.perf_counter()
        dynamics = _langevin(watch.atoms)
        while done < steps and "error" not in found:
            bar.at(done)
            found = attempt(partial(_block, dynamics, watch))
            done += EVERY
        seconds = time.perf_counter() - begun
    reason = found.get("error") or watch.end(atoms, name in MOLECULAR)
    half = watch.temperatures[len(watch.temperatures) // 2 :]
    return {
        "survived": reason is None,
        "end": reason or "survived",
        "atoms": len(atoms),
        "ps": done / 1000,
        "nearest (sums of radii)": watch.nearest if np.isfinite(watch.nearest) else None,
        "mean temperature (K)": float(np.mean(half)) if half else None,
        "ns/day": 0.0864 * done / seconds if done else None,
        "fragments": [len(set(fragments(one))) for one in (atoms, watch.atoms)] if name in MOLECULAR else None,
        "temperatures (K)": _thinned(watch.temperatures),
    }


def _langevin(atoms: Atoms) -> Langevin:
    draw_velocities(atoms, TARGET, np.random.default_rng(0))
    how = {"friction": FRICTION / units.fs, "fixcm": False, "rng": np.random.default_rng(1)}
    return Langevin(atoms, units.fs, temperature_K=TARGET, **how)


def _block(dynamics: Langevin, watch: Watch) -> dict[str, Any]:
    dynamics.run(EVERY)
    reason = watch.look()
    return {"error": reason} if reason else {}


def _thinned(values: list[float], points: int = 200) -> list[float]:
    """Means of so many stretches."""
    return [
        round(float(np.mean(each)), 1) for each in np.array_split(values, min(points, len(values) or 1)) if len(each)
    ]


def show(part: Part) -> None:
    """A line per run."""
    heads = ["system", "atoms", "survived\n(ps)", "nearest\n(radii)", "mean T\n(K)", "ns/day", "fragments", "end"]
    for label, rows in part["rows"].items():
        lines = []
        for name, row in rows.items():
            cells = [number(row["ps"], ".2f"), number(row["nearest (sums of radii)"], ".2f")]
            cells += [number(row["mean temperature (K)"], ".0f"), number(row["ns/day"], ".2f")]
            pieces = "{} to {}".format(*row["fragments"]) if row["fragments"] else None
            lines.append([name, row["atoms"], *cells, pieces, row["end"]])
        survived = "{} of {}".format(*part["survived"][label])
        table(heads, lines, f"Dynamics at {TARGET:.0f} K, {label}: {survived} survived")


def draw(part: Part, folder: Path) -> None:
    """Temperatures; a cross where a run failed."""
    names = list(next(iter(part["rows"].values())))
    with style():
        figure, axes = panels(len(names), 5, 1.9, sharey=True)
        for axis, name in zip(axes, names, strict=True):
            axis.axhspan(0.5 * TARGET, 1.5 * TARGET, color=FAINT, lw=0, alpha=0.5)
            for (label, rows), colour in zip(part["rows"].items(), CYCLE, strict=False):
                row = rows[name]
                times = np.linspace(0, row["ps"], len(row["temperatures (K)"]), endpoint=False)
                axis.plot(times, row["temperatures (K)"], color=colour, label=label, lw=1.0)
                if not row["survived"]:
                    axis.plot(row["ps"], min(1900.0, (row["temperatures (K)"] or [0.0])[-1]), "x", color=CYCLE[3], ms=8)
            axis.set(title=name, ylim=(0, 2 * TARGET), xlim=(0, None))
        figure.supxlabel("time (ps); × failed", fontsize=9)
        figure.supylabel("temperature (K)", fontsize=9)
        legend(figure, axes[0])
        figure.savefig(folder / "accuracy_md.png")
