"""How many structures per CPU-second does training take, where does the time go, and does the loader keep up?

python benchmarks/training_step.py [--structures 50] [--batch 25] [--max-edges 50000] [--repeats 5]
    [--precision fp64 fp32] [--presets lead small] [--gradients exact differences] [--loader STRUCTURES] [--json FILE]

A step is what the trainer makes of a batch: energies, forces and loss of its parts, gradients of that through the
forces, AdamW with clipping and the moving average of the weights; with 16 branches and fresh weights, on one thread.
CPU seconds are user and system time of the process. Configurations take turns, so that a machine that slows down hits
all alike; the rate of matrix products, measured at each turn, says what the machine could do meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from common import environment, write
from data_loading import make_store
from numpy.typing import NDArray

from gfmpot.data import AdiosStore, FrameSet
from gfmpot.data.frame import Frame
from gfmpot.data.sampler import BatchConfig, Sampler
from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import PotentialConfig
from gfmpot.models.presets import TABLE_II, preset, untrained
from gfmpot.training.loader import Loader, Stream
from gfmpot.training.loss import LossConfig, label_counts
from gfmpot.training.optim import OptimConfig, Optimizer
from gfmpot.training.parallelize import Replicated

HYDRAGNN = {"fp64": 0.80, "fp32": 1.56}
"""Structures per CPU-second of HydraGNN's step with the lead model on this workload: the measured reference given
with the requirement for ours (at least 3 times that, better 5)."""

LOSS = LossConfig(energy=1.0, forces=94.8, stress=0.0)
"""The paper's Table V."""

DTYPES = {"fp64": torch.float64, "fp32": torch.float32}
ATOMS, DENSITIES, ELEMENTS = (2, 500), (0.02, 0.06), (1, 6, 7, 8, 12, 26)
"""Least and most atoms; atoms/Å³ (0.025 in MOF-5 and in sodium, 0.05 in silicon); atomic numbers."""

PHASES = ("graph", "forward", "backward", "optimizer")
Seconds = dict[str, float]


def random_structures(n: int, seed: int = 0) -> FrameSet:
    """2 to 500 atoms, evenly spread, on jittered grids with random labels; every other one is periodic."""
    rng, frames = np.random.default_rng(seed), []
    for i, atoms in enumerate(rng.permutation(np.linspace(*ATOMS, n).round().astype(int)).tolist()):
        periodic = i % 2 == 0
        length, side = (atoms / rng.uniform(*DENSITIES)) ** (1 / 3), int(np.ceil(atoms ** (1 / 3)))
        sites = np.stack(np.unravel_index(rng.permutation(side**3)[:atoms], (side, side, side)), axis=1)
        numbers, positions = rng.choice(ELEMENTS, atoms), sites * (length / side) + rng.normal(0.0, 0.1, (atoms, 3))
        energy, forces = float(rng.normal(-6.0, 0.1) * atoms), rng.normal(size=(atoms, 3))
        where = {"cell": length * np.eye(3) * periodic, "pbc": np.full(3, periodic)}
        frames.append(Frame(numbers.astype(np.int64), positions, energy, forces, f"{seed}-{i}", **where))
    return FrameSet.from_frames(frames, "random")


def matrix_rate(dtype: torch.dtype, order: int = 1024, seconds: float = 0.2) -> float:
    """GFLOP/s of matrix products on this thread, by the wall clock."""
    a = torch.rand(order, order, dtype=dtype)
    start, done = perf_counter(), 0
    while perf_counter() < start + seconds:
        a @ a
        done += 1
    return done * 2 * order**3 / (perf_counter() - start) / 1e9


def graphs(frames: FrameSet, batch: Sequence[int], config: PotentialConfig, max_edges: int) -> list[AtomGraph]:
    """The parts of a batch, as the loader makes them."""
    cutoff, cap = config.backbone.cutoff, config.max_neighbours
    found = [frames.graph(i, cutoff, i % len(TABLE_II), cap) for i in batch]
    return [AtomGraph.batch(part) for part in BatchBudget(max_edges=max_edges).pack(found)]


def step(optimizer: Optimizer, parts: Sequence[AtomGraph]) -> NDArray[np.float64]:
    """(3,) CPU seconds of forward, backward and optimizer."""
    counts = torch.stack([label_counts(part) for part in parts]).sum(dim=0)
    weights = torch.tensor(LOSS.weights, dtype=torch.float64) / counts.clamp(min=1.0)
    spent = np.zeros(3)
    optimizer.zero_grad()
    for part in parts:
        begun = process_time()
        sums = optimizer.parallel.sums(part)
        between = process_time()
        (sums.values * weights).sum().backward()  # type: ignore[no-untyped-call]
        spent += (between - begun, process_time() - between, 0.0)
    begun = process_time()
    optimizer.advance(0.0)
    spent[2] = process_time() - begun
    return spent


