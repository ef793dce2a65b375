"""The loss on energies, forces and stresses, for batches that may be partly labelled."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gfmpot.config import tunable
from gfmpot.graph import AtomGraph
from gfmpot.models import Prediction


@dataclass(frozen=True)
class LossConfig:
    """Weights of the mean absolute errors."""

    energy: float = tunable(4.0, 0.1, 100.0, log=True)
    """Per eV/atom."""

    forces: float = tunable(1.0, 0.1, 1000.0, log=True)
    """Per eV/Å, of the norm of the error vector, which does not prefer the axes."""

    stress: float = tunable(50.0, 0.0, 1000.0)
    """Per eV/Å³."""


@dataclass(frozen=True)
class LossTerms:
    """The parts of a loss, in eV/atom, eV/Å and eV/Å³."""

    energy: Tensor
    forces: Tensor
    stress: Tensor

    def total(self, config: LossConfig) -> Tensor:
        """The weighted sum."""
        return config.energy * self.energy + config.forces * self.forces + config.stress * self.stress


def loss_terms(prediction: Prediction, graph: AtomGraph) -> LossTerms:
    """Mean absolute errors over what is labelled (not NaN); zero where nothing is."""
    assert graph.energy is not None
    assert graph.forces is not None
    assert graph.stress is not None
    assert prediction.forces is not None
    assert prediction.stress is not None
    energy_error = (prediction.energy - graph.energy) / graph.atoms_per_structure
    return LossTerms(
        energy=_mean_norm(energy_error.unsqueeze(1)),
        forces=_mean_norm(prediction.forces - graph.forces),
        stress=_mean_norm(prediction.stress - graph.stress),
    )


def _mean_norm(errors: Tensor) -> Tensor:
    """Mean Euclidean norm of the rows without NaN; the softening of 1e-8 keeps the gradient of a zero finite."""
    labelled = errors.isfinite().all(dim=1)
    rows = errors[labelled]
    if len(rows) == 0:
        return errors.new_zeros(())
    return torch.sqrt((rows * rows).sum(dim=1) + 1e-16).mean()
