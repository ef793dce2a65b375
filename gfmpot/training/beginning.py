"""What a run begins with: fresh weights, or those of a model that was trained before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from gfmpot.models import BranchInfo, Potential, PotentialConfig
from gfmpot.training.corpus import common_references


def fresh(config: PotentialConfig, branches: Sequence[BranchInfo], seed: int) -> Potential:
    """A potential with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU alone, which is what is put back
        return Potential(config, branches, common_references(branches))


def begun_with(model: Potential, config: PotentialConfig, branches: Sequence[BranchInfo], seed: int) -> Potential:
    """A potential with the weights of ``model``: its backbone, and those of its branches that have the same names.

    Such branches keep the unit and the reference energies that their weights were trained with; elements that are new
    to them, other branches and the weights of the blend begin anew.

    Raises:
        ValueError: another architecture, or no branch in common.
    """
    _require_same_shape(model.config, config)
    before = {branch.name: (row, branch) for row, branch in enumerate(model.branches)}
    kept = [before[branch.name][1] if branch.name in before else None for branch in branches]
    if not any(kept):
        raise ValueError(
            f"begin_with: the model has none of the branches {', '.join(b.name for b in branches)}; it has "
            f"{', '.join(before)}"
        )
    infos = [_with_units(branch, old) if old else branch for branch, old in zip(branches, kept, strict=True)]
    potential = fresh(config, infos, seed).to(model.device, model.dtype)
    own = potential.state_dict()
    for name, tensor in model.state_dict().items():
        if name.startswith(("backbone.", "embedding.")):
            own[name] = tensor
        elif name.startswith("heads."):
            own[name] = _rows(own[name], tensor, infos, before)
    potential.load_state_dict(own)
    return potential


def _require_same_shape(model: PotentialConfig, run: PotentialConfig) -> None:
    for name in ("backbone", "head", "max_neighbours", "repulsion"):
        ours, theirs = getattr(run, name), getattr(model, name)
        if ours != theirs:
            raise ValueError(f"begin_with: the model's {name} is {theirs}, the run's {ours}; make them the same")


def _with_units(branch: BranchInfo, before: BranchInfo) -> BranchInfo:
    return dataclasses.replace(branch, e0={**branch.e0, **before.e0}, scale=before.scale)


def _rows(
    own: Tensor, old: Tensor, branches: Sequence[BranchInfo], before: dict[str, tuple[int, BranchInfo]]
) -> Tensor:
    """Weights of all branches (B, ...), those of known ones from ``old``."""
    rows = [old[before[b.name][0]] if b.name in before else own[i] for i, b in enumerate(branches)]
    return torch.stack(rows)
