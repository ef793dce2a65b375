"""How much faster than one pass per branch is the fast path, rung by rung (the paper's Table XV), and how near to the
machine's own rate of matrix products?

python benchmarks/inference_ladder.py [--structures 24] [--batch 8] [--repeats 3] [--precision fp64 fp32 bf16]
    [--models lead lead-uncapped lead-atomwise default] [--rungs naive ... gfmpot] [--json FILE]

The workload: structures of 2 to 500 atoms, uniform, every other one periodic, at densities of 0.02 to 0.06 atoms/Å³
(training_step.py). ``lead`` has the paper's readout and its cap of 20 neighbours; the other models lift one or the
other. Weights of the 16 branches are fixed, 13 of them (81 %) negligible. Rungs take turns, batch by batch, so that a
machine that slows down hits all alike. Figures are by the wall clock; the naive rung runs on the first batches only,
as many as ``--naive`` says, and is compared with the others on these.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from common import environment, write
from flops import flops
from ladder_rungs import RUNGS, Answer, Ladder
from training_step import matrix_rate, random_structures

from gfmpot.data import FrameSet
from gfmpot.graph import AtomGraph
from gfmpot.models import Potential, load
from gfmpot.models.presets import preset, untrained

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
SLOW = ("naive", "encoder reuse")


def model(name: str) -> Potential:
    """The embedded model, or a shape with fresh weights."""
    if name == "default":
        return load()
    config = preset("lead")
    if name == "lead-uncapped":
        config = dataclasses.replace(config, max_neighbours=None)
    elif name == "lead-atomwise":
        config = dataclasses.replace(config, head=dataclasses.replace(config.head, readout="atomwise"))
    elif name != "lead":
        raise SystemExit(f"no model {name!r}: lead, lead-uncapped, lead-atomwise, default")
    torch.manual_seed(0)
    return untrained(config)


def batches(frames: FrameSet, potential: Potential, size: int) -> tuple[list[AtomGraph], float]:
    """Batches of structures without labels, and the seconds that building one structure takes."""
    begun, unlabelled = perf_counter(), {"branch": None, "energy": None, "forces": None, "stress": None}
    cap = potential.config.max_neighbours
    graphs = [frames.graph(i, potential.cutoff, 0, cap).replace(**unlabelled) for i in range(len(frames))]
    seconds = (perf_counter() - begun) / len(graphs)
    return [AtomGraph.batch(graphs[i : i + size]) for i in range(0, len(graphs), size)], seconds


def difference(a: Answer, b: Answer) -> dict[str, float]:
    """The largest difference of energies (relative) and of forces (of the largest force, or 1 eV/Å)."""
    energy = float(((a.energy - b.energy) / b.energy.abs().clamp(min=1.0)).abs().max())
    forces = float((a.forces - b.forces).abs().max()) / max(1.0, float(b.forces.abs().max()))
    return {"dE": energy, "dF": forces}


def climb(ladder: Ladder, work: Sequence[AtomGraph], given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Seconds of each rung on each batch, and how its answer differs from that of the plain fused gradient."""
    rows: dict[str, dict[str, Any]] = {
        rung: {"seconds": [[] for _ in work], "dE": 0.0, "dF": 0.0} for rung in given.rungs
    }
    for rung in given.rungs:  # compilers and caches warm up
        if rung not in SLOW:
            ladder(rung, work[0])
    for repeat in range(given.repeats):
        for i, batch in enumerate(work):
            reference = ladder("fused gradient", batch)
            for rung, row in rows.items():
                if rung in SLOW and (i >= given.naive or repeat > 0):
                    continue
                begun = perf_counter()
                answer = ladder(rung, batch)
                row["seconds"][i].append(perf_counter() - begun)
                for name, value in difference(answer, reference).items():
                    row[name] = max(row[name], value)
    return rows


def measure(name: str, precision: str, frames: FrameSet, given: argparse.Namespace) -> dict[str, Any]:
    """All rungs of one model in one precision."""
    potential = model(name)
    work, building = batches(frames, potential, given.batch)
    ladder = Ladder(potential, precision)
    rows = climb(ladder, work, given)
    rate = statistics.median(matrix_rate(DTYPES[precision]) * 1e9 for _ in range(3))
    operations = [flops(ladder.fast.potential, batch) for batch in work]
    common = range(min(given.naive, len(work)))
    for row in rows.values():
        medians = [statistics.median(times) if times else None for times in row.pop("seconds")]
        done = [i for i, seconds in enumerate(medians) if seconds is not None]
        seconds = sum(medians[i] for i in done)  # type: ignore[misc]
        row["structures/s"] = sum(work[i].n_structures for i in done) / seconds
        row["with building"] = 1 / (1 / row["structures/s"] + building)
        row["atoms/s"] = sum(work[i].n_atoms for i in done) / seconds
        row["common"] = sum(medians[i] for i in common)  # type: ignore[misc]
        row["GFLOP/s"] = sum(operations[i] for i in done) / seconds / 1e9
        row["of matrix rate"] = row["GFLOP/s"] * 1e9 / rate
    first = next(iter(rows.values()))["common"]
    for row in rows.values():
        row["speed-up"] = first / row.pop("common")
    counts = {"structures": len(frames), "atoms": sum(b.n_atoms for b in work), "edges": sum(b.n_edges for b in work)}
    return {
        "model": name,
        "precision": precision,
        **counts,
        "matrix GFLOP/s": rate / 1e9,
        "building s": building,
        "rungs": rows,
    }


def show(result: dict[str, Any]) -> None:
    """One table."""
    print(
        f"\n{result['model']}, {result['precision']}: {result['structures']} structures, {result['atoms']} atoms, "
        f"{result['edges']} edges; matrix products {result['matrix GFLOP/s']:.0f} GFLOP/s, "
        f"building {1e3 * result['building s']:.2f} ms a structure"
    )
    print(f"{'':15} structures/s  with building    atoms/s  speed-up  GFLOP/s  of matrix rate       dE       dF")
    for rung, row in result["rungs"].items():
        counted = f"{row['GFLOP/s']:8.1f} {100 * row['of matrix rate']:14.0f} %" if rung == "gfmpot" else " " * 25
        print(
            f"{rung:15} {row['structures/s']:12.3f} {row['with building']:14.3f} {row['atoms/s']:10.0f} "
            f"{row['speed-up']:9.1f} {counted} {row['dE']:8.1e} {row['dF']:8.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--naive", type=int, default=1, help="batches for the slow rungs")
    parser.add_argument("--precision", nargs="+", default=["fp64", "fp32", "bf16"], choices=DTYPES)
    parser.add_argument("--models", nargs="+", default=["lead", "lead-uncapped", "lead-atomwise", "default"])
    parser.add_argument("--rungs", nargs="+", default=list(RUNGS), choices=RUNGS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message="this model keeps only")
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    frames, results = random_structures(given.structures), []
    for name in given.models:
        for precision in given.precision:
            results.append(measure(name, precision, frames, given))
            show(results[-1])
    write(given.json, {"ladder": results})


if __name__ == "__main__":
    main()
