"""Does reading, writing and all else of `gfmpot screen` cost anything, and do two ranks do twice as much?

python benchmarks/screening.py [--structures 30000] [--repeats 3] [--formats npz extxyz bp] [--data F.npz]
    [--cores 1000000] [--json FILE]

Three rates in memory, by one thread: the model on batches that are there; the same with neighbours to be found; and the
second with neighbours found in a thread of the same process. Against them whole runs of `gfmpot screen` from files to
Parquet, on one rank whose neighbours are found by another process; and one rank against two, each with everything on
one core. Rates are structures per second, of a run from its first block to its last: starting Python and counting
records are not in them. Configurations take turns, so that a machine that slows down hits all alike.

Candidates are strained and shaken cells of rocksalt, zincblende, fcc and of ethanol, 2 to 18 atoms; --data takes a
packed file instead. PROJECTION marks what was not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from common import environment, write

from gfmpot.data import FrameSet
from gfmpot.data.conversion import Settings, convert
from gfmpot.data.formats.manifest import Description, SplitSettings
from gfmpot.data.source import build_source
from gfmpot.inference import Predictor
from gfmpot.inference.screening import formats
from gfmpot.inference.screening.inputs import Blocks, survey
from gfmpot.inference.screening.preparing import Piece, Preparation
from gfmpot.inference.screening.running import answering

BLOCK = 1000
PAPER = 1_100_000_000
"""Structures that the paper screens (§VII-G)."""

Rates = dict[str, list[float]]


def candidates(count: int) -> Iterator[Atoms]:
    """All different."""
    rng = np.random.default_rng(0)
    metals, kinds = ("Mg", "Ca", "Mn", "Fe", "Co", "Ni", "Zn", "Cd"), ("rocksalt", "zincblende", "fcc", "molecule")
    for i in range(count):
        kind, metal = kinds[i % 4], metals[i // 4 % len(metals)]
        if kind == "molecule":
            atoms = molecule("CH3CH2OH")
        else:
            atoms = bulk(metal if kind == "fcc" else f"{metal}O", kind, 3.8 + 0.8 * rng.random())
            atoms = atoms.repeat(rng.integers(1, 4 if kind == "fcc" else 3, size=3).tolist())
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.05 * rng.normal(size=atoms.positions.shape)
        yield atoms


def write_inputs(folder: Path, count: int, data: Path | None, wanted: Sequence[str]) -> dict[str, Path]:
    """The same structures in every format."""
    from ase.io import write as write_atoms

    frames = FrameSet.from_npz(data) if data else FrameSet.from_atoms(candidates(count))
    frames = frames.subset(np.arange(min(count, len(frames))))
    paths = {"npz": folder / "c.npz"}
    names = ("numbers", "positions", "cell", "pbc", "charge", "spin")
    arrays = {name: getattr(frames, name) for name in names}
    np.savez(paths["npz"], natoms=frames.atoms_per_structure, energy=np.zeros(len(frames)), **arrays)
    if "extxyz" in wanted:
        paths["extxyz"] = folder / "c.extxyz"
        spans = [slice(a, b) for a, b in zip(frames.offsets[:-1], frames.offsets[1:], strict=True)]
        write_atoms(
            paths["extxyz"],
            [
                Atoms(frames.numbers[s], frames.positions[s], cell=frames.cell[i], pbc=frames.pbc[i])
                for i, s in enumerate(spans)
            ],
        )
    if "bp" in wanted:
        paths["bp"] = folder / "c.bp"
        settings, about = Settings(split=SplitSettings(0.0, 0.0)), Description("npz", "toy-none", "none")
        convert(build_source("npz"), [paths["npz"]], paths["bp"], about, settings=settings, allow_implausible=True)
    return paths


def in_memory(predictor: Predictor, path: Path) -> dict[str, Callable[[], float]]:
    """What measures each of the rates without files."""
    item = survey(path, "npz", formats.Defaults(), BLOCK)
    preparation = Preparation(
        (item,), formats.Defaults(), predictor.budget, predictor.cutoff, predictor.max_neighbours, answering(predictor)
    )
    blocks = Blocks([item], BLOCK)

    def prepared() -> Iterator[Piece]:
        for number in range(len(blocks)):
            yield from preparation.pieces(blocks[number])

    def rate(pieces: Iterator[Piece]) -> float:
        begun, count = perf_counter(), 0
        for piece in pieces:
            if piece.graph is not None:
                count += len(predictor(piece.graph))
        return count / (perf_counter() - begun)

    ready = list(prepared())
    rate(iter(ready[:2]))  # what happens once, at the first evaluation
    return {
        "model on batches in memory": lambda: rate(iter(ready)),
        "the same, neighbours found first": lambda: rate(prepared()),
        "the same, found in a thread": lambda: rate(in_thread(prepared())),
    }


def in_thread(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Four pieces ahead."""
    waiting: queue.Queue[Piece | None] = queue.Queue(4)

    def work() -> None:
        for piece in pieces:
            waiting.put(piece)
        waiting.put(None)

    threading.Thread(target=work, daemon=True).start()
    while (piece := waiting.get()) is not None:
        yield piece


