"""Whether estimated errors are those that there are: on labelled structures that a model has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
        deviation (0.68 if they are normal); ``ratio_*`` root mean square of errors in standard deviations (1)."""
        found: Calibration = {}
        for name, errors, std in (("energy", self.energy, self.energy_std), ("forces", self.forces, self.forces_std)):
            labelled = np.isfinite(errors) & np.isfinite(std)
            size, sigma = np.abs(errors[labelled]), std[labelled]
            if len(size) < 3:
                continue
            found[f"spearman_{name}"] = float(spearmanr(sigma, size)[0])
            found[f"within_{name}"] = float((size < sigma).mean())
            found[f"ratio_{name}"] = float(np.sqrt(np.mean((size / sigma) ** 2)))
        return found


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
    """Batches of one branch each."""
    waiting: dict[int, list[AtomGraph]] = {}
    for graph in graphs:
        assert graph.branch is not None
        waiting.setdefault(int(graph.branch[0]), []).append(graph)
    for own in waiting.values():
        for batch in BatchBudget(max_edges=50_000).pack(own):
            yield AtomGraph.batch(batch)
