"""Training of the network that blends the branches (paper §VII-E)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import Potential
from gfmpot.models.branch_weights import composition, masked_softmax


@dataclass(frozen=True)
class WeightConfig:
    """Full-batch AdamW with ReduceLROnPlateau(0.5, 10), as in the paper.

    The loss is absolute, not squared as in the paper: a branch can be wildly wrong on single structures that it has
    never seen the like of, and squares would let those decide.
    """

    epochs: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    force_weight: float = 0.2
    """Of the mean norm of the force error (eV/Å) beside the mean absolute energy error (eV/atom)."""


@dataclass(frozen=True)
class _Cache:
    """What the frozen branches say, and the labels, on the common energy scale."""

    fractions: Tensor  # (S, 118)
    supporting: Tensor  # (S, B)
    energies: Tensor  # (S, B) eV/atom
    energy_labels: Tensor  # (S,) eV/atom
    forces: Tensor  # (N, 3, B) eV/Å
    force_labels: Tensor  # (N, 3)
    structure_of_atom: Tensor  # (N,)


def train_branch_weights(
    potential: Potential,
    graphs: Sequence[AtomGraph],
    held_out: Sequence[AtomGraph],
    config: WeightConfig | None = None,
) -> float:
    """Fit ``potential.weights`` so that the blend of the frozen branches matches the labels.

    The teacher is the label of each structure on its own branch's theory, moved to the common scale by that branch's
    reference energies and alignment. Compositions are easily learnt by heart, so the weights that are best on
    ``held_out`` (other groups) are kept. Structures must have energies, forces and ``branch``.

    Returns:
        The lowest loss on ``held_out``.
    """
    config = config or WeightConfig()
    cache, unseen = _cache(potential, graphs), _cache(potential, held_out)
    optimizer = torch.optim.AdamW(
        potential.weights.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=10)
    best, kept = float("inf"), copy.deepcopy(potential.weights.state_dict())
    for _ in range(config.epochs):
        loss = _loss(potential, cache, config.force_weight)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        plateau.step(loss.item())
        with torch.no_grad():
            value = float(_loss(potential, unseen, config.force_weight))
        if value < best:
            best, kept = value, copy.deepcopy(potential.weights.state_dict())
    potential.weights.load_state_dict(kept)
    return best


def _loss(potential: Potential, cache: _Cache, force_weight: float) -> Tensor:
    weights = masked_softmax(potential.weights(cache.fractions), cache.supporting)
    energy = (weights * cache.energies).sum(dim=1) - cache.energy_labels
    force = (weights[cache.structure_of_atom].unsqueeze(1) * cache.forces).sum(dim=2) - cache.force_labels
    norms = torch.sqrt(force.square().sum(dim=1) + 1e-12)
    return energy.abs().mean() + force_weight * norms.mean()


def _cache(potential: Potential, graphs: Sequence[AtomGraph]) -> _Cache:
    parts = [_evaluate(potential, AtomGraph.batch(batch)) for batch in BatchBudget(max_edges=50_000).pack(graphs)]
    offsets = torch.tensor([0, *[len(part.fractions) for part in parts[:-1]]]).cumsum(0).tolist()
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in _Cache.__dataclass_fields__}
    structure = [part.structure_of_atom + offset for part, offset in zip(parts, offsets, strict=True)]
    return _Cache(**{**joined, "structure_of_atom": torch.cat(structure)})


def _evaluate(potential: Potential, graph: AtomGraph) -> _Cache:
    assert graph.branch is not None
    assert graph.energy is not None
    assert graph.forces is not None
    references = potential.references
    aligned, forces = potential.every_branch(graph)
    counts = composition(graph)
    atoms = counts.sum(dim=1)
    to_common = references.shifts(graph) - references.totals(graph)
    label = graph.energy + to_common.gather(1, graph.branch.unsqueeze(1)).squeeze(1)
    assert forces is not None
    return _Cache(
        fractions=counts / atoms.unsqueeze(1),
        supporting=references.supporting(graph),
        energies=aligned / atoms.unsqueeze(1),
        energy_labels=label / atoms,
        forces=forces,
        force_labels=graph.forces,
        structure_of_atom=graph.structure_of_atom,
    )
