"""Run by several ranks: gradients of every parallel mode against one process with all the structures.

Prints, on rank 0, the largest difference relative to the largest gradient, by mode.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

from gfmpot.graph import AtomGraph, build_graph
from gfmpot.models import BranchInfo, Potential
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.branches import HeadConfig
from gfmpot.models.potential_config import PotentialConfig
from gfmpot.ranks.launch import session
from gfmpot.training.loss import LossConfig
from gfmpot.training.mesh import BranchGroup, allocate_ranks
from gfmpot.training.objective import Objective
from gfmpot.training.parallelize import Parallel, Replicated, Sharded, TaskParallel, local

BRANCHES = 5
LOSS = LossConfig(energy=1.0, forces=94.8, stress=10.0)


def structure(i: int) -> AtomGraph:
    """Labelled at random; some without forces or stress, some without any energy."""
    rng = np.random.default_rng(i)
    n = int(rng.integers(2, 9))
    periodic = i % 2 == 0
    cell = np.eye(3) * 5.0 if periodic else None
    graph = build_graph(rng.choice([1, 6, 8], n), 5 * rng.random((n, 3)), cell, periodic, cutoff=4.0)
    nan = torch.nan
    return graph.replace(
        branch=torch.tensor([i % BRANCHES]),
        energy=torch.tensor([nan if i % 7 == 3 else rng.normal()], dtype=torch.float64),
        forces=torch.from_numpy(rng.normal(size=(n, 3))) * (nan if i % 5 == 1 else 1),
        stress=torch.from_numpy(rng.normal(size=(1, 6))) * (1 if periodic else nan),
    )


def potential(readout: str, dtype: torch.dtype) -> Potential:
    """The same on every rank."""
    torch.manual_seed(0)
    config = PotentialConfig(
        backbone=PaiNNConfig(cutoff=4.0, hidden=12, layers=2, radial_basis=4),
        head=HeadConfig(shared_layers=1, shared_width=7, branch_layers=1, branch_width=9, readout=readout),  # type: ignore[arg-type]
    )
    return Potential(
        config, [BranchInfo(f"branch-{b}", e0={"H": -1.0, "C": -2.0, "O": 0.5}) for b in range(BRANCHES)]
    ).to(dtype=dtype)


def gradients(parallel: Parallel, parts: list[AtomGraph], counts: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a step's backward leaves, as whole tensors."""
    weights = torch.tensor(LOSS.weights, dtype=torch.float64) / counts
    for i, part in enumerate(parts):
        with parallel.synchronise(i == len(parts) - 1):
            (parallel.sums(part).values * weights).sum().backward()
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parallel.parameters]
    return {name: local(t) for name, t in parallel.full(found).items()}


def share(mode: str, group: BranchGroup, rank: int, world: int, structures: list[AtomGraph]) -> list[AtomGraph]:
    """This rank's part of the union batch."""
    if mode != "task":
        return structures[rank::world]
    own = [g for g in structures if int(g.branch[0]) in group.branches]  # type: ignore[index]
    return own[rank - group.ranks.start :: len(group.ranks)]


def compare(readout: str, dtype: torch.dtype, rank: int, world: int) -> dict[str, float]:
    """Errors by mode."""
    structures = [structure(i) for i in range(40)]
    union = AtomGraph.batch(structures)
    model = potential(readout, dtype)
    objective = Objective(model, LOSS, bf16=False)
    values, counts, *_ = objective(union)
    (values * torch.tensor(LOSS.weights, dtype=torch.float64) / counts).sum().backward()
    expected = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    largest = max(float(g.abs().max()) for g in expected.values())
    norm = float(torch.stack([g.square().sum() for g in expected.values()]).sum().sqrt())
    groups = allocate_ranks([30, 5, 5, 20, 10], world)
    own = next(group for group in groups if rank in group.ranks)
    errors = {}
    kinds: dict[str, Callable[[Potential], Parallel]] = {
        "ddp": lambda m: Replicated(m, LOSS, bf16=False),
        "ddp by differences": lambda m: Replicated(m, LOSS, bf16=False, differences=True),
        "fsdp": lambda m: Sharded(m, LOSS, bf16=False),
        "task": lambda m: TaskParallel(m, LOSS, groups, bf16=False),
    }
    for mode, make in kinds.items():
        parallel = make(potential(readout, dtype))
        mine = share(mode, own, rank, world, structures)
        # Ranks differ in how many parts their batches have.
        parts = [AtomGraph.batch(mine[i :: rank + 1]) for i in range(rank + 1)]
        found = gradients(parallel, parts, counts)
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        difference = max(float((found[n] - expected[n]).abs().max()) for n in expected)
        errors[f"{mode} {readout}"] = difference / largest
        errors[f"{mode} {readout} norm"] = abs(float(parallel.gradient_norm()) - norm) / norm
    return errors


def main() -> None:
    """Compare, and print on rank 0."""
    torch.set_num_threads(1)
    with session("cpu") as (launch, _):
        errors = {}
        for readout in ("atomwise", "graph"):
            errors |= compare(readout, torch.float64, launch.rank, launch.world)
        single = compare("atomwise", torch.float32, launch.rank, launch.world)
        errors |= {f"{key} fp32": value for key, value in single.items()}
        gathered: list[dict[str, float]] = [{} for _ in range(launch.world)]
        dist.all_gather_object(gathered, errors)
        if launch.rank == 0:
            print(json.dumps({key: max(e[key] for e in gathered) for key in errors}))


if __name__ == "__main__":
    main()
