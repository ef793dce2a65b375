"""Are many structures faster together? Relaxation and dynamics one by one with ASE, in batches, and through torch-sim.

python benchmarks/batched.py [--structures 48] [--repeats 3] [--precision fp32] [--threads 1] [--json FILE]

The engines take turns on the same structures; times are medians over the turns: of the processor where the model runs
on it, which other programs change little, else of the clock. A step is one step of one structure. Relaxations are FIRE
to 0.01 eV/Å, with cells where there are any; torch-sim's (0.3) takes steps of its own.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from common import environment, write

from gfmpot import GFMCalculator
from gfmpot.calculators.batched import MDConfig, dynamics_many, relax_many
from gfmpot.calculators.dynamics import run_md
from gfmpot.calculators.relaxation import relax

FMAX, STEPS = 0.01, 300
CRYSTALS = [("MgO", "rocksalt", 4.25), ("NaCl", "rocksalt", 5.7), ("LiF", "rocksalt", 4.1), ("CaO", "rocksalt", 4.85)]
MOLECULES = ["CH3OH", "C6H6", "CH3CH2NH2", "HCOOH", "C2H6", "CH3CONH2", "H2O", "C4H4O"]

Done = tuple[int, list[tuple[float, float]]]
"""Steps of all structures, and energy (eV/atom) and volume (Å³) of each at the end."""


def crystals(count: int) -> list[Atoms]:
    """8 to 32 atoms, with strains of 1 % and displacements of 0.05 Å."""
    rng, found = np.random.default_rng(0), []
    for i in range(count):
        name, lattice, a = CRYSTALS[i % len(CRYSTALS)]
        atoms = bulk(name, lattice, a, cubic=True) * [(1, 1, 1), (2, 1, 1), (2, 2, 1)][i % 3]
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.01, size=(3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        found.append(atoms)
    return found


def molecules(count: int) -> list[Atoms]:
    """3 to 12 atoms, with displacements of 0.05 Å."""
    rng, found = np.random.default_rng(1), []
    for i in range(count):
        found.append(molecule(MOLECULES[i % len(MOLECULES)]))
        found[-1].positions += rng.normal(scale=0.05, size=found[-1].positions.shape)
    return found


def end_of(energy: float, atoms: Atoms) -> tuple[float, float]:
    return energy / len(atoms), float(atoms.get_volume()) if atoms.pbc.any() else 1.0


def relax_ase(structures: list[Atoms], calculator: GFMCalculator) -> Done:
    found = []
    for atoms in map(Atoms.copy, structures):
        atoms.calc = calculator
        found.append(relax(atoms, cell=bool(atoms.pbc.any()), fmax=FMAX, steps=STEPS))
    return sum(one.steps for one in found), [end_of(one.energies[-1], one.atoms) for one in found]


def relax_batched(structures: list[Atoms], calculator: GFMCalculator) -> Done:
    cells = [bool(atoms.pbc.any()) for atoms in structures]
    found = relax_many(structures, calculator, cell=cells, fmax=FMAX, steps=STEPS, progress=False)
    return sum(one.steps for one in found), [end_of(one.energy, one.atoms) for one in found]


def relax_torch_sim(structures: list[Atoms], calculator: GFMCalculator) -> Done:
    ts, model, evaluated = torch_sim(calculator)
    solid = bool(structures[0].pbc.any())
    final = ts.optimize(
        structures,
        model,
        optimizer=ts.frechet_cell_fire if solid else ts.optimizers.fire,
        convergence_fn=ts.generate_force_convergence_fn(FMAX, include_cell_forces=solid),
        max_steps=STEPS,
        steps_between_swaps=1,
    )
    ends = [end_of(float(energy), atoms) for energy, atoms in zip(final.energy, final.to_atoms(), strict=True)]
    return sum(evaluated) - len(structures), ends


def dynamics_ase(structures: list[Atoms], calculator: GFMCalculator, config: MDConfig) -> Done:
    with TemporaryDirectory() as folder:
        for i, atoms in enumerate(map(Atoms.copy, structures)):
            atoms.calc = calculator
            run_md(atoms, config, trajectory=f"{folder}/{i}.traj", log=f"{folder}/{i}.csv")
    return config.steps * len(structures), []


def dynamics_batched(structures: list[Atoms], calculator: GFMCalculator, config: MDConfig) -> Done:
    with TemporaryDirectory() as folder:
        assert all(one.summary for one in dynamics_many(structures, calculator, config, folder, progress=False))
    return config.steps * len(structures), []


def dynamics_torch_sim(structures: list[Atoms], calculator: GFMCalculator, config: MDConfig) -> Done:
    ts, model, _ = torch_sim(calculator)
    timestep, heat = (torch.tensor(x, dtype=model.dtype) for x in (units.fs * config.timestep, units.kB * 300))
    begin, step = ts.nve(model, dt=timestep, kT=heat)
    state = begin(ts.io.atoms_to_state(structures, model.device, model.dtype))
    for _ in range(config.steps):
        state = step(state)
    return config.steps * len(structures), []


def torch_sim(calculator: GFMCalculator) -> tuple[Any, Any, list[int]]:
    """torch-sim, the model, and a list that grows by the number of systems of each evaluation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.jit, which torch-sim 0.3 uses
        import torch_sim

        from gfmpot.calculators.torch_sim import TorchSimModel
    model, evaluated = TorchSimModel(calculator.potential, precision=calculator.parameters["precision"]), []
    model.register_forward_hook(lambda _, __, output: evaluated.append(len(output["energy"])))
    return torch_sim, model, evaluated


