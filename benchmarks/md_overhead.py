"""What does a calculator cost beside its network, and does a long run grow in time or memory?

python benchmarks/md_overhead.py [--steps 20000] [--block 500] [--atoms 64] [--crystal MgO] [--precision fp32]
    [--threads 2] [--warm-up 500] [--png FILE] [--json FILE]

One NVE run through plain ASE. Of each step three times are taken: of the network (a call of the potential: edge
vectors to energies, forces and stress), of the calculator (``calculate``: neighbour list, graph, network, results) and
of the whole step (ASE's integrator, too); medians are over all steps after the warm-up. Growth is that from the first
to the last quarter of the blocks: of resident memory, and of the time that the fastest tenth of a block's steps stays
below, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from ase import units
from ase.md.verlet import VelocityVerlet
from common import environment, write
from peer_structures import CRYSTALS, REPEATS, start_of_run

from gfmpot import GFMCalculator
from gfmpot.training.report_style import MAIN, panels, step_axis, style

LIMIT = 0.15
"""Of a calculator's time that may be spent outside the network."""


class TimedCalculator(GFMCalculator):
    """Adds up the seconds of ``calculate`` and, within them, of the network."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seconds = self.network = self._begun = 0.0
        self.potential.register_forward_pre_hook(lambda *_: self._enter())
        self.potential.register_forward_hook(lambda *_: self._leave())

    def calculate(self, *arguments: Any, **keywords: Any) -> None:
        """As that of the class."""
        begun = perf_counter()
        super().calculate(*arguments, **keywords)
        self.seconds += perf_counter() - begun

    def _enter(self) -> None:
        self._begun = perf_counter()

    def _leave(self) -> None:
        self.network += perf_counter() - self._begun


def run(given: argparse.Namespace) -> dict[str, list[float]]:
    """ms of each step and MiB of resident memory after each block."""
    atoms = start_of_run(given.crystal, given.atoms, seed=0)
    atoms.calc = calculator = TimedCalculator(precision=given.precision, device="cpu")
    dynamics = VelocityVerlet(atoms, units.fs)
    dynamics.run(given.warm_up)
    times, memory = np.empty((given.steps, 3)), []
    for i in range(given.steps):
        calculator.seconds = calculator.network = 0.0
        begun = perf_counter()
        dynamics.run(1)
        times[i] = perf_counter() - begun, calculator.seconds, calculator.network
        if (i + 1) % given.block == 0:
            memory.append(resident())
    step, inside, network = (1000 * times).T.tolist()
    return {"step": step, "calculator": inside, "network": network, "memory": memory}


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
        "ms/step": float(np.median(step)),
        "calculator (ms)": float(np.median(inside)),
        "network (ms)": float(np.median(network)),
        "calculator outside the network": float(np.median(1 - network / inside)),
        "step outside the network": float(np.median(1 - network / step)),
        "growth of time": growth(blocks) / median(blocks),
        "growth of memory (MiB)": growth(measured["memory"]),
        "blocks (ms/step)": blocks,
        "blocks (MiB)": measured["memory"],
    }


def show(found: dict[str, Any], given: argparse.Namespace) -> None:
    print(f"{given.crystal}, {given.atoms} atoms, {given.precision}, {given.steps:,} steps: median of a step")
    print("  whole {ms/step:.2f} ms, calculator {calculator (ms):.2f}, network {network (ms):.2f}".format(**found))
    share, whole = found["calculator outside the network"], found["step outside the network"]
    print(f"  outside the network: {share:.1%} of the calculator (limit {LIMIT:.0%}), {whole:.1%} of the step")
    print("  growth: {growth of time:+.1%} of time, {growth of memory (MiB):+.1f} MiB".format(**found))


def draw(found: dict[str, Any], block: int, path: Path) -> None:
    """Time and memory by blocks."""
    steps = block * np.arange(1, len(found["blocks (MiB)"]) + 1)
    with style():
        figure, axes = panels(2, 2, 2.6)
        for axis, unit, title in zip(
            axes, ("ms/step", "MiB"), ("Time of a step, fastest tenth", "Resident memory"), strict=True
        ):
            axis.plot(steps, found[f"blocks ({unit})"], color=MAIN)
            axis.set(title=f"{title} ({unit.split('/')[0]})", xlabel="step")
            axis.set_ylim(0, 1.3 * max(found[f"blocks ({unit})"]))
            step_axis(axis)
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("steps", 20_000), ("block", 500), ("threads", 2), ("warm-up", 500)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--atoms", type=int, default=64, choices=REPEATS)
    parser.add_argument("--crystal", default="MgO", choices=CRYSTALS)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp64", "bf16"))
    parser.add_argument("--png", type=Path)
    parser.add_argument("--json", type=Path)
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