def one_pass(optimizer: Optimizer, config: PotentialConfig, frames: FrameSet, given: argparse.Namespace) -> Seconds:
    """CPU seconds per structure of each phase over all structures, in batches."""
    spent = np.zeros(len(PHASES))
    for first in range(0, len(frames), given.batch):
        begun = process_time()
        parts = graphs(frames, range(first, min(first + given.batch, len(frames))), config, given.max_edges)
        spent[0] += process_time() - begun
        spent[1:] += step(optimizer, parts)
    return dict(zip(PHASES, (spent / len(frames)).tolist(), strict=True))


def steps(frames: FrameSet, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every model in every precision, in turns, after a few structures to warm up."""
    rows = []
    for name, precision, gradients in itertools.product(given.presets, given.precision, given.gradients):
        torch.manual_seed(0)
        potential = untrained(preset(name)).to(DTYPES[precision])
        parallel = Replicated(potential, LOSS, bf16=False, differences=gradients == "differences")
        optimizer = Optimizer(parallel, OptimConfig())
        one_pass(optimizer, preset(name), frames.subset(range(min(4, len(frames)))), given)
        about = {"preset": name, "precision": precision, "gradients": gradients}
        rows.append((optimizer, {**about, "passes": [], "GFLOP/s": []}))
    for _ in range(given.repeats):
        for optimizer, row in rows:
            row["passes"].append(one_pass(optimizer, preset(row["preset"]), frames, given))
            row["GFLOP/s"].append(matrix_rate(DTYPES[row["precision"]]))
    for _, row in rows:
        row["with graphs"] = [1 / sum(one.values()) for one in row["passes"]]
        row["structures per CPU-second"] = [1 / (sum(one.values()) - one["graph"]) for one in row["passes"]]
    return [row for _, row in rows]


def edges_per_atom(frames: FrameSet) -> dict[str, float]:
    """As the lead model has them: periodic, not periodic, and both."""
    built = [graphs(frames, [i], preset("lead"), 10**9)[0] for i in range(len(frames))]
    kinds = {"periodic": built[::2], "not periodic": built[1::2], "both": built}
    return {kind: sum(g.n_edges for g in found) / sum(g.n_atoms for g in found) for kind, found in kinds.items()}


def loader_rates(structures: int, given: argparse.Namespace, seconds: float = 2.0) -> list[float]:
    """Structures per CPU-second that the loader makes graphs of for the lead model, from a store, with one thread."""
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        make_store(random_structures(structures, seed=1), Path(folder), workers=1)
        split = AdiosStore(Path(folder) / "store.bp").split("train")
        stream = Stream([split], (0,), Sampler([len(split)], np.array([len(split)])))
        loader = Loader(stream, preset("lead"), BatchConfig(given.batch, max_edges=given.max_edges), threads=1)
        with closing(loader.batches(0)) as batches:  # type: ignore[type-var]
            for _ in range(given.repeats):
                begun, done = process_time(), 0
                while process_time() < begun + seconds:
                    done += sum(part.n_structures for part in next(batches).parts)
                rates.append(done / (process_time() - begun))
    return rates


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median (lowest to highest)."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def show(results: dict[str, Any]) -> None:
    columns = ("× HydraGNN", "with graphs", *PHASES, "GFLOP/s")
    print(f"{'structures/CPU-s; CPU ms per structure':52}", *(f"{name:>11}" for name in columns))
    for row in results["steps"]:
        rate = statistics.median(row["structures per CPU-second"])
        ratio = f"{rate / HYDRAGNN[row['precision']]:.2f}" if row["preset"] == "lead" else "–"
        phases = [f"{1e3 * statistics.median(one[phase] for one in row['passes']):.1f}" for phase in PHASES]
        whole, flops = (statistics.median(row[name]) for name in ("with graphs", "GFLOP/s"))
        name = f"{row['preset']} {row['precision']} {row['gradients']}: {spread(row['structures per CPU-second'])}"
        print(f"{name:52}", *(f"{cell:>11}" for cell in (ratio, f"{whole:.2f}", *phases, f"{flops:.0f}")))
        if row["preset"] == "lead" and (loaded := results["loaded"]):
            print(f"  loader: {spread(loaded, ',.0f')}, {statistics.median(loaded) / rate:.0f} times that")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("structures", 50), ("batch", 25), ("max-edges", 50_000), ("repeats", 5), ("loader", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--precision", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--gradients", nargs="+", default=["exact"], choices=["exact", "differences"])
    parser.add_argument("--presets", nargs="+", default=["lead", "small"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    frames = random_structures(given.structures)
    results: dict[str, Any] = {**vars(given), "json": str(given.json), "HydraGNN": HYDRAGNN}
    results["edges per atom"] = edges_per_atom(frames)
    print(f"{len(frames)} structures in batches of {given.batch}, {frames.offsets[-1]} atoms; edges per atom:")
    print(*(f"  {kind}: {edges:.1f}" for kind, edges in results["edges per atom"].items()))
    results["loaded"] = loader_rates(given.loader, given) if given.loader else []
    results["steps"] = steps(frames, given)
    show(results)
    write(given.json, results)


if __name__ == "__main__":
    main()
