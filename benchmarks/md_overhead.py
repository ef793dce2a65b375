"""What does a calculator cost beside its network, and does a long run grow in time or memory?

python benchmarks/md_overhead.py [--steps 20000] [--block 500] [--atoms 64] [--crystal MgO] [--precision fp32]
    [--threads 2] [--warm-up 500] [--clock wall] [--png FILE] [--json FILE]

One NVE run through plain ASE. Of each step three times are taken: of the network (a call of the potential: edge
vectors to energies, forces and stress), of the calculator (``calculate``: neighbour list, graph, network, results) and
of the whole step (ASE's integrator, too); medians are over all steps after the warm-up. Growth is that from the first
to the last quarter of the blocks: of resident memory, and of the time that the fastest tenth of a block's steps stays
below, which other programs disturb least. On a machine that is busy otherwise, --clock cpu --threads 1 says more.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from ase import units
from ase.md.verlet import VelocityVerlet
from common import environment, write
from peer_structures import CRYSTALS, REPEATS, start_of_run

from gfmpot import GFMCalculator
from gfmpot.training.report_style import MAIN, panels, step_axis, style

CLOCKS = {"wall": perf_counter, "cpu": process_time}


class TimedCalculator(GFMCalculator):
    """Adds up the seconds of ``calculate`` and, within them, of the network."""

    def __init__(self, clock: Callable[[], float], **options: Any) -> None:
        super().__init__(**options)
        self.clock = clock
        self.seconds = self.network = self._begun = 0.0
        self.potential.register_forward_pre_hook(self._enter)
        self.potential.register_forward_hook(self._leave)

    def calculate(self, *arguments: Any, **keywords: Any) -> None:
        """As that of the class."""
        begun = self.clock()
        super().calculate(*arguments, **keywords)
        self.seconds += self.clock() - begun

    def _enter(self, *_: Any) -> None:
        self._begun = self.clock()

    def _leave(self, *_: Any) -> None:
        self.network += self.clock() - self._begun


def run(given: argparse.Namespace) -> dict[str, list[float]]:
    """ms of each step and MiB of resident memory after each block."""
    atoms, clock = start_of_run(given.crystal, given.atoms, seed=0), CLOCKS[given.clock]
    atoms.calc = calculator = TimedCalculator(clock, precision=given.precision, device="cpu")
    dynamics = VelocityVerlet(atoms, units.fs)
    dynamics.run(given.warm_up)
    times, memory = np.empty((given.steps + 1, 3)), []
    begun = clock()
    for i, _ in enumerate(dynamics.irun(given.steps)):  # first it shows the start
        times[i] = clock() - begun, calculator.seconds, calculator.network
        if i and i % given.block == 0:
            memory.append(resident())
        calculator.seconds = calculator.network = 0.0
        begun = clock()
    times = 1000 * times[1:]
    return {**dict(zip(("step", "calculator", "network"), times.T.tolist(), strict=True)), "memory": memory}


def resident() -> float:
    """MiB of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(blocks: list[float]) -> float:
    """From the first to the last quarter, by medians."""
    quarter = max(1, len(blocks) // 4)
    return median(blocks[-quarter:]) - median(blocks[:quarter])


def summary(measured: dict[str, list[float]], block: int) -> dict[str, Any]:
    """Medians, shares and growths."""
    step, inside, network = (np.array(measured[name]) for name in ("step", "calculator", "network"))
    blocks = np.quantile(step[: len(measured["memory"]) * block].reshape(-1, block), 0.1, axis=1).tolist()
    return {
        "ms/step": median(step.tolist()),
        "calculator (ms)": median(inside.tolist()),
        "network (ms)": median(network.tolist()),
        "calculator outside the network": median((1 - network / inside).tolist()),
        "step outside the network": median((1 - network / step).tolist()),
        "growth of time": growth(blocks) / median(blocks),
        "growth of memory (MiB)": growth(measured["memory"]),
        "blocks (ms/step)": blocks,
        "blocks (MiB)": measured["memory"],
    }


def show(found: dict[str, Any], given: argparse.Namespace) -> None:
    print(f"{given.crystal}, {given.atoms} atoms, {given.precision}, {given.steps:,} steps: median of a step")
    print("  whole {ms/step:.2f} ms, calculator {calculator (ms):.2f}, network {network (ms):.2f}".format(**found))
    share, whole = found["calculator outside the network"], found["step outside the network"]
    print(f"  outside the network: {share:.1%} of the calculator (limit 15 %), {whole:.1%} of the step")
    print("  growth: {growth of time:+.1%} of time, {growth of memory (MiB):+.1f} MiB".format(**found))


def draw(found: dict[str, Any], block: int, path: Path) -> None:
    """Time and memory by blocks."""
    steps = block * np.arange(1, len(found["blocks (MiB)"]) + 1)
    with style():
        figure, axes = panels(2, 2, 2.6)
        titles = {"blocks (ms/step)": "Time of a step, fastest tenth (ms)", "blocks (MiB)": "Resident memory (MiB)"}
        for axis, (name, title) in zip(axes, titles.items(), strict=True):
            axis.plot(steps, found[name], color=MAIN)
            axis.set(title=title, xlabel="step", ylim=(0, 1.3 * max(found[name])))
            step_axis(axis)
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("steps", 20_000), ("block", 500), ("threads", 2), ("warm-up", 500)):
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, first, values in (("atoms", 64, REPEATS), ("crystal", "MgO", CRYSTALS), ("clock", "wall", CLOCKS)):
        parser.add_argument(f"--{name}", type=type(first), default=first, choices=values)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp64", "bf16"))
    for name in ("png", "json"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    if given.steps < given.block:
        parser.error(f"--steps: got {given.steps}, expected at least a block of {given.block}")
    torch.set_num_threads(given.threads)
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    found = summary(run(given), given.block)
    show(found, given)
    if given.png:
        draw(found, given.block, given.png)
    write(given.json, {name: value for name, value in vars(given).items() if name not in ("json", "png")} | found)


if __name__ == "__main__":
    main()
