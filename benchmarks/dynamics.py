"""Does the energy stay put? NVE of a 64-atom crystal at 300 K: drift, noise and speed by precision.

python benchmarks/dynamics.py [--ps 5] [--precision fp64 fp32] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from common import environment, write

from gfmpot import GFMCalculator
from gfmpot.calculators.dynamics import draw_velocities


def crystal() -> Atoms:
    """64 atoms of MgO, given twice 300 K so that they settle near it."""
    atoms = bulk("MgO", "rocksalt", 4.2117, cubic=True) * 2
    draw_velocities(atoms, 600, np.random.default_rng(0))
    return atoms


def nve(precision: str, picoseconds: float, timestep: float = 1.0) -> dict[str, float]:
    """Drift (slope of a straight line through the total energy), its scatter, temperature, ns/day."""
    atoms = crystal()
    atoms.calc = GFMCalculator(precision=precision)
    atoms.get_forces()
    totals: list[float] = []
    temperatures: list[float] = []
    dynamics = VelocityVerlet(atoms, timestep * units.fs)
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.attach(lambda: temperatures.append(atoms.get_temperature()))
    start = time.perf_counter()
    steps = round(1000 * picoseconds / timestep)
    dynamics.run(steps)
    seconds = time.perf_counter() - start
    ps = np.arange(len(totals)) * timestep / 1000
    per_atom = 1000 * np.array(totals) / len(atoms)
    slope, offset = np.polyfit(ps, per_atom, 1)
    return {
        "drift (meV/atom/ps)": float(slope),
        "scatter (meV/atom)": float(np.std(per_atom - slope * ps - offset)),
        "temperature (K)": float(np.mean(temperatures[len(temperatures) // 5 :])),
        "ms/step": 1000 * seconds / steps,
        "ns/day": 86400 / seconds * picoseconds / 1000,
        "list searches": float(atoms.calc._verlet.n_searches),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ps", type=float, default=5.0)
    parser.add_argument("--precision", nargs="+", default=["fp64", "fp32"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = {precision: nve(precision, arguments.ps) for precision in arguments.precision}
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    for precision, row in rows.items():
        print(precision, *(f"{name} {value:.4g}" for name, value in row.items()), sep="  ")
    write(arguments.json, {"nve": rows})


if __name__ == "__main__":
    main()