def compare(
    title: str, engines: dict[str, Callable[[], Done]], repeats: int, clock: Callable[[], float]
) -> dict[str, dict[str, Any]]:
    """Let the engines take turns; print and return what came out."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    done: dict[str, Done] = {}
    for _ in range(repeats):
        for name, work in engines.items():
            began = clock()
            done[name] = work()
            seconds[name].append(clock() - began)
    print(f"\n{title}\n{'':10}{'s (range)':>22}{'steps':>8}{'ms/step':>9}{'speed':>7}{'eV/atom':>10}{'volume':>10}")
    rows: dict[str, dict[str, Any]] = {}
    for name, (steps, ends) in done.items():
        row = {"seconds": median(seconds[name]), "turns": seconds[name], "steps": steps}
        row["ms per step"] = 1e3 * row["seconds"] / steps
        away = np.abs(np.array(ends or [(np.nan, np.nan)]) - np.array(done["ase"][1] or [(np.nan, np.nan)]))
        row["energy off by (eV/atom)"] = float(away[:, 0].max())
        row["volume off by"] = float((away[:, 1] / np.array(done["ase"][1] or [(1, 1)])[:, 1]).max())
        rows[name] = row
        spread = f"{row['seconds']:.2f} ({min(row['turns']):.2f}-{max(row['turns']):.2f})"
        speed = rows["ase"]["ms per step"] / row["ms per step"]
        away_text = f"{row['energy off by (eV/atom)']:10.1e}{row['volume off by']:10.1e}" if ends else ""
        print(f"{name:10}{spread:>22}{steps:8}{row['ms per step']:9.3f}{speed:7.2f}{away_text}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of dynamics")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    calculator, results = GFMCalculator(precision=arguments.precision), {}
    clock = time.process_time if calculator.predictor.device.type == "cpu" else time.perf_counter
    config = MDConfig(ensemble="nve", steps=arguments.steps, interval=arguments.steps)
    relaxing = {"ase": relax_ase, "batched": relax_batched, "torch-sim": relax_torch_sim}
    moving = {"ase": dynamics_ase, "batched": dynamics_batched, "torch-sim": dynamics_torch_sim}
    for name, structures in (
        ("crystals", crystals(arguments.structures)),
        ("molecules", molecules(arguments.structures)),
    ):
        size = f"{len(structures)} {name}, {sum(map(len, structures))} atoms, {arguments.precision}"
        engines: dict[str, Callable[[], Done]] = {n: partial(f, structures, calculator) for n, f in relaxing.items()}
        results[f"relaxation of {name}"] = compare(f"relaxation of {size}", engines, arguments.repeats, clock)
        engines = {n: partial(f, structures, calculator, config) for n, f in moving.items()}
        results[f"dynamics of {name}"] = compare(f"dynamics of {size}", engines, arguments.repeats, clock)
    write(arguments.json, {"clock": clock.__name__, "settings": {**vars(arguments), "json": None}, **results})


if __name__ == "__main__":
    main()
