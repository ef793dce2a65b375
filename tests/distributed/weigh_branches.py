"""Run by any number of ranks: alignment, branch weights and a finished model, written by each rank as JSON.

The folder on the command line has packed data, and gets ``rank<n>-of-<ranks>.json`` and what the trainer writes.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gradients import potential, structure

from gfmpot.config import from_mapping, to_mapping
from gfmpot.graph import AtomGraph
from gfmpot.models.potential import rebuilt
from gfmpot.ranks.launch import Launch, session
from gfmpot.training.alignment import fit_alignment
from gfmpot.training.branch_weights import WeightConfig, train_branch_weights
from gfmpot.training.config import TrainConfig
from gfmpot.training.finish import finish, with_alignment
from gfmpot.training.trainer import Trainer

NAMES = ("one", "two", "three")


def write_data(folder: Path) -> None:
    """Random molecules with random labels; one set has no forces."""
    for seed, name in enumerate(NAMES):
        rng = np.random.default_rng(seed)
        natoms = rng.integers(2, 7, 60)
        labels = {"forces": rng.normal(size=(natoms.sum(), 3))} if seed else {}
        np.savez(
            folder / f"{name}.npz",
            natoms=natoms,
            numbers=rng.choice([1, 6, 7 + seed], natoms.sum()),
            positions=4 * rng.random((natoms.sum(), 3)),
            energy=rng.normal(size=60),
            **labels,
        )


def fits(launch: Launch) -> dict[str, Any]:
    """Alignment of five branches by all structures, and their weights by either loss and teacher."""
    graphs = [structure(i) for i in range(31)]
    model = potential("atomwise", torch.float64)
    model = rebuilt(model, branches=[dataclasses.replace(b, scale=3.0 + i) for i, b in enumerate(model.branches)])
    alignment = fit_alignment(model, graphs[launch.rank :: launch.world])
    aligned = with_alignment(model, alignment)
    found: dict[str, Any] = {"alignment": alignment}
    jobs = {
        "all": (WeightConfig(epochs=40), graphs[:20], graphs[20:]),
        # One branch, and of two ranks the second has no structure held out.
        "few": (WeightConfig("mse", "branch", epochs=40), graphs[:20:5], graphs[30:]),
    }
    for name, (settings, *parts) in jobs.items():
        trained = copy.deepcopy(aligned)
        fit = train_branch_weights(trained, *(part[launch.rank :: launch.world] for part in parts), settings)
        weights = trained.branch_weights(AtomGraph.batch(graphs))
        found[name] = {"fit": to_mapping(fit), "weights": weights.tolist()}
    return found


def finished(folder: Path, launch: Launch, device: torch.device) -> dict[str, Any]:
    """The metadata of a model made of an untrained network."""
    branches = [{"name": n, "files": [f"{n}.npz"], "min_structures_per_element": 1} for n in NAMES]
    backbone = {"name": "painn", "hidden": 8, "layers": 1, "radial_basis": 4, "cutoff": 4.0}
    settings = {
        "model": {"backbone": backbone, "head": {"shared_layers": 0, "branch_width": 8}},
        "branches": branches,
        "steps": 1,
        "precision": "fp64",
        "split": {"valid": 0.2, "test": 0.2},
        "branch_weights": {"epochs": 20, "structures": 25},
    }
    trainer = Trainer(from_mapping(TrainConfig, settings), folder, folder / "run", launch, device)
    model = finish(trainer, "toy", "A test.")
    assert model.metadata["training"].pop("ranks") == launch.world
    alignment = [dict(branch.alignment) for branch in model.branches]
    return {"metadata": model.metadata, "alignment": alignment}


def main() -> None:
    """Compute and write."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with session("cpu") as (launch, device):
        found = {"fits": fits(launch), "finished": finished(folder, launch, device)}
    (folder / f"rank{launch.rank}-of-{launch.world}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
