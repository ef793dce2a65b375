"""How does training scale with ranks, and what would that be on 2,048 nodes?

python benchmarks/scaling.py [--ranks 1 2] [--modes ddp fsdp task] [--structures 16] [--steps 5] [--repeats 5] [--pin]
    [--preset lead] [--precision fp32] [--latency 4e-6] [--bandwidth 12.5e9] [--faster 1 100] [--png F] [--json F]

A run is a trainer under torchrun, one thread per rank, on structures as in training_step.py in 16 branches, in batches
packed to as many atoms as --structures have on average: for each rank (weak scaling), or for each of the most ranks in
all (strong). Runs take turns, so that a machine that slows down hits all alike; --pin ties each rank to a core.
Gradients are summed within the backward pass, as in the paper's Figure 3; "communication" is what else ranks agree on.

The model: an all-reduce of n bytes takes L(p) · latency + 2 (p − 1) / p · n / bandwidth, with L(p) = 2 (p − 1) for the
ring that gloo uses (gloo/allreduce.cc), 2 ⌈log₂ p⌉ for recursive halving and doubling (Thakur, Rabenseifner and Gropp,
Int. J. High Perform. Comput. Appl. 19, 49, 2005; also MPICH's allreduce.c). PROJECTION marks what was not measured: it
takes the times of one rank here, divided by --faster, full batches for the slowest rank, and a network that is assumed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from common import environment, write
from scipy.optimize import nnls
from training_step import ATOMS, DTYPES, LOSS, matrix_rate, random_structures, spread

from gfmpot.config import from_mapping, to_mapping
from gfmpot.models.presets import TABLE_II, preset, untrained
from gfmpot.ranks.launch import session
from gfmpot.ranks.signals import Deadline
from gfmpot.telemetry import read_records
from gfmpot.training.config import TrainConfig
from gfmpot.training.report_style import CYCLE, PHASE_COLOURS, panels, style
from gfmpot.training.trainer import Trainer

LATENCY, BANDWIDTH, PER_NODE = 4e-6, 12.5e9, 8
"""s, bytes/s and ranks, assumed of Frontier: a rank's share of a node's four cards of 25 GB/s (Frontier User Guide,
docs.olcf.ornl.gov); between GPUs of LUMI, whose nodes are of that kind, small messages take 3.7 µs and a card reaches
22 to 25 GB/s (De Sensi et al., SC24, arXiv:2408.14090). That sums are made within nodes first is not assumed."""

MEAN = sum(ATOMS) // 2
"""Atoms of a structure. Rates are measured in atoms, and said in structures of this size: few are drawn in a run."""

NODES, EPOCH = (1, 4, 16, 64, 256, 1024, 2048), 102_400
"""Of the projection; structures of an epoch in the paper's strong scaling (§VII-C)."""

SIZES = [4**k for k in range(5, 14)]
"""Bytes of the all-reduces that are measured: 1 kB to 64 MB."""

WARM_UP = 2
"""Steps that are not counted."""

PHASES = ("data", "forward", "backward", "communication", "optimizer")
Results = dict[str, Any]


def allreduce(size: float, ranks: int, latency: float, bandwidth: float, *, ring: bool = False) -> float:
    """Seconds for ``size`` bytes."""
    rounds = 2 * (ranks - 1) if ring else 2 * math.ceil(math.log2(ranks))
    return rounds * latency + 2 * (ranks - 1) / ranks * size / bandwidth


def fit(measured: Sequence[tuple[int, int, float]]) -> tuple[float, float]:
    """Latency (s) and bandwidth (bytes/s) of a ring from (ranks, bytes, seconds); least squares of relative errors."""
    rows = [[allreduce(0, p, 1.0, 1.0, ring=True) / t, allreduce(n, p, 0.0, 1.0) / t] for p, n, t in measured]
    latency, inverse = nnls(np.array(rows), np.ones(len(rows)))[0]
    return float(latency), 1 / float(inverse)


