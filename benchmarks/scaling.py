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
from gfmpot.data.split import split_of_group
from gfmpot.models.presets import TABLE_II, preset, untrained
from gfmpot.telemetry import read_records
from gfmpot.training.config import TrainConfig
from gfmpot.training.launch import session
from gfmpot.training.report_style import CYCLE, PHASE_COLOURS, panels, style
from gfmpot.training.signals import EndOfJob
from gfmpot.training.trainer import Trainer

LATENCY, BANDWIDTH, PER_NODE = 4e-6, 12.5e9, 8
"""s, bytes/s and ranks, assumed of Frontier: a rank's share of a node's four cards of 25 GB/s (Frontier User Guide,
docs.olcf.ornl.gov); between GPUs of LUMI, whose nodes are of that kind, small messages take 3.7 µs and a card reaches
22 to 25 GB/s (De Sensi et al., SC24, arXiv:2408.14090). That sums are made within nodes first is not assumed."""

NODES, EPOCH = (1, 4, 16, 64, 256, 1024, 2048), 102_400
"""Of the projection; structures of an epoch in the paper's strong scaling (§VII-C)."""

SIZES = [4**k for k in range(5, 14)]
"""Bytes of the all-reduces that are measured: 1 kB to 64 MB."""

WARM_UP = 2
"""Steps that are not counted."""

PHASES = ("data", "forward", "backward", "communication", "optimizer")
KINDS = ("exposed", "hidden")
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