def screened(path: Path, ranks: int, workers: int, *, pinned: bool) -> float:
    """Rate of whole runs on a number of ranks, each tied to a core of its own or free."""
    with tempfile.TemporaryDirectory() as folder:
        out, cores = Path(folder, "out"), sorted(os.sched_getaffinity(0))
        command = ["screen", str(path), "-o", str(out), "--block-size", str(BLOCK), "-j", str(workers)]
        program = "import os, sys; os.sched_setaffinity(0, {}); from gfmpot.cli import main; main()"
        processes = []
        for rank in range(ranks):
            own = {cores[rank % len(cores)]} if pinned else set(cores)
            places = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
            places |= {"MASTER_ADDR": "localhost", "MASTER_PORT": 29500, "OMP_NUM_THREADS": 1}
            given = {**os.environ, **{name: str(value) for name, value in places.items()}}
            run = [sys.executable, "-c", program.format(own), *command]
            processes.append(subprocess.Popen(run, env=given, stdout=subprocess.DEVNULL))
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit(f"a rank failed: gfmpot {' '.join(command)}")
        report = json.loads((out / "report.json").read_text())
        if report["problems"]:
            raise SystemExit(f"structures are not there exactly once: {report['problems']}")
        return float(report["structures"] / report["seconds"])


def measure(given: argparse.Namespace, folder: Path) -> Rates:
    """All rates, taken in turns."""
    paths = write_inputs(folder, given.structures, given.data, given.formats)
    todo = in_memory(Predictor(device="cpu"), paths["npz"])
    for name in given.formats:
        todo[f"gfmpot screen, {name}"] = lambda path=paths[name]: screened(path, 1, 1, pinned=False)
    for ranks in (1, 2):
        todo[f"{ranks} ranks, a core each"] = lambda ranks=ranks: screened(paths["npz"], ranks, 0, pinned=True)
    rates: Rates = {name: [] for name in todo}
    for _ in range(given.repeats):
        for name, rate in todo.items():
            rates[name].append(rate())
    return rates


def ratios(rates: Rates) -> dict[str, list[float]]:
    """Each rate of a run, turn by turn, over what it is compared with."""
    pure = rates["model on batches in memory"]
    found = {name: [a / b for a, b in zip(rates[name], pure, strict=True)] for name in rates if "screen" in name}
    ranks = (rates["2 ranks, a core each"], rates["1 ranks, a core each"])
    return found | {"2 ranks over 1": [a / b for a, b in zip(*ranks, strict=True)]}


def show(results: dict[str, Any], cores: int) -> None:
    print(f"{'':36} {'structures/s':>24}   over the model in memory")
    for name, values in results["rates"].items():
        ratio = spread(results["ratios"][name], 2) if name in results["ratios"] else ""
        print(f"{name:36} {spread(values, 0):>24}   {ratio}")
    print(f"{'2 ranks over 1':36} {spread(results['ratios']['2 ranks over 1'], 2):>24}")
    print("required: screening at least 0.85 of the model in memory, 2 ranks at least 1.80 times one")
    rate = results["projection"]["structures per core-second"]
    print(f"PROJECTION: {PAPER:,} such structures take {PAPER / rate / 3600:,.0f} core-hours on cores like these")
    print(f"PROJECTION: {PAPER / rate / cores:,.0f} s on {cores:,} of them, if storage and file locks keep up")


def spread(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--formats", nargs="+", default=["npz", "extxyz", "bp"], choices=["npz", "extxyz", "bp"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cores", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        rates = measure(given, folder)
    finally:
        shutil.rmtree(folder)
    per_core = median(rates["2 ranks, a core each"]) / 2
    results = {"rates": rates, "ratios": ratios(rates)}
    results["projection"] = {"PROJECTION": True, "structures": PAPER, "structures per core-second": per_core}
    for name, value in environment().items():
        print(f"{name}: {value}")
    show(results, given.cores)
    write(given.json, results)


if __name__ == "__main__":
    main()
