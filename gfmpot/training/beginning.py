"""What a run begins with: fresh weights, or those of a model that was trained before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfmpot.models import BackboneConfig, BranchInfo, Potential, PotentialConfig, fingerprint
from gfmpot.training.corpus import common_references


def fresh(config: PotentialConfig, branches: Sequence[BranchInfo], seed: int) -> Potential:
    """A potential with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU alone, which is what is put back
        return Potential(config, branches, common_references(branches))


def origin_of(file: Path, model: Potential) -> dict[str, Any]:
    """What a run that begins with the model of a file says about it: name, fingerprint, and hours of training so far.

    The fingerprint is the file's own: that of the model would change with the format that gfmpot writes.
    """
    training = model.metadata.get("training", {})
    hours = training.get("hours", 0.0) + training.get("begin_with", {}).get("hours", 0.0)
    return {"name": model.metadata.get("name", ""), "sha256": fingerprint(file), "hours": round(hours, 2)}


def begun_with(model: Potential, config: PotentialConfig, branches: Sequence[BranchInfo], seed: int) -> Potential:
    """A potential with the weights of ``model``: its backbone, and those of its branches that have the same names.

    Such branches keep the unit and the reference energies that their weights were trained with; elements that are new
    to them, other branches and the weights of the blend begin anew. A run with more ``hidden`` features than the model
    begins with the same function: what was there does not listen to what is new until it is trained (after Chen et al.,
    Net2Net, arXiv:1511.05641). So does one with twice the radial functions, of which the second half are of lengths
    relative to radii (``distance_transform: both`` after ``none``).

    Raises:
        ValueError: another architecture, or no branch in common.
    """
    widths = _widths(model.config, config)
    before = {branch.name: (row, branch) for row, branch in enumerate(model.branches)}
    kept = [before[branch.name][1] if branch.name in before else None for branch in branches]
    if not any(kept):
        raise ValueError(
            f"begin_with: the model has none of the branches {', '.join(b.name for b in branches)}; it has "
            f"{', '.join(before)}. To teach it new data, see `gfmpot finetune` and `gfmpot add-branch`"
        )
    infos = [_with_units(branch, old) if old else branch for branch, old in zip(branches, kept, strict=True)]
    potential = fresh(config, infos, seed).to(model.device, model.dtype)
    own = potential.state_dict()
    for name, tensor in model.state_dict().items():
        if name.startswith(("backbone.", "embedding.")):
            own[name] = _widened(own[name], tensor, *widths)
        elif name.startswith("heads."):
            own[name] = _rows(own[name], tensor, infos, before, widths)
    potential.load_state_dict(own)
    return potential


def _widths(model: PotentialConfig, run: PotentialConfig) -> tuple[int, int]:
    """Features of the model and of the run, if that is the only difference, and the run has not fewer."""
    before, now = (getattr(config.backbone, "hidden", 0) for config in (model, run))
    changes: dict[str, Any] = {"hidden": now} if 0 < before < now else {}
    radial = [_radial(config.backbone) for config in (model, run)]
    if radial[0] == ("none", radial[1][1] / 2) and radial[1][0] == "both":
        changes |= {"distance_transform": "both", "radial_basis": radial[1][1]}
    # Weights are as good a beginning whatever they saw of atoms that are too close.
    widened = dataclasses.replace(model.backbone, saturation=run.backbone.saturation, **changes)
    for name, theirs in (
        ("backbone", widened),
        *((n, getattr(model, n)) for n in ("head", "max_neighbours", "repulsion")),
    ):
        ours = getattr(run, name)
        if ours != theirs:
            raise ValueError(
                f"begin_with: the model's {name} is {getattr(model, name)}, the run's {ours}; make them the same "
                "(a run may have more hidden features, and distance_transform: both with twice the radial_basis)"
            )
    return before, now


def _radial(backbone: BackboneConfig) -> tuple[str, int]:
    """Of what the radial functions are, and their number."""
    return getattr(backbone, "distance_transform", ""), getattr(backbone, "radial_basis", 0)


def _with_units(branch: BranchInfo, before: BranchInfo) -> BranchInfo:
    return dataclasses.replace(branch, e0={**branch.e0, **before.e0}, scale=before.scale)


def _rows(
    own: Tensor,
    old: Tensor,
    branches: Sequence[BranchInfo],
    before: dict[str, tuple[int, BranchInfo]],
    widths: tuple[int, int],
) -> Tensor:
    """Weights of all branches (B, ...), those of known ones from ``old``."""
    rows = [
        _widened(own[i], old[before[b.name][0]], *widths) if b.name in before else own[i]
        for i, b in enumerate(branches)
    ]
    return torch.stack(rows)


def _widened(own: Tensor, old: Tensor, before: int, now: int) -> Tensor:
    """Fresh weights with ``old`` ones in their places; those from new features to old ones are zero.

    A dimension is a number of blocks of features, and the last one of several is what a layer reads.
    """
    places = [_places(size, new, before, now) for size, new in zip(old.shape, own.shape, strict=True)]
    widened = own.clone()
    if old.ndim > 1:
        widened[places[0]] = 0.0
    widened[torch.meshgrid(*places, indexing="ij")] = old.to(own.dtype)
    return widened


def _places(size: int, new: int, before: int, now: int) -> Tensor:
    """Where (size,) what was in a dimension is in the new one."""
    if size == new or size % before or new % now:  # of radial functions, those that are new come last
        return torch.arange(size)
    return (now * torch.arange(size // before).unsqueeze(1) + torch.arange(before)).flatten()
