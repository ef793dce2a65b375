"""How many structures per second come out of a store, next to LMDB, .aselmdb and extended XYZ, and does memory grow?

python benchmarks/data_loading.py [--structures 220000] [--folder DIR] [--workers 2] [--repeats 3] [--json FILE]

All formats hold the same random molecules and crystals, and all readers return a FrameSet, which is what training
needs, except where "loose arrays" says that its arrays were not joined. What is written is kept in the folder for the
next run. Files are in the page cache: this measures software, not disks.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from ase.io import read as ase_read
from common import environment, write
from numpy.typing import NDArray

from gfmpot.data import AdiosStore, FrameSet
from gfmpot.data.conversion import Settings, convert
from gfmpot.data.formats.manifest import Description, SplitSettings
from gfmpot.data.frame import Frame
from gfmpot.data.source import build_source
from gfmpot.data.sources._aselmdb import AseLmdb, periodic

BATCH = 32
SLOW = 20_000
"""Structures in the files of slow formats: writing more takes long and changes no rate but that of ase.io.read."""

SECONDS = 1.5
"""Of one measurement."""

Reader = Callable[[NDArray[np.int64]], Any]


def random_structures(n: int) -> FrameSet:
    """2 to 40 atoms on a jittered grid; every other one a crystal with stress."""
    rng = np.random.default_rng(0)
    counts = rng.integers(2, 41, n)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    index = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    grid = np.stack([index % 4, index // 4 % 4, index // 16], axis=1)
    periodic_ones = np.arange(n) % 2 == 0
    return FrameSet(
        "random",
        numbers=rng.choice([1, 6, 7, 8, 14, 26], offsets[-1]),
        positions=1.8 * grid + rng.normal(scale=0.05, size=(offsets[-1], 3)),
        offsets=offsets,
        energy=rng.normal(-100, 10, n),
        forces=rng.normal(size=(offsets[-1], 3)).astype(np.float32).astype(np.float64),
        stress=np.where(periodic_ones[:, None], rng.normal(size=(n, 6)).astype(np.float32), np.nan),
        cell=np.where(periodic_ones[:, None, None], 7.5 * np.eye(3), 0.0),
        pbc=np.repeat(periodic_ones[:, None], 3, axis=1),
        charge=np.zeros(n, dtype=np.int64),
        spin=np.zeros(n, dtype=np.int64),
        group=np.array([f"group-{i // 4}" for i in range(n)]),
    )


def frame(data: FrameSet, i: int) -> dict[str, Any]:
    atoms = slice(data.offsets[i], data.offsets[i + 1])
    per_atom = {name: getattr(data, name)[atoms] for name in ("numbers", "positions", "forces")}
    per_structure = {name: getattr(data, name)[i] for name in ("stress", "cell", "pbc")}
    scalars = {"energy": float(data.energy[i]), "group": str(data.group[i]), "charge": 0, "spin": 0}
    return per_atom | per_structure | scalars


def make_store(data: FrameSet, folder: Path, workers: int) -> float | None:
    """Structures converted per second, unless the store is there already."""
    if (folder / "store.bp").exists():
        return None
    fields = ("numbers", "positions", "energy", "forces", "stress", "cell", "pbc")
    arrays = {name: getattr(data, name) for name in fields}
    labels, group = np.unique(data.group, return_inverse=True)
    np.savez(folder / "store.npz", natoms=data.atoms_per_structure, group=group, group_labels=labels, **arrays)
    about = Description("npz", "random-none", "none")
    start = time.perf_counter()
    settings = Settings(SplitSettings(valid=0.0, test=0.0))
    convert(build_source("npz"), [folder / "store.npz"], folder / "store.bp", about, settings=settings, workers=workers)
    return len(data) / (time.perf_counter() - start)


def make_lmdb(path: Path, values: dict[str, bytes]) -> None:
    if not path.exists():
        with lmdb.open(str(path), subdir=False, map_size=1 << 34) as file, file.begin(write=True) as transaction:
            for key, value in values.items():
                transaction.put(key.encode(), value)


def ase_row(data: FrameSet, i: int) -> bytes:
    """As ase-db-backends writes it."""
    row = {name: value for name, value in frame(data, i).items() if name not in ("group", "charge", "spin")}
    row["stress"] = row["stress"] if np.isfinite(row["stress"]).all() else None
    return zlib.compress(
        json.dumps(row, default=lambda a: {"__ndarray__": [a.shape, str(a.dtype), a.ravel().tolist()]}).encode()
    )


def make_extxyz(data: FrameSet, path: Path) -> None:
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write as ase_write

    frames = []
    for i in range(0 if path.exists() else min(SLOW, len(data))):
        one = frame(data, i)
        atoms = Atoms(one["numbers"], one["positions"], cell=one["cell"], pbc=one["pbc"])
        stress = {"stress": one["stress"]} if one["pbc"].any() else {}
        atoms.calc = SinglePointCalculator(atoms, energy=one["energy"], forces=one["forces"], **stress)
        frames.append(atoms)
    if frames:
        ase_write(path, frames)


def readers(data: FrameSet, folder: Path) -> dict[str, tuple[Reader, int]]:
    """What reads structures at some indices, and how many there are in that file."""
    few = min(SLOW, len(data))
    make_lmdb(folder / "pickles.lmdb", {str(i): pickle.dumps(frame(data, i), 5) for i in range(len(data))})
    rows = {str(i + 1): ase_row(data, i) for i in range(few)} if not (folder / "ase.aselmdb").exists() else {}
    make_lmdb(folder / "ase.aselmdb", {**rows, "nextid": zlib.compress(str(few + 1).encode())})
    make_extxyz(data, folder / "frames.extxyz")
    split = AdiosStore(folder / "store.bp").split("train")
    from_disk = AdiosStore(folder / "store.bp", hold=0).split("train")
    pickles = lmdb.open(str(folder / "pickles.lmdb"), subdir=False, readonly=True, lock=False).begin()
    rows_of, xyz, path = AseLmdb(folder / "ase.aselmdb"), build_source("extxyz"), folder / "frames.extxyz"

    def from_pickles(indices: NDArray[np.int64]) -> FrameSet:
        return FrameSet.from_frames([Frame(**pickle.loads(pickles.get(str(i).encode()))) for i in indices])

    def from_aselmdb(indices: NDArray[np.int64]) -> FrameSet:
        return FrameSet.from_frames([periodic(rows_of.row(i), "", None) for i in indices])

    def from_extxyz(indices: NDArray[np.int64]) -> FrameSet:
        frames = [next(iter(xyz.read(path, int(i), int(i) + 1))) for i in indices]
        return FrameSet.from_frames([f for f in frames if isinstance(f, Frame)])

    return {
        "ADIOS2 store": (split.subset, len(data)),
        "ADIOS2 store, nothing held": (from_disk.subset, len(data)),
        "LMDB of pickles": (from_pickles, len(data)),
        "LMDB of pickles, loose arrays": (
            lambda indices: [pickle.loads(pickles.get(str(i).encode())) for i in indices],
            len(data),
        ),
        ".aselmdb": (from_aselmdb, few),
        "extxyz, indexed": (from_extxyz, few),
        "extxyz, ase.io.read(index)": (lambda indices: [ase_read(path, index=int(i)) for i in indices], few),
    }


def rate(reader: Reader, size: int, batch: int, seed: int) -> float:
    """Structures per second, read at random in batches."""
    rng, done = np.random.default_rng(seed), 0
    start = time.perf_counter()
    while time.perf_counter() < start + SECONDS:
        reader(rng.integers(0, size, batch))
        done += batch
    return done / (time.perf_counter() - start)


def memory_over_an_epoch(folder: Path) -> dict[str, float]:
    """MB held after a twentieth of an epoch of random batches, and the most at any time after that."""
    split = AdiosStore(folder / "store.bp").split("train")
    order = np.random.default_rng(1).permutation(len(split))
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    start, held, early = time.perf_counter(), [], len(batches) // 20
    for number, frames in enumerate(split.prefetch(batches)):
        assert np.isfinite(frames.energy).all()
        if number >= early and number % 100 == 0:
            held.append(resident())
    seconds = time.perf_counter() - start
    growth = max(held) / held[0] - 1
    return {"structures": len(split), "MB": held[0], "growth": growth, "per second": len(split) / seconds}


def graphs(folder: Path) -> float:
    """Structures per second as graphs with a cutoff of 5 Å, read at random in batches, on one core."""
    split = AdiosStore(folder / "store.bp").split("train")

    def build(indices: NDArray[np.int64]) -> list[Any]:
        frames = split.subset(indices)
        return [frames.graph(i, 5.0) for i in range(len(frames))]

    return rate(build, len(split), BATCH, 0)


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=int, default=220_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = arguments.folder or Path(tempfile.gettempdir()) / "gfmpot-data-loading"
    folder.mkdir(parents=True, exist_ok=True)
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    results: dict[str, Any] = {"structures": arguments.structures, "batch": BATCH, "repeats": arguments.repeats}
    data = random_structures(arguments.structures)
    results["converted per second"] = make_store(data, folder, arguments.workers)
    contestants = readers(data, folder)
    del data
    results["epoch"] = memory_over_an_epoch(folder)
    measured: dict[str, dict[str, list[float]]] = {name: {"single": [], "batch": []} for name in contestants}
    for seed in range(arguments.repeats):
        for name, (reader, size) in contestants.items():
            measured[name]["single"].append(rate(reader, size, 1, seed))
            measured[name]["batch"].append(rate(reader, size, BATCH, seed))
    results["per second"] = measured
    results["graphs per second"] = graphs(folder)
    show(results)
    write(arguments.json, results)


def show(results: dict[str, Any]) -> None:
    print(f"\nrandom reads per second, median of {results['repeats']} (lowest to highest)")
    print(f"{'format':30} {'single structures':>28} {f'in batches of {BATCH}':>28}")
    for name, rates in results["per second"].items():
        cells = [f"{statistics.median(r):,.0f} ({min(r):,.0f} to {max(r):,.0f})" for r in rates.values()]
        print(f"{name:30} {cells[0]:>28} {cells[1]:>28}")
    epoch = results["epoch"]
    print(f"epoch: {epoch['structures']:,} structures in random batches at {epoch['per second']:,.0f} per second;")
    print(f"       memory {epoch['MB']:.0f} MB after a twentieth, largest growth from there {epoch['growth']:.2%}")
    print(f"read and built into graphs (5 Å): {results['graphs per second']:,.0f} per second on one core")
    if results["converted per second"]:
        print(f"conversion: {results['converted per second']:,.0f} structures per second")


if __name__ == "__main__":
    main()
