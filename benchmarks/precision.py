"""How far is each precision from float64, and what does it save?

python benchmarks/precision.py [--models default lead] [--precision bf16 fp32 fp64] [--repeats 15] [--device cpu]
    [--threads 1] [--png FILE] [--json FILE]

``default`` is the embedded model; ``lead`` is the paper's shape with random weights, scaled to forces of 2 eV/Å, and
all neighbours: its errors are to be read against its energies, which are larger than those of trained models. Errors
are the largest against float64 without compiled code, on the same weights and structures. Throughput is atoms per
second of evaluation (energy, forces, stress; graphs are made before): CPU time of one process, or wall time on a GPU;
median of the repeats (slowest to fastest). Configurations take turns, so that a machine that slows down hits all alike.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from common import environment, write

from gfmpot import Potential, load
from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.inference import Predictor, Results
from gfmpot.models import BranchInfo, preset
from gfmpot.models.presets import TABLE_II, untrained
from gfmpot.testing.structures import rattled

FORCE = 2.0
"""eV/Å, the largest on an ethanol molecule to which random weights are scaled."""

MOLECULES = ("CH3CH2OH", "C6H6", "CH3COOH", "CH3CONH2", "C5H5N", "CH3NO2", "isobutane", "bicyclobutane")
CRYSTALS = (("MgO", "rocksalt", 4.21), ("Cu", "fcc", 3.61), ("Si", "diamond", 5.43), ("NaCl", "rocksalt", 5.64))

COLOURS = {"bf16": "#d9822b", "fp32": "#2f6db0", "fp64": "#3f9060"}
MARKERS = ("o", "s", "^", "D")
ERRORS = {"energy": "eV/atom", "forces": "eV/Å"}


def workloads() -> dict[str, list[Atoms]]:
    """What is evaluated at once: one step of dynamics, and batches as in screening."""
    solids = [bulk(name, kind, a, cubic=True) for name, kind, a in CRYSTALS]
    return {
        "64 atoms of MgO": [rattled(solids[0] * 2, 0.1)],
        "64 molecules": [rattled(molecule(name), 0.05, seed) for seed in range(8) for name in MOLECULES],
        "16 crystals": [rattled(atoms * 2, 0.1, seed) for seed in range(4) for atoms in solids],
    }


def model(name: str) -> Potential:
    """A trained model, or random weights of a preset."""
    if name != "lead":
        return load(name)
    e0 = dict.fromkeys(("H", "C", "N", "O", "Na", "Mg", "Si", "Cl", "Cu"), 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = replace(preset("lead"), max_neighbours=None)
        potential = untrained(config, [BranchInfo(name, theory, e0=e0) for name, theory in TABLE_II]).double()
    graph = graph_from_atoms(molecule("CH3CH2OH"), cutoff=potential.cutoff)
    largest = float(potential(graph).forces.abs().max())
    with torch.no_grad():
        for parameter in potential.heads.layers[-1].parameters():
            parameter.mul_(FORCE / largest)
    return potential


def largest(found: Sequence[Results], expected: Sequence[Results]) -> dict[str, float]:
    """Differences over the structures of a batch."""
    pairs = list(zip(found, expected, strict=True))
    energy = max(abs(a["energy"] - b["energy"]) / len(b["forces"]) for a, b in pairs)
    return {"energy": energy, "forces": max(float(np.abs(a["forces"] - b["forces"]).max()) for a, b in pairs)}


def references(potential: Potential, structures: Sequence[Atoms]) -> list[Results]:
    """Energies of the free atoms, and no forces: what is left is what the network has learnt."""
    energies = [sum(potential.e0_blend.get(s, 0.0) for s in atoms.symbols) for atoms in structures]
    return [{"energy": e, "forces": np.zeros((len(a), 3))} for e, a in zip(energies, structures, strict=True)]


def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each model, workload and precision."""
    clock: Callable[[], float] = time.process_time if given.device == "cpu" else time.perf_counter
    rows: list[dict[str, Any]] = []
    runs: list[tuple[Predictor, AtomGraph]] = []
    for name in given.models:
        potential = model(name)
        exact = Predictor(potential, precision="fp64", device=given.device, kernels=False)
        predictors = {p: Predictor(potential, precision=p, device=given.device) for p in given.precision}
        for (work, atoms), precision in itertools.product(workloads().items(), given.precision):
            graph = AtomGraph.batch([graph_from_atoms(a, cutoff=potential.cutoff) for a in atoms])
            runs.append((predictors[precision], graph))
            row = {"model": name, "workload": work, "precision": precision, "atoms": graph.n_atoms, "atoms/s": []}
            expected = exact(graph)
            row |= largest(predictors[precision](graph), expected)
            rows.append({**row, "scale": largest(references(potential, atoms), expected)})
    for _ in range(given.repeats):
        for row, (predictor, graph) in zip(rows, runs, strict=True):
            fresh, begun = graph.replace(), clock()  # without what evaluations keep in a graph
            predictor(fresh)
            row["atoms/s"].append(graph.n_atoms / (clock() - begun))
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    base = {(r["model"], r["workload"]): statistics.median(r["atoms/s"]) for r in rows if r["precision"] == "fp64"}
    print(f"{'':28}{'precision':>10}{'ΔE (eV/atom)':>22}{'ΔF (eV/Å)':>20}{'atoms/s':>30}{'× fp64':>8}")
    for row in rows:
        rates = sorted(row["atoms/s"])
        rate = statistics.median(rates)
        speed = f"{rate:,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        gain = f"{rate / base[key]:.2f}" if (key := (row["model"], row["workload"])) in base else "–"
        name = f"{row['model']}, {row['workload']}"
        energy, forces = (f"{row[kind]:.1e} of {row['scale'][kind]:.1f}" for kind in ERRORS)
        print(f"{name:28}{row['precision']:>10}{energy:>22}{forces:>20}{speed:>30}{gain:>8}")


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Error over throughput, one column for each model."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    models, works = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "workload"))
    figure = Figure(figsize=(4.8 * len(models), 7.4), layout="constrained")
    axes = figure.subplots(len(ERRORS), len(models), squeeze=False, sharex="col", sharey="row")
    for (i, (kind, unit)), (j, name) in itertools.product(enumerate(ERRORS.items()), enumerate(models)):
        panel, own = axes[i][j], [row for row in rows if row["model"] == name]
        for work, marker in zip(works, MARKERS, strict=False):
            points = [(statistics.median(r["atoms/s"]), r[kind], r["precision"]) for r in own if r["workload"] == work]
            panel.plot(*zip(*(point[:2] for point in points), strict=True), "-", color="#d0d0d0", zorder=1)
            for rate, error, precision in points:
                panel.plot(rate, error, marker, color=COLOURS[precision], markersize=8)
        panel.set(
            xscale="log", yscale="log", title=f"{name}, {kind} up to {max(r['scale'][kind] for r in own):.1f} {unit}"
        )
        panel.set(xlabel="atoms/s" if i == 1 else "", ylabel=f"largest error of {kind} ({unit})" if j == 0 else "")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    labels = [("o", COLOURS[p], p) for p in COLOURS] + [(m, "#767676", w) for m, w in zip(MARKERS, works, strict=False)]
    handles = [axes[0][0].plot([], [], marker, color=colour, label=label)[0] for marker, colour, label in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["default", "lead"])
    parser.add_argument("--precision", nargs="+", default=list(COLOURS), choices=list(COLOURS))
    for name, value in (("repeats", 15), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    for name in ("png", "json"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    rows = measure(given)
    show(rows)
    if given.png is not None:
        draw(rows, given.png)
    write(given.json, {"precision": rows})


if __name__ == "__main__":
    main()
