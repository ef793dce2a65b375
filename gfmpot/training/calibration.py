"""Whether estimated errors are those that there are: on labelled structures that a model has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import Potential

Floats = NDArray[np.float64]
Calibration = dict[str, float]


@dataclass(frozen=True)
class Estimated:
    """Of S structures with N atoms that one branch labelled and answers for."""

    energy: Floats  # (S,) error, eV/atom
    energy_std: Floats  # (S,) eV/atom
    forces: Floats  # (N,) norm of the error, eV/Å
    forces_std: Floats  # (N,) root of the sum of the squares over components, eV/Å

    @classmethod
    def join(cls, parts: Sequence[Estimated]) -> Estimated:
        """Several as one."""
        names = ("energy", "energy_std", "forces", "forces_std")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def summary(self) -> Calibration:
        """``spearman_*`` rank correlations with the absolute error; ``within_*`` share of errors within one standard
        deviation (of normal ones 0.68 of energies, and 0.61 of forces, which are vectors); ``ratio_*`` root mean square
        of errors in standard deviations (1). What is undefined is left out."""
        found: Calibration = {}
        for name, errors, std in (("energy", self.energy, self.energy_std), ("forces", self.forces, self.forces_std)):
            labelled = np.isfinite(errors) & np.isfinite(std)
            size, sigma = np.abs(errors[labelled]), std[labelled]
            if len(size) < 3:
                continue
            varied = np.ptp(size) > 0 and np.ptp(sigma) > 0
            found[f"spearman_{name}"] = float(spearmanr(sigma, size)[0]) if varied else np.nan
            found[f"within_{name}"] = float((size < sigma).mean())
            found[f"ratio_{name}"] = float(np.sqrt(np.mean((size / sigma) ** 2)))
        return {name: value for name, value in found.items() if np.isfinite(value)}


def estimated_errors(potential: Potential, graphs: Iterable[AtomGraph]) -> dict[int, Estimated]:
    """Errors and their estimates of each branch on the structures that it labelled."""
    rows: dict[int, list[tuple[Floats, ...]]] = {}
    evaluate = potential.backbone.kernels(potential.dtype)
    for graph in _by_branch(graphs):
        assert graph.branch is not None
        assert graph.energy is not None
        assert graph.forces is not None
        branch = int(graph.branch[0])
        answer = potential(
            graph.to(potential.device), head=potential.branch_names[branch], spread="forces", evaluate=evaluate
        )
        atoms = graph.atoms_per_structure
        row = (
            (answer.energy.cpu() - graph.energy) / atoms,
            answer.energy_std.cpu() / atoms,
            torch.linalg.vector_norm(answer.forces.cpu() - graph.forces, dim=1),
            torch.linalg.vector_norm(answer.forces_std.cpu(), dim=1),
        )
        rows.setdefault(branch, []).append(tuple(t.numpy() for t in row))
    joined = {b: [np.concatenate(column) for column in zip(*rows[b], strict=True)] for b in sorted(rows)}
    return {b: Estimated(*columns) for b, columns in joined.items()}


def _by_branch(graphs: Iterable[AtomGraph]) -> Iterable[AtomGraph]:
    """Batches of one branch each, of structures that come ordered by branch."""
    for _, own in groupby(graphs, key=branch_of):
        for batch in BatchBudget(max_edges=50_000).pack(own):
            yield AtomGraph.batch(batch)


def branch_of(graph: AtomGraph) -> int:
    """The branch that labelled a single structure."""
    assert graph.branch is not None
    return int(graph.branch[0])