def gradient(mode: str, ranks: int, parts: Sequence[float], latency: float, bandwidth: float) -> float:
    """Seconds to sum gradients of ``parts`` bytes of backbone and heads; by branch, a head is summed in its group."""
    if mode != "task":
        return allreduce(sum(parts), ranks, latency, bandwidth)
    heads, group = parts[1] / min(ranks, len(TABLE_II)), max(1, ranks // len(TABLE_II))
    return allreduce(parts[0], ranks, latency, bandwidth) + allreduce(heads, group, latency, bandwidth)


def projection(one: Results, ranks: int, summing: float, faster: float) -> Results:
    """Seconds of a step of weak scaling and of the paper's epoch, with gradients that take ``summing`` to sum, exposed
    or hidden behind the backward pass, from the seconds ``one`` of a rank here."""
    fixed, varying = (sum(one[phase] for phase in phases) / faster for phases in (PHASES[3:], PHASES[:3]))
    varying *= one["fullest"] if ranks > 1 else 1.0
    steps, found = EPOCH / ranks / one["structures"], {}
    for kind, more in zip(KINDS, (summing, max(0.0, summing - one["backward"] / faster)), strict=True):
        found[f"weak {kind}"] = varying + fixed + more
        found[f"strong {kind}"] = steps * varying + math.ceil(steps) * (fixed + more)
    return found


def projections(measured: Sequence[Results], given: argparse.Namespace) -> list[Results]:
    """Runtimes on more and more nodes over those of one rank, which are medians of the weak scaling."""
    named, size = untrained(preset(given.preset)).named_parameters(), DTYPES[given.precision].itemsize
    numbers = [(n.startswith("heads."), size * p.numel()) for n, p in named if not n.startswith("weights.")]
    parts = [sum(count for is_head, count in numbers if is_head == part) for part in (False, True)]
    one, rows = middle(next(row["runs"] for row in measured if row["ranks"] == 1)), []
    for mode, faster, nodes in itertools.product(given.modes, given.faster, NODES):
        summing = gradient(mode, PER_NODE * nodes, parts, given.latency, given.bandwidth)
        alone, found = projection(one, 1, 0.0, faster), projection(one, PER_NODE * nodes, summing, faster)
        place = {"PROJECTION": True, "mode": mode, "faster": faster, "nodes": nodes, "gradients": summing}
        rows.append(place | {name: found[name] / alone[name] for name in found})
    return rows


class Enough(EndOfJob):
    """The end of a job after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    @property
    def requested(self) -> bool:
        """Asked once a step."""
        self._left -= 1
        return self._left <= 0


def work(job: Results) -> None:
    """One rank of a run."""
    torch.set_num_threads(1)
    if job["pin"]:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    with session("cpu") as (launch, device):
        machine: Results = {"all-reduces": [(launch.world, n, timed_sum(n)) for n in SIZES if launch.world > 1]}
        machine["GFLOP/s"] = matrix_rate(DTYPES[job["config"]["precision"]])
        trainer = Trainer(from_mapping(TrainConfig, job["config"]), *map(Path, job["folders"]), launch, device)
        trainer.fit(end=Enough(job["steps"]))
        if launch.is_main:
            Path(job["folders"][1], "machine.json").write_text(json.dumps(machine))


def timed_sum(size: int) -> float:
    """Seconds of an all-reduce."""
    buffer, times = torch.zeros(size // 4), []
    for _ in range(max(5, min(200, 2**24 // size))):
        begun = perf_counter()
        dist.all_reduce(buffer)
        times.append(perf_counter() - begun)
    return median(times)


def write_data(folder: Path, structures: int = 24) -> None:
    """A packed file for each branch, two structures held out."""
    for branch, (name, _) in enumerate(TABLE_II):
        data, sides = random_structures(structures, seed=branch), ["valid", "test", *["train"] * (structures - 2)]
        names = [(str(n) for n in itertools.count(1000 * i)) for i in range(structures)]
        group = [next(n for n in own if split_of_group(n) == side) for own, side in zip(names, sides, strict=True)]
        fields = ("numbers", "positions", "energy", "forces", "stress", "cell", "pbc")
        arrays = {field: getattr(data, field) for field in fields}
        np.savez(folder / f"{name}.npz", natoms=data.atoms_per_structure, group=np.array(group), **arrays)


def run(mode: str, ranks: int, structures: int, data: Path, given: argparse.Namespace) -> Results:
    """Rates, seconds per step by phase, and what the machine could do meanwhile."""
    batch = {"structures": 8 * structures, "max_atoms": structures * sum(ATOMS) // 2, "max_edges": given.max_edges}
    branches = [{"name": n, "files": [f"{n}.npz"], "min_structures_per_element": 1} for n, _ in TABLE_II]
    config = {"model": preset(given.preset).to_mapping(), "branches": branches, "steps": 10**6, "batch": batch}
    config |= {"loss": to_mapping(LOSS), "parallel": mode, "precision": given.precision, "reading": {"threads": 1}}
    config |= {"telemetry": {"log_every": 1}}
    with tempfile.TemporaryDirectory() as folder:
        job = {"config": config, "folders": [str(data), folder], "steps": WARM_UP + given.steps, "pin": given.pin}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", __file__]
        done = subprocess.run([*command, "--work", json.dumps(job)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{mode} on {ranks} ranks failed:\n{done.stderr[-4000:]}")
        records = [r for r in read_records(Path(folder, "log.jsonl"))[0] if r["kind"] == "train"]
        machine = json.loads(Path(folder, "machine.json").read_text())
    seconds, counted = np.diff([r["seconds"] for r in records[WARM_UP - 1 :]]), records[WARM_UP:]
    structures_per_s, atoms = (
        float(np.average([r[f"{what}_per_second"] for r in counted], weights=seconds)) for what in ("structures", "atoms")
    )
    phases = {phase: float(np.mean([r["regions"][f"epoch/{phase}"]["mean"] for r in counted])) for phase in PHASES}
    per_rank = float(seconds.mean()) / ranks
    filled = {"structures": structures_per_s * per_rank, "fullest": batch["max_atoms"] / (atoms * per_rank)}
    return {"structures/s": structures_per_s, **filled, **phases, **machine}


def measure(data: Path, given: argparse.Namespace) -> list[Results]:
    """Weak and strong scaling in every mode, runs in turns; on one rank, all modes are the same."""
    rows: list[Results] = []
    for scaling, mode, p in itertools.product(("weak", "strong"), given.modes, given.ranks):
        whole = given.structures * (p if scaling == "weak" else max(given.ranks))
        alone = ("ddp", 1, given.structures if scaling == "weak" else whole)
        rows.append({"scaling": scaling, "mode": mode, "ranks": p, "keys": (alone, (mode, p, whole // p))})
        rows[-1]["keys"] = (alone, (mode, p, whole // p) if p > 1 else alone)
    runs: dict[Any, list[Results]] = {key: [] for row in rows for key in row["keys"]}
    for _, key in itertools.product(range(given.repeats), runs):
        runs[key].append(run(*key, data, given))
    for row in rows:
        alone, row["runs"] = (runs[key] for key in row.pop("keys"))
        row["speed-up"] = [b["structures/s"] / a["structures/s"] for a, b in zip(alone, row["runs"], strict=True)]
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
    print("\nPROJECTION: efficiency if none, or all, of the summing of gradients hides behind the backward pass")
    for row in results["projections"]:
        weak = (f"{1 / row[f'weak {kind}']:.1%}" for kind in KINDS)
        strong = (f"{1 / row[f'strong {kind}'] / PER_NODE / row['nodes']:.1%}" for kind in KINDS)
        place = f"{row['nodes']:4} nodes, {row['mode']:4}, ranks {row['faster']:3g} times as fast"
        print(f"PROJECTION {place}: weak", *weak, "strong", *strong, f"gradients {1e3 * row['gradients']:.1f} ms")


def draw(results: Results, path: Path) -> None:
    """Runtimes, measured and projected, and measured phases."""
    with style():
        figure, (*runtimes, phases) = panels(3, 3, 4.0)
        for axis, scaling in zip(runtimes, ("weak", "strong"), strict=True):
            draw_runtimes(axis, scaling, results)
        rows = [row for row in results["measured"] if row["scaling"] == "weak"]
        bottom = np.zeros(len(rows))
        for phase in PHASES:
            heights = np.array([middle(row["runs"])[phase] for row in rows])
            phases.bar(range(len(rows)), heights, bottom=bottom, color=PHASE_COLOURS[phase], label=phase)
            bottom += heights
        phases.set_xticks(range(len(rows)), [f"{row['mode']}\n{row['ranks']}" for row in rows])
        phases.set(title="Weak scaling, measured", xlabel="mode and ranks", ylabel="s per step", ylim=(0, 1.4 * max(bottom)))
        phases.legend(ncols=2)
        figure.savefig(path)


def draw_runtimes(axis: Any, scaling: str, results: Results) -> None:
    """Measured with error bars; projected dashed."""
    for mode, colour in zip(dict.fromkeys(row["mode"] for row in results["measured"]), CYCLE, strict=False):
        rows = [row for row in results["measured"] if row["scaling"] == scaling and row["mode"] == mode]
        values = np.array([(min(row["runtime"]), median(row["runtime"]), max(row["runtime"])) for row in rows]).T
        axis.errorbar([row["ranks"] for row in rows], values[1], np.diff(values, axis=0), fmt="o-", color=colour, label=mode)
        for faster, dashes in zip(dict.fromkeys(row["faster"] for row in results["projections"]), "-:", strict=False):
            rows = [row for row in results["projections"] if row["mode"] == mode and row["faster"] == faster]
            ranks = [PER_NODE * row["nodes"] for row in rows]
            axis.plot(ranks, [row[f"{scaling} exposed"] for row in rows], "--", color=colour, alpha=0.6)
