"""First steps: ``python recipes/first_steps.py [--output gfmpot-demo]``.

Reads a crystal and a molecule from ``recipes/structures``, evaluates them with the embedded model, relaxes the
molecule, runs 1.5 ps of molecular dynamics of the crystal at 300 K, and leaves trajectories, a table and a plot.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.io import read
from rich.console import Console
from rich.table import Table

from gfmpot.calculators import GFMCalculator
from gfmpot.calculators.dynamics import MDConfig, MDSummary, run_md
from gfmpot.calculators.relaxation import Relaxed, relax

STRUCTURES = Path(__file__).parent / "structures"
BONDS = {"C=O": (0, 1, 1.220), "C-N": (1, 2, 1.380), "C-C": (1, 3, 1.519), "N-H": (2, 4, 1.022)}
"""Atoms of acetamide, and lengths (Å) from gas-phase electron diffraction (Kitano and Kuchitsu 1973)."""


def main() -> None:
    """Evaluate, relax, simulate, show."""
    parser = argparse.ArgumentParser(description="The embedded model on a crystal and a molecule.")
    parser.add_argument("--output", type=Path, default=Path("gfmpot-demo"))
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # 64 atoms gain little from more, and lose much when other programs want the cores
    console, calculator = Console(), GFMCalculator()
    crystal = read(STRUCTURES / "MgO.cif") * (2, 2, 2)
    molecule = read(STRUCTURES / "acetamide.xyz")
    for atoms in (crystal, molecule):
        atoms.calc = calculator
        console.print(single_point(atoms))
    relaxed = relax(molecule, fmax=0.02, trajectory=folder / "acetamide.traj")
    console.print(bond_table(relaxed))
    for old in (folder / "MgO.traj", folder / "MgO.csv"):
        old.unlink(missing_ok=True)
    config = MDConfig(ensemble="nvt-langevin", temperature=300, friction=5, steps=1500, interval=10)
    summary = run_md(crystal, config, trajectory=folder / "MgO.traj", log=folder / "MgO.csv")
    console.print(md_table(summary))
    plot(folder, relaxed)
    console.print(
        f"Trajectories, table and plot are in {folder}: " + ", ".join(sorted(p.name for p in folder.iterdir()))
    )


def single_point(atoms: Atoms) -> Table:
    """Energy, forces and who answered."""
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    results = atoms.calc.results
    weights = ", ".join(f"{name} {w:.0%}" for name, w in results["branch_weights"].items() if w >= 0.005)
    table = Table(title=f"{atoms.get_chemical_formula()}, {len(atoms)} atoms", title_justify="left", show_header=False)
    table.add_row("energy", f"{energy:.3f} eV ({energy / len(atoms):.3f} eV/atom)")
    table.add_row("estimated error", f"{results['energy_std'] / len(atoms):.3f} eV/atom")
    table.add_row("largest force", f"{np.linalg.norm(forces, axis=1).max():.3f} eV/Å")
    table.add_row("answered by", weights)
    return table


def bond_table(relaxed: Relaxed) -> Table:
    """Bond lengths before and after, beside the measured ones."""
    state = "converged" if relaxed.converged else "NOT converged"
    title = (
        f"Relaxation of acetamide: {relaxed.steps} steps, {state}, {relaxed.energies[-1] - relaxed.energies[0]:.2f} eV"
    )
    table = Table("bond", "start (Å)", "relaxed (Å)", "measured (Å)", title=title, title_justify="left")
    for name, (i, j, measured) in BONDS.items():
        before, after = (atoms.get_distance(i, j) for atoms in (relaxed.frames[0], relaxed.atoms))
        table.add_row(name, f"{before:.3f}", f"{after:.3f}", f"{measured:.3f}")
    return table


def md_table(summary: MDSummary) -> Table:
    """How the dynamics went."""
    table = Table(title="Dynamics of MgO, NVT (Langevin), 300 K", title_justify="left", show_header=False)
    table.add_row("steps", f"{summary.steps} of 1 fs")
    table.add_row("temperature", f"{summary.temperature_mean:.0f} ± {summary.temperature_std:.0f} K")
    table.add_row("shortest distance", f"{summary.min_distance:.2f} Å")
    table.add_row("speed", f"{summary.ns_per_day:.1f} ns/day ({summary.wall_time:.0f} s)")
    return table


def plot(folder: Path, relaxed: Relaxed) -> None:
    """Energy of the relaxation; temperature and potential energy of the dynamics."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    log = np.genfromtxt(folder / "MgO.csv", delimiter=",", names=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.plot(np.array(relaxed.energies) - relaxed.energies[-1], marker=".", color="tab:blue")
    left.set(title="Relaxation of acetamide", xlabel="step", ylabel="energy above the minimum (eV)")
    right.plot(log["time_ps"], log["temperature_K"], color="tab:red", linewidth=0.9)
    right.axhline(300, color="black", linewidth=0.8, linestyle="--")
    right.set(title="MgO, 64 atoms, Langevin at 300 K", xlabel="time (ps)", ylabel="temperature (K)")
    energy = right.twinx()
    energy.plot(log["time_ps"], 1000 * (log["epot_eV"] - log["epot_eV"][0]) / 64, color="tab:gray", linewidth=0.9)
    energy.set_ylabel("potential energy above the start (meV/atom)", color="tab:gray")
    figure.savefig(folder / "first_steps.png", dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
