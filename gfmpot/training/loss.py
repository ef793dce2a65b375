"""The loss on energies, forces and stresses, for batches that may be partly labelled and spread over ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gfmpot.config import tunable
from gfmpot.graph import AtomGraph
from gfmpot.models import Prediction

TERMS = ("energy", "forces", "stress")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the errors, and how they are measured."""

    energy: float = tunable(4.0, 0.1, 100.0, log=True)
    """Per eV/atom."""

    forces: float = tunable(1.0, 0.1, 1000.0, log=True)
    """Per eV/Å, of the norm of the error vector, which does not prefer the axes."""

    stress: float = tunable(50.0, 0.0, 1000.0)
    """Per eV/Å³; 0 leaves stresses out."""

    kind: Literal["mae", "mse", "huber"] = tunable("mae", choices=("mae", "mse", "huber"))
    """``mae``: mean norm of the errors (the paper's). ``mse``: mean square. ``huber``: square below ``delta``, linear
    above."""

    delta: float = 0.01
    """Of ``huber``, in eV/atom, eV/Å and eV/Å³."""

    @property
    def weights(self) -> tuple[float, float, float]:
        """Of energy, forces and stress."""
        return self.energy, self.forces, self.stress

    @property
    def energies_alone(self) -> bool:
        """Whether nothing is learnt from forces and stresses, which then need not be computed."""
        return self.forces == 0 and self.stress == 0


@dataclass(frozen=True)
class LossSums:
    """Sums over what is labelled in a batch. Means over several batches, or ranks, are sums over counts."""

    values: Tensor  # (3,) of energy, forces and stress, differentiable
    counts: Tensor  # (3,) how many structures, atoms and structures that are
    errors: Tensor
    """(B, 3) absolute errors by branch, detached: eV/atom, eV/Å (norm), eV/Å³ (mean component), as in metrics."""

    labelled: Tensor
    """(B, 3) how many by branch."""


def loss_sums(prediction: Prediction, graph: AtomGraph, config: LossConfig, branches: int) -> LossSums:
    """Errors of a batch, in the dtype of the labels (float64 for energies, whatever the network runs in).

    All that is predicted enters, if with a factor of zero: ranks that reduce gradients together must agree on
    which parameters have one.
    """
    assert graph.branch is not None
    parts = [
        _part(errors, branch, branches, config)
        for errors, branch in (
            (_energy_errors(prediction, graph), graph.branch),
            (_difference(prediction.forces, graph.forces), graph.branch[graph.structure_of_atom]),
            (_difference(prediction.stress, graph.stress), graph.branch),
        )
    ]
    values, counts, errors, labelled = zip(*parts, strict=True)
    return LossSums(torch.stack(values), torch.stack(counts), torch.stack(errors, 1), torch.stack(labelled, 1))


def label_counts(graph: AtomGraph) -> Tensor:
    """(3,) float64: labelled energies, atoms with forces, and stresses of a batch."""
    stress = None if graph.stress is None else stress_labels(graph)
    labels = (graph.energy.unsqueeze(1) if graph.energy is not None else None, graph.forces, stress)
    counts = [0 if label is None else int(label.isfinite().all(dim=1).sum()) for label in labels]
    return torch.tensor(counts, dtype=torch.float64)


def stress_labels(graph: AtomGraph) -> Tensor:
    """(G, 6), NaN where there is no label, or no volume and so no stress, whatever the label says."""
    assert graph.stress is not None
    return graph.stress.masked_fill(graph.volume.isnan().unsqueeze(1), torch.nan)


def _energy_errors(prediction: Prediction, graph: AtomGraph) -> Tensor:
    """(G, 1) eV/atom."""
    assert graph.energy is not None
    return ((prediction.energy - graph.energy) / graph.atoms_per_structure).unsqueeze(1)


def _difference(predicted: Tensor | None, label: Tensor | None) -> Tensor:
    """NaN, as without a label, where nothing was predicted."""
    assert label is not None
    return torch.full_like(label, torch.nan) if predicted is None else predicted - label


def _part(errors: Tensor, branch: Tensor, branches: int, config: LossConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum and count of the rows (M, D) without NaN, and both by branch (M,)."""
    labelled = errors.isfinite().all(dim=1)
    square = (errors.masked_fill(~labelled.unsqueeze(1), 0.0) ** 2).sum(dim=1)
    # The softening of 1e-8 keeps the gradient of a zero finite.
    norm = torch.sqrt(square + 1e-16)
    value = {"mae": lambda: norm, "mse": lambda: square, "huber": lambda: _huber(norm, square, config.delta)}
    present = labelled.double()
    by_branch = present.new_zeros(branches)
    return (
        (value[config.kind]() * labelled).sum(),
        present.sum(),
        by_branch.index_add(0, branch, _reported(errors.detach().double(), norm.detach().double()) * present),
        by_branch.index_add(0, branch, present),
    )


def _reported(errors: Tensor, norm: Tensor) -> Tensor:
    """(M,) what people state: the norm of a vector, the mean absolute component of a stress."""
    return errors.abs().mean(dim=1).nan_to_num() if errors.shape[1] == 6 else norm


def _huber(norm: Tensor, square: Tensor, delta: float) -> Tensor:
    return torch.where(norm < delta, 0.5 * square, delta * (norm - 0.5 * delta))
