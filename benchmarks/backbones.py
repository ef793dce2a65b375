"""What does each backbone cost, and is it as fast as the original that it follows?

python benchmarks/backbones.py [--hidden 64] [--layers 3] [--repeats 5] [--only NAME ...] [--envs FOLDER] [--json FILE]

Energy and forces, and the gradient of a training step through the forces, of 64 atoms of MgO and of 16 molecules within
5 Å: float32, one thread, CPU time, medians. All have the same width and number of message passes, and else their
defaults. "answer" is what a calculator does, with kernels where there are some, and "plain" the same by PyTorch's
operations; "step" is what training does. Originals get the same edges and sizes, in an environment of their own where
their pins clash (benchmarks/envs/README.md); those that are not installed are left out, and said.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from backbone_references import REFERENCES, median
from common import environment, write

from gfmpot.cli.console import table
from gfmpot.config import to_mapping
from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms
from gfmpot.models import BackboneConfig, PotentialConfig, available_backbones, backbone_class
from gfmpot.models.presets import untrained
from gfmpot.training.loss import LossConfig, loss_sums

CUTOFF = 5.0
ENVIRONMENTS = Path(__file__).resolve().parent / "envs"
OTHER_PYTHON = {"painn": "schnetpack", "mace": "mace"}
"""Environments of originals that cannot be installed beside gfmpot."""

MOLECULES = ("CH3CH2OH", "C6H6", "CH3COOH", "C5H5N", "C3H8", "CH3CONH2", "H2O", "isobutane") * 2


def crystal() -> list[Atoms]:
    """64 atoms, displaced."""
    atoms = bulk("MgO", "rocksalt", 4.21, cubic=True).repeat((2, 2, 2))
    atoms.rattle(0.05, seed=1)
    return [atoms]


def structures() -> dict[str, list[Atoms]]:
    """What is measured on."""
    return {"64 atoms of MgO": crystal(), "16 molecules": [molecule(name) for name in MOLECULES]}


def sized(name: str, hidden: int, layers: int) -> BackboneConfig:
    """A backbone's defaults at a width and depth."""
    return dataclasses.replace(backbone_class(name).Config(cutoff=CUTOFF), hidden=hidden, layers=layers)  # type: ignore[call-arg]


def labelled(graphs: Sequence[AtomGraph]) -> AtomGraph:
    """A batch with labels, which are zero."""
    graph = AtomGraph.batch(graphs)
    energy = torch.zeros(graph.n_structures, dtype=torch.float64)
    branch = torch.zeros(graph.n_structures, dtype=torch.int64)
    forces = energy.new_zeros(graph.n_atoms, 3)
    stress = energy.new_full((graph.n_structures, 6), np.nan)
    return graph.replace(energy=energy, forces=forces, stress=stress, branch=branch)


def ours(config: BackboneConfig, graph: AtomGraph, repeats: int) -> dict[str, float]:
    """Milliseconds of answers and of a training step's gradient."""
    torch.manual_seed(0)
    potential = untrained(PotentialConfig(config, repulsion="none")).float()
    weights = list(potential.backbone.parameters())
    kernels = potential.backbone.kernels(torch.float32)

    def answer(evaluate: Any) -> None:
        fresh = graph.replace(positions=graph.positions.clone())
        potential.labelled(fresh, create_graph=False, evaluate=evaluate)

    def learn() -> None:
        fresh = graph.replace(positions=graph.positions.clone())
        sums = loss_sums(potential.labelled(fresh), fresh, LossConfig(kind="mse"), len(potential.branches))
        torch.autograd.grad(sums.values[:2].sum(), weights, allow_unused=True)

    found = {"parameters": float(sum(p.numel() for p in weights)), "plain": median(lambda: answer(None), repeats)}
    found["answer"] = median(lambda: answer(kernels), repeats) if kernels else found["plain"]
    return found | {"step": median(learn, repeats)}


def original(name: str, config: BackboneConfig, graph: AtomGraph, given: argparse.Namespace) -> dict[str, float] | str:
    """The same of the original, or why not."""
    if name not in REFERENCES:
        return "has no package"
    python = given.envs / OTHER_PYTHON[name] / "bin" / "python" if name in OTHER_PYTHON else Path(sys.executable)
    if not python.exists():
        return f"no environment at {python}"
    arrays = {"numbers": graph.atomic_numbers, "edge_index": graph.edge_index, "shifts": graph.cell_shifts}
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, size=json.dumps(to_mapping(config)), vectors=edge_vectors(graph), **arrays)
        file.flush()
        command = [str(python), str(Path(__file__).with_name("backbone_references.py")), name, file.name]
        trusting = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # e3nn 0.4 keeps its constants in a pickle
        done = subprocess.run([*command, str(given.repeats)], capture_output=True, text=True, check=False, env=trusting)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One backbone, in a process of its own, so that its memory is known."""
    torch.set_num_threads(1)
    config = sized(name, given.hidden, given.layers)
    found: dict[str, Any] = {}
    for what, atoms in structures().items():
        graph = labelled([graph_from_atoms(one, cutoff=CUTOFF) for one in atoms])
        found[what] = {"ours": ours(config, graph, given.repeats), "structures": graph.n_structures}
    found["peak memory (MiB)"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for what, atoms in structures().items():
        graph = labelled([graph_from_atoms(one, cutoff=CUTOFF) for one in atoms])
        found[what]["original"] = original(name, config, graph, given)
    return found


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Both sets of structures."""
    for what in structures():
        lines = []
        for name, row in rows.items():
            own, other = row[what]["ours"], row[what]["original"]
            missing = isinstance(other, str)
            factors = [None if missing else f"{other[key] / own[key]:.1f}" for key in ("answer", "step")]
            numbers = [f"{own[key]:.1f}" for key in ("plain", "answer", "step")]
            rate = [f"{1e3 * row[what]['structures'] / own[key]:.0f}" for key in ("answer", "step")]
            lines.append([name, f"{own['parameters']:,.0f}", *numbers, *rate, *factors])
        heads = ["backbone", "parameters", "plain\n(ms)", "answer\n(ms)", "step\n(ms)", "structures/s", "in training"]
        table([*heads, "answer ×\noriginal", "step ×\noriginal"], lines, what)
    for name, row in rows.items():
        reasons = {row[what]["original"] for what in structures() if isinstance(row[what]["original"], str)}
        print(f"{name}: peak memory {row['peak memory (MiB)']:.0f} MiB", *(f"; original: {r}" for r in reasons))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=64, help="features or channels (64)")
    parser.add_argument("--layers", type=int, default=3, help="message passes (3)")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement, whose median counts (5)")
    known = available_backbones()
    parser.add_argument("--only", nargs="+", default=known, choices=known, help="these backbones (all)")
    environments = "folder of the originals' environments, see benchmarks/envs/README.md"
    parser.add_argument("--envs", type=Path, default=ENVIRONMENTS, help=environments)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--one", choices=available_backbones(), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given)))
        return
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    rows = {}
    for name in given.only:
        done = subprocess.run([sys.executable, *sys.argv, "--one", name], stdout=subprocess.PIPE, text=True, check=True)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
    show(rows)
    write(given.json, {"hidden": given.hidden, "layers": given.layers, "backbones": rows})


if __name__ == "__main__":
    main()