def projections(one: Results, size: int, given: argparse.Namespace) -> list[Results]:
    """Efficiencies on more and more nodes: of a step of weak scaling, and of the paper's epoch (strong scaling), if
    nothing of the sum of ``size`` bytes of gradients, or all of it, hides behind the backward pass.

    Args:
        one: seconds of a rank here by phase, ``structures`` of its batch, and how much more the ``fullest`` holds.
        size: bytes.
        given: ``latency`` and ``bandwidth`` of the network, and how many times ``faster`` ranks compute.
    """
    rows = []
    varying, fixed = (sum(one[phase] for phase in phases) for phases in (PHASES[:3], PHASES[3:]))
    for faster, nodes in itertools.product(given.faster, NODES):
        ranks = PER_NODE * nodes
        summing = allreduce(size, ranks, given.latency, given.bandwidth)
        row = {"PROJECTION": True, "faster": faster, "nodes": nodes, "ranks": ranks, "gradients (s)": summing}
        batches = EPOCH / one["structures"]
        for kind, exposed in (("exposed", summing), ("hidden", max(0.0, summing - one["backward"] / faster))):
            step, more = varying * one["fullest"] / faster, fixed / faster + exposed
            epoch = batches / ranks * step + math.ceil(batches / ranks) * more
            row[f"weak {kind}"] = (varying + fixed) / faster / (step + more)
            row[f"strong {kind}"] = batches * (varying + fixed) / faster / ranks / epoch
        rows.append(row)
    return rows


def work(job: Results) -> None:
    """One rank of a run."""
    torch.set_num_threads(1)
    if job["pin"]:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    with session("cpu") as (launch, device):
        machine: Results = {"all-reduces": [(launch.world, n, timed_sum(n)) for n in SIZES if launch.world > 1]}
        machine["GFLOP/s"] = matrix_rate(DTYPES[job["config"]["precision"]])
        data, folder = Path(job["data"]), Path(job["folder"])
        trainer = Trainer(from_mapping(TrainConfig, job["config"]), data, folder, launch, device)
        ticks = map(float, itertools.count())  # a clock that is read once a step
        trainer.fit(deadline=Deadline(job["steps"] / 3600, ticks.__next__))
        if launch.is_main:
            (folder / "machine.json").write_text(json.dumps(machine))


