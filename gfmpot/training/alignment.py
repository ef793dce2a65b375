"""Putting the branches on one energy scale, so that they can be blended and compared."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import Potential
from gfmpot.models.backbone import Evaluator
from gfmpot.ranks.launch import sum_over_ranks
from gfmpot.training.corpus import primary_branch

Floats = NDArray[np.float64]


def fit_alignment(potential: Potential, graphs: Iterable[AtomGraph], ridge: float = 1e-2) -> list[dict[str, float]]:
    """Shift (eV) per element of each branch that makes the branches agree best; collective.

    Reference energies fitted per dataset have an arbitrary gauge, so learnt parts ε_b of different branches differ by a
    sum over elements. With fractions x, minimises over the structures that several branches support
    ``Σ_s Σ_b (ε_b(s)/n_s + x_s · a_b − mean_b(...))² + ridge Σ_b |a_b|²``; the primary branch (of most elements) is the
    common scale and stays put. Every rank gives structures of its own; all get the shifts that fit those of all ranks.

    Returns:
        By branch, eV by symbol, for the elements that it supports.
    """
    columns = _columns(potential)
    equations = np.zeros((len(columns), len(columns) + 1))
    kernels = potential.backbone.kernels(potential.dtype)
    for batch in BatchBudget(max_edges=50_000).pack(graphs):
        rows, targets = _equations(*_learnt_per_atom(potential, AtomGraph.batch(batch), kernels), columns)
        equations += rows.T @ np.column_stack([rows, targets])
    summed = sum_over_ranks(torch.from_numpy(equations).to(potential.device)).cpu().numpy()
    shifts = -np.linalg.solve(summed[:, :-1] + ridge * np.eye(len(columns)), summed[:, -1])
    fitted = [dict.fromkeys(branch.e0, 0.0) for branch in potential.branches]
    for (b, z), column in columns.items():
        fitted[b][chemical_symbols[z]] = float(shifts[column])
    return fitted


def _learnt_per_atom(
    potential: Potential, graph: AtomGraph, kernels: Evaluator | None
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """(S, B) ε per atom in eV, 0 where unsupported, (S, 118) fractions, (S, B) support.

    ε is with the repulsion of nuclei, which is the same for all branches.
    """
    graph = graph.to(potential.device)
    aligned, _ = potential.every_branch(graph, derivatives=False, evaluate=kernels)
    counts = graph.composition
    atoms = counts.sum(dim=1, keepdim=True)
    supporting = potential.references.supporting(graph)
    eps = ((aligned - potential.references.shifts(graph)) / atoms).masked_fill(~supporting, 0.0)
    return eps.cpu().numpy(), (counts / atoms).cpu().numpy(), supporting.cpu().numpy()


def _columns(potential: Potential) -> dict[tuple[int, int], int]:
    """Unknowns: a shift for each element of each branch but the primary one."""
    primary = primary_branch(potential.branches).name
    free = [b for b, branch in enumerate(potential.branches) if branch.name != primary]
    pairs = [(b, int(z)) for b in free for z in torch.nonzero(potential.references.supported[b]).flatten()]
    return {pair: column for column, pair in enumerate(pairs)}


def _equations(
    eps: Floats, fractions: Floats, supporting: NDArray[np.bool_], columns: dict[tuple[int, int], int]
) -> tuple[Floats, Floats]:
    """Rows and constants of: deviation of a branch from the mean of the supporting ones, per structure."""
    shared = supporting.sum(axis=1) >= 2
    eps, fractions, supporting = eps[shared], fractions[shared], supporting[shared]
    share = supporting / supporting.sum(axis=1, keepdims=True)
    by_branch = np.zeros((*eps.shape, len(columns)))
    for (b, z), column in columns.items():
        by_branch[:, b, column] = fractions[:, z - 1]
    rows = by_branch - (share[:, :, None] * by_branch).sum(axis=1, keepdims=True)
    targets = eps - (share * eps).sum(axis=1, keepdims=True)
    return rows[supporting], targets[supporting]
