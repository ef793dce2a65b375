"""How fast are MD steps and batches of single points against other potentials?

python benchmarks/peers.py [--peers NAME ...] [--threads 2] [--rounds 5] [--starts 3] [--steps 20 10 5] [--warm-up 3]
    [--crystal Si] [--timestep 1] [--memory 12] [--clock wall] [--png FILE] [--json FILE]

64, 216 and 864 atoms of a crystal, NVE near 300 K. Every peer has a process of its own, in an environment of its own
(benchmarks/envs/README.md), and all live at once; one computes at a time and they take turns, so that a machine that
slows down hits all alike. In a round all get the same positions, cell, velocities and number of steps; the crystal
lies elsewhere in space than in the round before, so that a neighbour list that is kept is searched once a round, which
is at least as often as in long runs (every 24 steps at 64 atoms). Batches are 64 cells of 8 atoms. On a machine that is
busy otherwise, --clock cpu --threads 1 says more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from common import environment, write
from peer_structures import CRYSTALS, REPEATS, cells, displaced, start_of_run
from peer_tables import Row, draw, show
from peer_workers import PeerError, Worker, interpreter

TWICE = ("gfmpot", "mace")
"""Peers that run in fp64, too."""

NAMES = ("gfmpot", "chgnet", "mace", "torchsim", "sevenn", "orb", "mattersim", "hydragnn")
MISSING = {"hydragnn": "the one release on PyPI, 3.0 of 2023, has neither forces as gradients nor periodic messages"}


def start(given: argparse.Namespace, stack: ExitStack, missing: dict[str, str]) -> list[tuple[Worker, Row]]:
    """A worker for each peer and precision, after ``starts`` starts each in turns; why others are not there goes into
    ``missing``."""
    first, limits = displaced(given.crystal), {"threads": given.threads, "memory": given.memory}
    wanted = [(name, precision) for name in given.peers for precision in ("fp32", "fp64")[: 1 + (name in TWICE)]]
    rows: dict[tuple[str, str], Row] = {key: {"starts (s)": []} for key in wanted}
    workers: dict[tuple[str, str], Worker] = {}
    for _ in range(given.starts):
        for (name, precision), row in rows.items():
            python = interpreter(name)
            if python is None or name in missing:
                missing.setdefault(name, "no environment: see benchmarks/envs/README.md")
                continue
            try:
                worker = Worker(name, precision, python=python, first=first, **limits)
            except PeerError as error:
                missing[name] = str(error)
                continue
            if last := workers.pop((name, precision), None):
                last.close()
            workers[name, precision] = worker
            row["starts (s)"].append(worker.cold)
    for worker in workers.values():
        stack.callback(worker.close)
    return [(worker, rows[key] | worker.about) for key, worker in workers.items()]


def measure(rows: list[tuple[Worker, Row]], given: argparse.Namespace, missing: dict[str, str]) -> None:
    """Everything in turns, first once to warm up; what fails once is not asked again."""
    for worker, row in rows:
        row |= {"ms/step": {size: [] for size in REPEATS}, "structures/s": []}
        starts = [start_of_run(given.crystal, size, 0) for size in REPEATS]
        row["edges"] = dict(zip(REPEATS, worker.ask("edges", starts)["edges"], strict=True))
    for turn in range(given.rounds + 1):
        for size, steps in zip(REPEATS, given.steps, strict=True):
            many = steps if turn else given.warm_up
            asked = {"steps": many, "timestep": given.timestep}
            structure = start_of_run(given.crystal, size, turn)
            for row, seconds in answers(rows, given.clock, missing, f"{size} atoms", "dynamics", [structure], **asked):
                row["ms/step"][size] += [1000 * seconds / (many + 1)] * bool(turn)
        for row, seconds in answers(rows, given.clock, missing, "batches", "many", cells(given.crystal, 64, turn)):
            row["structures/s"] += [64 / seconds] * bool(turn)


def answers(
    rows: list[tuple[Worker, Row]], clock: str, missing: dict[str, str], what: str, *question: Any, **details: Any
) -> Iterator[tuple[Row, float]]:
    """Seconds of each peer."""
    for worker, row in rows:
        if (label := f"{worker.label}, {what}") in missing:
            continue
        time.sleep(0.1)  # threads of the last one may spin for a while
        try:
            yield row, worker.ask(*question, **details)[clock]
        except PeerError as error:
            missing[label] = str(error)


def force_errors(rows: list[tuple[Worker, Row]]) -> None:
    """Of fp32 against the same model in fp64: largest, eV/Å, and relative to the largest force."""
    exact = {worker.label.split()[0]: worker.forces for worker, _ in rows if worker.label.endswith("fp64")}
    for worker, row in rows:
        name, precision = worker.label.split()
        if name in exact and precision == "fp32":
            row["force error (eV/Å)"] = float(np.abs(worker.forces - exact[name]).max())
            row["relative force error"] = row["force error (eV/Å)"] / float(np.abs(exact[name]).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="+", default=NAMES, choices=(*NAMES, "emt"), help="only these (all but emt)")
    parser.add_argument("--threads", type=int, default=2, help="of each peer (2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each peer that count (5)")
    parser.add_argument("--starts", type=int, default=3, help="starts of each process, to time them (3)")
    parser.add_argument("--warm-up", type=int, default=3, help="steps of dynamics that do not count (3)")
    sizes = "steps of dynamics in a round, for 64, 216 and 864 atoms (20 10 5)"
    parser.add_argument("--steps", type=int, nargs=3, default=[20, 10, 5], metavar="N", help=sizes)
    parser.add_argument("--crystal", default="Si", choices=CRYSTALS, help="what is run (Si)")
    parser.add_argument("--timestep", type=float, default=1.0, help="fs (1)")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB that each process may take (12)")
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="what is measured (wall)")
    parser.add_argument("--png", type=Path, help="a plot of the results")
    parser.add_argument("--json", type=Path, help="file for the results")
    given = parser.parse_args()
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    missing = {name: MISSING[name] for name in given.peers if name in MISSING}
    with ExitStack() as stack:
        found = start(given, stack, missing)
        measure(found, given, missing)
        force_errors(found)
    rows = {worker.label: row for worker, row in found}
    show(rows, missing)
    if given.png:
        draw(rows, given.png)
    settings = {name: value for name, value in vars(given).items() if name not in ("json", "png")}
    write(given.json, {"settings": settings, "peers": rows, "not measured": missing})


if __name__ == "__main__":
    main()