def timed_sum(size: int) -> float:
    """Seconds of an all-reduce."""
    buffer, times = torch.zeros(size // 4), []
    for _ in range(max(5, min(200, 2**24 // size))):
        begun = perf_counter()
        dist.all_reduce(buffer)
        times.append(perf_counter() - begun)
    return median(times)


def write_data(folder: Path, structures: int = 24) -> None:
    """A packed file for each branch."""
    fields = ("numbers", "positions", "energy", "forces", "stress", "cell", "pbc")
    for branch, (name, _) in enumerate(TABLE_II):
        data = random_structures(structures, seed=branch)
        arrays = {field: getattr(data, field) for field in fields}
        np.savez(folder / f"{name}.npz", natoms=data.atoms_per_structure, **arrays)


def run(mode: str, ranks: int, structures: int, data: Path, given: argparse.Namespace) -> Results:
    """Rates, seconds per step by phase, and what the machine could do meanwhile."""
    batch = {"structures": 8 * structures, "max_atoms": structures * MEAN, "max_edges": given.max_edges}
    branches = [{"name": n, "files": [f"{n}.npz"], "min_structures_per_element": 1} for n, _ in TABLE_II]
    config = {"model": preset(given.preset).to_mapping(), "branches": branches, "steps": 10**6, "batch": batch}
    config |= {"loss": to_mapping(LOSS), "parallel": mode, "precision": given.precision, "reading": {"threads": 1}}
    config |= {"telemetry": {"log_every": 1}, "split": {"valid": 0.1, "test": 0.1}}
    with tempfile.TemporaryDirectory() as folder:
        job = {"config": config, "data": str(data), "folder": folder, "steps": WARM_UP + given.steps, "pin": given.pin}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", __file__]
        command, one_thread = [*command, "--work", json.dumps(job)], {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)
        if done.returncode:
            raise SystemExit(f"{mode} on {ranks} ranks failed:\n{done.stderr[-4000:]}")
        records = [r for r in read_records(Path(folder, "log.jsonl"))[0] if r["kind"] == "train"]
        machine = json.loads(Path(folder, "machine.json").read_text())
    seconds, counted = np.diff([r["seconds"] for r in records[WARM_UP - 1 :]]), records[WARM_UP:]
    atoms = float(np.average([r["atoms_per_second"] for r in counted], weights=seconds))
    part = atoms * float(seconds.mean()) / ranks
    phases = {phase: float(np.mean([r["regions"][f"epoch/{phase}"]["mean"] for r in counted])) for phase in PHASES}
    size = {"structures": part / MEAN, "fullest": batch["max_atoms"] / part}
    return {"structures/s": atoms / MEAN, **size, **phases, **machine}


def measure(data: Path, given: argparse.Namespace) -> list[Results]:
    """Weak and strong scaling in every mode, runs in turns; on one rank, all modes are the same."""
    rows: list[Results] = []
    for scaling, mode, p in itertools.product(("weak", "strong"), given.modes, given.ranks):
        whole = given.structures * (p if scaling == "weak" else max(given.ranks))
        alone = ("ddp", 1, given.structures if scaling == "weak" else whole)
        keys = (alone, (mode, p, whole // p) if p > 1 else alone)
        rows.append({"scaling": scaling, "mode": mode, "ranks": p, "keys": keys})
    runs: dict[tuple[str, int, int], list[Results]] = {key: [] for row in rows for key in row["keys"]}
    for _, (mode, p, share) in itertools.product(range(given.repeats), runs):
        runs[mode, p, share].append(run(mode, p, share, data, given))
    for row in rows:
        base, row["runs"] = (runs[key] for key in row.pop("keys"))
        row["speed-up"] = [b["structures/s"] / a["structures/s"] for a, b in zip(base, row["runs"], strict=True)]
        row["runtime"] = [(row["ranks"] if row["scaling"] == "weak" else 1) / factor for factor in row["speed-up"]]
    return rows


def middle(runs: Sequence[Results]) -> dict[str, float]:
    """Medians of what is a number."""
    return {name: median(one[name] for one in runs) for name in runs[0] if isinstance(runs[0][name], float)}


def show(results: Results) -> None:
    print(f"\n{'':15} {'structures/s':>24} {'speed-up':>20} {'GFLOP/s':>8}  ms per step")
    for row in results["measured"]:
        found, rates = middle(row["runs"]), spread([one["structures/s"] for one in row["runs"]])
        name, phases = f"{row['scaling']} {row['mode']} {row['ranks']}", (f"{p} {1e3 * found[p]:.1f}" for p in PHASES)
        print(f"{name:15} {rates:>24} {spread(row['speed-up']):>20} {found['GFLOP/s']:8.0f} ", ", ".join(phases))
    print("required: 2 ranks at least 1.80 times one in weak scaling; GFLOP/s are of a rank, all ranks busy")
    network = results["fitted"]["latency"], results["fitted"]["bandwidth"]
    print(f"\nall-reduces here, model fitted: latency {1e6 * network[0]:.1f} µs, bandwidth {network[1] / 1e9:.2f} GB/s")
    for p, size, seconds in results["all-reduces"]:
        model = allreduce(size, p, *network, ring=True)
        print(f"  {p} ranks, {size:>9} bytes: {1e3 * seconds:8.3f} ms, by the model {1e3 * model:8.3f} ms")
    for p in sorted({p for p, _, _ in results["all-reduces"]}):
        model = allreduce(results["gradient bytes"], p, *network, ring=True)
        print(f"  {p} ranks, gradients: by the model {1e3 * model:.3f} ms")
    print("\nPROJECTION: efficiency if none, or all, of the summing of gradients hides behind the backward pass")
    for row in results["projections"]:
        place = f"{row['nodes']:4} nodes × {PER_NODE}, ranks {row['faster']:3g} times as fast as here"
        cells = (f"{name} {value:6.1%}" for name, value in row.items() if name.startswith(("weak", "strong")))
        print(f"PROJECTION {place}:", *cells, f"gradients {1e3 * row['gradients (s)']:.1f} ms")


def draw(results: Results, path: Path) -> None:
    """Runtimes, measured and projected, and measured phases."""
    with style():
        figure, (weak, strong, phases) = panels(3, 3, 4.0)
        draw_runtimes(weak, "weak", results)
        draw_runtimes(strong, "strong", results)
        weakly = [row for row in results["measured"] if row["scaling"] == "weak"]
        bars = {f"{row['mode']}\n{row['ranks']}": middle(row["runs"]) for row in weakly}
        bottom = np.zeros(len(bars))
        for phase in PHASES:
            heights = np.array([bar[phase] for bar in bars.values()])
            phases.bar(list(bars), heights, bottom=bottom, color=PHASE_COLOURS[phase], label=phase)
            bottom += heights
        phases.set(title="Weak scaling, measured", xlabel="mode and ranks", ylabel="s per step")
        phases.set_ylim(0, 1.4 * max(bottom))
        phases.legend(ncols=2)
        figure.savefig(path)


def draw_runtimes(axis: Any, scaling: str, results: Results) -> None:
    """Measured with the range of repeats; projected dashed, in a shaded region, from all sums hidden to none."""
    for mode, colour in zip(results["settings"]["modes"], CYCLE, strict=False):
        rows = [row for row in results["measured"] if row["scaling"] == scaling and row["mode"] == mode]
        low, high, centre = (np.array([of(row["runtime"]) for row in rows]) for of in (min, max, median))
        spans = (centre - low, high - centre)
        axis.errorbar([row["ranks"] for row in rows], centre, spans, fmt="o-", color=colour, label=mode)
    for faster, colour in zip(results["settings"]["faster"], CYCLE[3:], strict=False):
        rows = [row for row in results["projections"] if row["faster"] == faster]
        ranks = np.array([row["ranks"] for row in rows])
        ends = [1 / np.array([row[f"{scaling} {kind}"] for row in rows]) for kind in ("hidden", "exposed")]
        hidden, exposed = (end / ranks if scaling == "strong" else end for end in ends)
        axis.plot(ranks, exposed, "--", color=colour, label=f"projected, ranks {faster:g}× as fast")
        axis.fill_between(ranks, hidden, exposed, color=colour, alpha=0.2, linewidth=0)
    axis.axvspan(ranks[0], ranks[-1], color="0.95", zorder=0)
    axis.text(1.3 * ranks[0], 0.97, "PROJECTION", va="top", transform=axis.get_xaxis_transform())
    axis.set_xscale("log", base=2)
    if scaling == "weak":
        axis.set_ylim(0, 1.2 * axis.get_ylim()[1])
    else:
        axis.set_yscale("log", base=2)
    axis.set(title=f"{scaling.capitalize()} scaling", xlabel="ranks", ylabel="runtime, relative to one rank")
    axis.legend(loc="lower left", fontsize=8)


SETTINGS = {"structures": 16, "max-edges": 50_000, "steps": 5, "repeats": 5, "ranks": [1, 2], "preset": "lead"}
SETTINGS |= {"modes": ["ddp", "fsdp", "task"], "precision": "fp32", "faster": [1.0, 100.0]}
SETTINGS |= {"latency": LATENCY, "bandwidth": BANDWIDTH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in SETTINGS.items():
        kind, number = (type(value[0]), "+") if isinstance(value, list) else (type(value), None)
        parser.add_argument(f"--{name}", type=kind, nargs=number, default=value)
    parser.add_argument("--pin", action="store_true")
    parser.add_argument("--png", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work)
        return
    if given.ranks[0] != 1 or len(given.ranks) == 1 or any(max(given.ranks) % p for p in given.ranks):
        parser.error(f"--ranks: got {given.ranks}, expected 1 and then divisors of the most, e.g. 1 2 4")
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        measured = measure(Path(folder), given)
    sums: dict[tuple[int, int], list[float]] = {}
    for p, size, seconds in (each for row in measured for one in row["runs"] for each in one["all-reduces"]):
        sums.setdefault((p, size), []).append(seconds)
    settings = {name: value for name, value in vars(given).items() if name not in ("json", "png", "work")}
    trained = [p for n, p in untrained(preset(given.preset)).named_parameters() if not n.startswith("weights.")]
    size = DTYPES[given.precision].itemsize * sum(p.numel() for p in trained)
    results: Results = {"settings": settings, "gradient bytes": size, "measured": measured}
    results["projections"] = projections(middle(measured[0]["runs"]), size, given)
    results["all-reduces"] = [(*key, median(times)) for key, times in sums.items()]
    results["fitted"] = dict(zip(("latency", "bandwidth"), fit(results["all-reduces"]), strict=True))
    show(results)
    write(given.json, results)
    if given.png:
        draw(results, given.png)


if __name__ == "__main__":
    main()
