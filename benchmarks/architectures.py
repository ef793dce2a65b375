"""Which width, depth, cutoff, basis and readout give the smallest errors for the same training, and at what cost?

python benchmarks/architectures.py --data STORES [--minutes 4] [--variants NAME ...] [--together 2] [--json FILE]
    [--plot FILE]

With --json, the same command goes on after a kill.

Every variant trains on the same two branches (crystals and molecules) for as many CPU minutes, on one thread, by a
whole schedule as the embedded model's; errors are those of held-out groups. What a step costs is measured for all of
them first and says how many each gets, so that a machine that slows down later favours none. The cost is a step of
dynamics: energy, forces and stress of 64 atoms of MgO in float32 on one thread, all branches included, neighbours not.
Stores are those of ``recipes/pretrain_default.py``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from ase.build import bulk
from common import environment, write

from gfmpot.config import from_mapping
from gfmpot.graph import graph_from_atoms
from gfmpot.inference import Predictor
from gfmpot.training.config import TrainConfig
from gfmpot.training.report_style import CYCLE, MAIN, panels, style
from gfmpot.training.trainer import Trainer

BASE = {
    "name": "painn",
    "cutoff": 5.0,
    "mean_neighbours": 40.0,
    "hidden": 128,
    "layers": 3,
    "radial_basis": 16,
    "distance_transform": "both",
}
HEAD = {"readout": "atomwise", "shared_layers": 0, "branch_layers": 1, "branch_width": 64}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "hidden 64": ({"hidden": 64}, {}),
    "hidden 96": ({"hidden": 96}, {}),
    "hidden 192": ({"hidden": 192}, {}),
    "2 layers": ({"layers": 2}, {}),
    "4 layers": ({"layers": 4}, {}),
    "cutoff 4": ({"cutoff": 4.0, "mean_neighbours": 20.0}, {}),
    "cutoff 6": ({"cutoff": 6.0, "mean_neighbours": 65.0}, {}),
    "basis 8": ({"radial_basis": 8}, {}),
    "basis 24": ({"radial_basis": 24}, {}),
    "lengths": ({"distance_transform": "none"}, {}),
    "relative lengths": ({"distance_transform": "agnesi"}, {}),
    "head 2 × 64": ({}, {"branch_layers": 2}),
    "graph readout": ({}, {"readout": "graph"}),
}
BRANCHES = {"crystals": ("chgnet_pbe_u.bp", 0.65), "molecules": ("molecules_gfn2.bp", 0.35)}
PILOTS = (20, 80)
"""Steps of two short runs that tell what a step costs, and what validation does besides."""


def run(name: str, steps: int) -> TrainConfig:
    """A variant's training run."""
    backbone, head = VARIANTS[name]
    branches = [{"files": [file], "name": branch, "share": share} for branch, (file, share) in BRANCHES.items()]
    settings = {
        "model": {"backbone": {**BASE, **backbone}, "head": {**HEAD, **head}, "repulsion": "zbl"},
        "branches": branches,
        "steps": steps,
        "batch": {"structures": 32, "max_edges": 40_000},  # early on, many small steps learn more than few large ones
        "sampling": {"balance": "shares"},
        "loss": {"energy": 4.0, "forces": 1.0, "stress": 20.0},
        "optim": {
            "method": "muon",
            "matrix_learning_rate": 4e-3,
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
            "warmup_steps": min(200, steps // 4),
            "ema": 0.99,
        },
        "gradients": "differences",
        "reading": {"threads": 1, "kept_graphs": 250_000},
        "validate_every": 10**6,
        "checkpoint_minutes": 1e6,
        "validation_structures": 400,
        "seed": 1,
    }
    return from_mapping(TrainConfig, settings)


def train(name: str, stores: Path, steps: int) -> tuple[Trainer, float]:
    """After ``steps``; and the CPU seconds that they took, with those of validation at the end."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(run(name, steps), stores, Path(folder))
        begun = process_time()
        trainer.fit()
        return trainer, process_time() - begun


def price(name: str, stores: Path) -> float:
    """CPU seconds of one step of training."""
    few, many = (train(name, stores, steps)[1] for steps in PILOTS)
    return (many - few) / (PILOTS[1] - PILOTS[0])


def milliseconds(name: str, stores: Path, repeats: int = 30) -> float:
    """Of a step of dynamics."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        potential = Trainer(run(name, 1), stores, Path(folder)).potential
    graph = graph_from_atoms(bulk("MgO", "rocksalt", 4.21, cubic=True) * 2, cutoff=potential.cutoff)
    predictor, times = Predictor(potential), []
    for _ in range(repeats):
        moved = graph.replace(positions=graph.positions.clone())
        begun = perf_counter()
        predictor(moved)
        times.append(1e3 * (perf_counter() - begun))
    return float(np.median(times))


def measure(name: str, stores: Path, steps: int) -> dict[str, Any]:
    """One variant."""
    trainer, seconds = train(name, stores, steps)
    return {
        "variant": name,
        "steps": steps,
        "cpu_minutes": seconds / 60,
        "backbone_parameters": sum(p.numel() for p in trainer.potential.backbone.parameters()),
        **trainer.validate(),
    }


def all_of(names: list[str], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every variant in a process of its own, some at a time; what the JSON file has is not repeated."""
    done = earlier(given)
    new = [name for name in names if name not in done["costs"]]
    times = {name: milliseconds(name, given.data) for name in new}  # before others compute
    for name, seconds in apart(new, given, lambda _: ["--price"]):
        done["costs"][name] = {"seconds_per_training_step": seconds, "ms_per_step": times[name]}
        print(f"{name:16} {seconds:.3f} s per training step, {times[name]:.2f} ms per step of dynamics", flush=True)
        write(given.json, done)
    for row in done["variants"]:
        show(row)

    def steps(name: str) -> list[str]:
        return ["--steps", str(int(60 * given.minutes / done["costs"][name]["seconds_per_training_step"]))]

    left = [name for name in names if name not in {row["variant"] for row in done["variants"]}]
    for name, row in apart(left, given, steps):
        done["variants"].append({**row, "ms_per_step": done["costs"][name]["ms_per_step"]})
        show(done["variants"][-1])
        write(given.json, done)
    rows: list[dict[str, Any]] = done["variants"]
    return rows


def apart(
    names: list[str], given: argparse.Namespace, options: Callable[[str], list[str]]
) -> Iterator[tuple[str, Any]]:
    """What this program says of each variant in a process of its own, ``given.together`` at a time."""
    for first in range(0, len(names), given.together):
        group = names[first : first + given.together]
        command = [sys.executable, __file__, "--data", str(given.data)]
        jobs = [
            subprocess.Popen([*command, "--one", name, *options(name)], stdout=subprocess.PIPE, text=True)
            for name in group
        ]
        for name, job in zip(group, jobs, strict=True):
            out, _ = job.communicate()
            if job.returncode:
                raise SystemExit(f"{name} failed with exit code {job.returncode}")
            yield name, json.loads(out.splitlines()[-1])


def earlier(given: argparse.Namespace) -> dict[str, Any]:
    """What a run that was stopped has left."""
    if given.json is None or not given.json.exists():
        return {"minutes": given.minutes, "costs": {}, "variants": []}
    before: dict[str, Any] = json.loads(given.json.read_text())
    if before["minutes"] != given.minutes or "costs" not in before:
        raise SystemExit(f"{given.json} is of other work ({before['minutes']:g} minutes each): give another file")
    return {key: before[key] for key in ("minutes", "costs", "variants")}


def show(row: dict[str, Any]) -> None:
    errors = [
        f"{branch} {100 * row[branch]['forces_relative']:5.1f} %, {1e3 * row[branch]['energy_mae']:6.1f} meV/atom"
        for branch in BRANCHES
    ]
    cost = f"{row['backbone_parameters']:9,d} parameters, {row['ms_per_step']:5.2f} ms, {row['steps']:5d} steps"
    print(f"{row['variant']:14} {cost}; {'; '.join(errors)}", flush=True)


SIDES = ((0, 6, "center", "bottom"), (0, -6, "center", "top"), (7, 0, "left", "center"), (-7, 0, "right", "center"))
"""Of a point, where its name may stand: points of the page, and how the text is aligned to them."""


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Errors over cost, one panel per branch."""
    with style():
        figure, axes = panels(len(BRANCHES), len(BRANCHES), 3.6)
        for axis, branch in zip(axes, BRANCHES, strict=True):
            points = {row["variant"]: (row["ms_per_step"], 100 * row[branch]["forces_relative"]) for row in rows}
            for name, at in points.items():
                axis.plot(*at, "o", color=CYCLE[1] if name == "default" else MAIN)
            axis.set(xlabel="ms per step of 64 atoms", ylabel="force error (% of the mean force)", title=branch)
            axis.margins(0.15)
            name_points(axis, points)
        figure.savefig(path)


def name_points(axis: Any, points: dict[str, tuple[float, float]]) -> None:
    """Names beside their points, on the first side where they cover nothing, if there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(axis.figure).draw()  # or places on the page are not known
    dots = axis.transData.transform(list(points.values()))
    taken: list[Any] = []
    for name, at in points.items():
        for x, y, across, up in SIDES:
            text = axis.annotate(name, at, (x, y), textcoords="offset points", ha=across, va=up, fontsize=8)
            box = text.get_window_extent().padded(1)
            free = not any(box.contains(*dot) for dot in dots) and not any(map(box.overlaps, taken))
            if free or (x, y, across, up) == SIDES[-1]:
                break
            text.remove()
        taken.append(box)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="STORES", help="folder of stores")
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, for each (4)")
    names = f"of {'; '.join(VARIANTS)} (all)"
    parser.add_argument(
        "--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME", help=names
    )
    parser.add_argument("--together", type=int, default=2, help="processes at a time")
    parser.add_argument("--one", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--price", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    missing = [str(given.data / file) for file, _ in BRANCHES.values() if not (given.data / file).exists()]
    if missing:
        sys.exit(f"error: no {', '.join(missing)}; recipes/pretrain_default.py makes these stores, in FOLDER/stores")
    if given.one:
        one = price(given.one, given.data) if given.price else measure(given.one, given.data, given.steps)
        print(json.dumps(one))
        return
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    rows = all_of(given.variants, given)
    if given.plot:
        draw(rows, given.plot)


if __name__ == "__main__":
    main()
