"""Putting the branches on one energy scale, so that they can be blended and compared."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch.distributed as dist
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import Potential
from gfmpot.models.backbone import Evaluator
from gfmpot.training.corpus import primary_branch

Floats = NDArray[np.float64]
Pairs = dict[int, tuple[Floats, Floats]]
"""By branch: element fractions (S, 118), and how much higher the primary branch answers (S,), eV/atom."""

LINEAR = 0.05
"""eV/atom: larger deviations count by their size, smaller ones by its square."""

ITERATIONS = 30


def fit_alignment(
    potential: Potential, graphs: Iterable[AtomGraph], ridge: float = 1e-2, primary: str | None = None
) -> list[dict[str, float]]:
    """Shift (eV) per element of each branch that makes it agree best with the primary one; collective.

    Reference energies fitted per dataset have an arbitrary gauge, so learnt parts ε_b of different branches differ by a
    sum over elements. The primary branch (of most elements) p is the common scale and stays put. For each other
    branch, over the structures that it labelled, with fractions x, minimises
    ``Σ_s huber(ε_b(s)/n_s + x_s · a_b − ε_p(s)/n_s) + ridge |a_b|²``. Structures of other branches say nothing: there
    the branch was never trained, and what it answers would decide. Huber's loss keeps those out of it that the primary
    branch knows nothing about, such as dimers. Every rank gives structures of its own; all get the same shifts.

    Args:
        potential: whose branches are aligned.
        graphs: labelled structures with ``branch``.
        ridge: see above.
        primary: the branch whose scale is the common one, if it is not that of most elements.

    Returns:
        By branch, eV by symbol, for the elements that it supports.
    """
    stays = potential.branch_index(primary or primary_branch(potential.branches).name)
    pairs = _over_ranks(_pairs(potential, graphs, stays))
    fitted = [dict.fromkeys(branch.e0, 0.0) for branch in potential.branches]
    for b, (fractions, differences) in pairs.items():
        present = np.flatnonzero(fractions.any(axis=0))
        shifts = _robust_fit(fractions[:, present], differences, ridge)
        fitted[b] |= {chemical_symbols[z + 1]: float(a) for z, a in zip(present, shifts, strict=True)}
    return fitted


def _robust_fit(x: Floats, y: Floats, ridge: float) -> Floats:
    """Coefficients of Huber's loss, by iteratively reweighted least squares."""
    weights: Floats = np.ones(len(y))
    shifts: Floats = np.zeros(x.shape[1])
    for _ in range(ITERATIONS):
        weighted = x * weights[:, None]
        normal = x.T @ weighted + ridge * np.eye(x.shape[1])
        shifts = np.linalg.solve(normal, weighted.T @ y).astype(np.float64)
        weights = 1 / np.maximum(np.abs(y - x @ shifts) / LINEAR, 1.0)
    return shifts


def _pairs(potential: Potential, graphs: Iterable[AtomGraph], primary: int) -> Pairs:
    """Of this rank's structures."""
    kernels = potential.backbone.kernels(potential.dtype)
    rows: dict[int, list[tuple[Floats, Floats]]] = {}
    for batch in BatchBudget(max_edges=50_000).pack(graphs):
        graph = AtomGraph.batch(batch)
        assert graph.branch is not None
        own = graph.branch.numpy()
        learnt, fractions, supporting = _learnt_per_atom(potential, graph, kernels)
        for b in sorted(set(own.tolist()) - {primary}):
            both = (own == b) & supporting[:, b] & supporting[:, primary]
            rows.setdefault(b, []).append((fractions[both], learnt[both, primary] - learnt[both, b]))
    return {b: _joined(parts) for b, parts in rows.items()}


def _learnt_per_atom(
    potential: Potential, graph: AtomGraph, kernels: Evaluator | None
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """(S, B) ε per atom in eV, with the repulsion that all branches share, (S, 118) fractions, (S, B) support."""
    graph = graph.to(potential.device)
    aligned, _ = potential.every_branch(graph, derivatives=False, evaluate=kernels)
    counts = graph.composition
    atoms = counts.sum(dim=1, keepdim=True)
    eps = (aligned - potential.references.shifts(graph)) / atoms
    return eps.cpu().numpy(), (counts / atoms).cpu().numpy(), potential.references.supporting(graph).cpu().numpy()


def _over_ranks(pairs: Pairs) -> Pairs:
    """Of the structures of all ranks; collective."""
    if not dist.is_initialized():
        return pairs
    gathered: list[Pairs] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, pairs)
    branches = sorted({b for part in gathered for b in part})
    return {b: _joined([part[b] for part in gathered if b in part]) for b in branches}


def _joined(parts: list[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    fractions, differences = zip(*parts, strict=True)
    return np.concatenate(fractions), np.concatenate(differences)
