"""What a potential answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """What a potential says of G structures with N atoms; NaN where there is no answer."""

    energy: Tensor  # (G,) eV, float64
    energies: Tensor | None = None  # (N,) eV per atom; None with readout="graph"
    forces: Tensor | None = None  # (N, 3) eV/Å
    stress: Tensor | None = None  # (G, 6) eV/Å³, Voigt; NaN without a volume
    branch_energies: Tensor | None = None  # (G, B) eV, each on its own theory's scale; NaN if unsupported
    branch_weights: Tensor | None = None  # (G, B)
    energy_std: Tensor | None = None
    """(G,) eV, estimated error; of a model without estimate the spread of the branches, NaN for fewer than two."""

    forces_std: Tensor | None = None  # (N, 3) eV/Å
    novelty: Tensor | None = None
    """(N,) distance of each atom's surroundings from what the branches that answer were trained on, 1 at its edge; None
    without an estimate."""
