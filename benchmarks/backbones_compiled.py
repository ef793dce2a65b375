"""Does TorchInductor compile each backbone, does it give the same numbers, and is it faster than plain operations?

python benchmarks/backbones_compiled.py [--hidden 64] [--layers 3] [--repeats 5] [--only NAME ...] [--json FILE]

What a calculator with ``compile=True`` evaluates (energies of two branches, forces, stress), on the structures of
``benchmarks/backbones.py``: float32, one thread, CPU time, medians. Nothing compiled before is used. "compile" is the
CPU time of tracing, of the compiler and of all that it starts. "differs" is the largest difference of a force from that
by plain operations, in units of the largest force.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from backbone_references import median
from backbones import CUTOFF, sized, structures
from common import environment, write

from gfmpot.cli.console import table
from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.inference import Predictor
from gfmpot.models import BackboneConfig, available_backbones
from gfmpot.testing import random_potential


def graphs() -> dict[str, AtomGraph]:
    """What is measured on."""
    return {
        name: AtomGraph.batch([graph_from_atoms(one, cutoff=CUTOFF) for one in atoms])
        for name, atoms in structures().items()
    }


def measure(config: BackboneConfig, repeats: int) -> dict[str, Any]:
    """Seconds to compile, milliseconds of an evaluation each way, and the largest difference."""
    potential = random_potential(config)
    plain, compiled = (
        Predictor(potential, precision="fp32", device="cpu", kernels=False, compile=how) for how in (False, True)
    )
    begun = seconds()
    compiled(next(iter(graphs().values())))
    found: dict[str, Any] = {"path": compiled.path, "compile (s)": seconds() - begun}
    for name, graph in graphs().items():
        found[name] = {
            "plain": median(partial(plain, graph), repeats),
            "compiled": median(partial(compiled, graph), repeats),
            "differs": difference(plain, compiled, graph),
        }
    return found


def difference(one: Predictor, other: Predictor, graph: AtomGraph) -> float:
    """Of any force, in units of the largest force."""
    first, second = (np.concatenate([answer["forces"] for answer in predictor(graph)]) for predictor in (one, other))
    return float(np.abs(first - second).max() / np.abs(first).max())


def seconds() -> float:
    """CPU time of this process and of those it started and waited for."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, who))


def show(rows: dict[str, dict[str, Any]]) -> None:
    """One line per backbone."""
    lines = []
    for name, row in rows.items():
        times = [row[what] for what in structures()]
        numbers = [(f"{t['plain']:.1f}", f"{t['compiled']:.1f}", f"{t['plain'] / t['compiled']:.1f}") for t in times]
        differs = max(t["differs"] for t in times)
        lines.append([name, row["path"], f"{row['compile (s)']:.0f}", *itertools.chain(*numbers), f"{differs:.0e}"])
    measured = [f"{key}\n{what}" for what in structures() for key in ("plain (ms)", "compiled (ms)", "×")]
    table(["backbone", "path", "compile (s)", *measured, "differs"], lines, "compiled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=available_backbones(), choices=available_backbones())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    rows = {}
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= {"GFMPOT_CACHE": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
            rows[name] = measure(sized(name, given.hidden, given.layers), given.repeats)
        show({name: rows[name]})
    show(rows)
    write(given.json, {"hidden": given.hidden, "layers": given.layers, "backbones": rows})


if __name__ == "__main__":
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # helpers would be waited for at the end of the process only
    main()
