r"""How far an answer may be off: what the network's features say of its own errors.

A small network from the features f of an atom to the errors that each branch b made on structures that it was not
trained on (:mod:`gfmpot.training.error_estimate`), and a distance of f from the features of the atoms that the branch
was trained on, in units that five of ten thousand of those exceed:

    :math:`d_b = |W_b (f - \bar f_b)| / \sqrt F / r_b, \quad W_b^T W_b = \mathrm{cov}_b(f)^{-1}`

Inside (:math:`d_b < 1`) estimates are those that were learnt; outside, where nothing was learnt, they grow with
:math:`d_b^2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gfmpot.graph import AtomGraph, sum_per_structure

LOWEST, HIGHEST = 1e-4, 30.0
"""eV per atom and eV/Å: bounds of what the network can say."""


class ErrorEstimate(nn.Module):
    """Features (N, F) to expected errors of B branches.

    Args:
        features: F.
        branches: B.
        hidden: width of the network.
    """

    mean: Tensor
    whitening: Tensor
    own_mean: Tensor
    own_whitening: Tensor
    reach: Tensor
    known: Tensor

    def __init__(self, features: int, branches: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))  # of all branches together: what the network sees
        self.register_buffer("whitening", torch.eye(features))
        self.register_buffer("own_mean", torch.zeros(branches, features))
        self.register_buffer("own_whitening", torch.eye(features).repeat(branches, 1, 1))
        self.register_buffer("reach", torch.ones(branches))
        self.register_buffer("known", torch.zeros(2, branches))  # 1 where energies, and forces, of a branch were seen
        self.network = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, 2 * branches))

    def forward(self, features: Tensor, asked: Sequence[bool] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """See the module.

        Args:
            features: (N, F) of atoms.
            asked: (B,) which branches are to be told of; None for all. Others get a distance of 0.

        Returns:
            (N, B) share of each atom in the mean absolute error of the energy, eV; (N, B) mean norm of the error of its
            force, eV/Å, both NaN of branches whose errors nobody has seen; (N, B) its distance from what each branch
            was trained on, 1 at the edge.
        """
        distance = self.distance(features, asked)
        growth = distance.clamp(min=1.0).square().repeat(1, 2)
        grown = self.inside(self.whitened(features)).double() * growth
        energy, forces = grown.masked_fill(self.known.flatten() == 0, torch.nan).chunk(2, dim=1)
        return energy, forces, distance

    @torch.no_grad()
    def of_answers(self, features: Tensor, weights: Tensor, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor]:
        """Features and the weights (G, B) of an answer to its standard deviations and how familiar its atoms are.

        Estimates are means of absolute values and of norms; errors are taken for normally distributed. Branches whose
        errors nobody has seen are taken to be as good as the others, if these have most of the say.

        Returns:
            (G,) eV; (N, 3) eV/Å, NaN where such branches have most of the say; (N,) mean distance from what the
            branches that answer were trained on.
        """
        energy, forces, distance = self(features, (weights > 0).any(dim=0).tolist())
        share = weights[graph.structure_of_atom]
        of_structure = sum_per_structure(_mean(energy, share, self.known[0]), graph)
        of_atom = _mean(forces, share, self.known[1])
        components = (math.sqrt(math.pi / 8) * of_atom).unsqueeze(1).expand(-1, 3)
        return math.sqrt(math.pi / 2) * of_structure, components, (share * distance).sum(dim=1)

    def distance(self, features: Tensor, asked: Sequence[bool] | None = None) -> Tensor:
        """(N, B), from what each branch was trained on; one branch after the other, for the sake of memory."""
        features = features.to(self.own_mean.dtype)
        lengths = features.new_zeros(len(features), len(self.reach), dtype=torch.float64)
        for b, wanted in enumerate(asked or [True] * len(self.reach)):
            if wanted:
                own = (features - self.own_mean[b]) @ self.own_whitening[b].T
                # In double precision, since far away there is no square in fp32.
                lengths[:, b] = torch.linalg.vector_norm(own, dim=1, dtype=torch.float64)
        return lengths / (math.sqrt(features.shape[1]) * self.reach)

    def whitened(self, features: Tensor) -> Tensor:
        """(N, F), of mean 0 and covariance 1 over training atoms."""
        return (features.to(self.mean.dtype) - self.mean) @ self.whitening.T

    def inside(self, whitened: Tensor) -> Tensor:
        """(N, 2 B): errors of energy shares and of forces, among the training data."""
        return bounded(self.network(whitened))


def bounded(outputs: Tensor) -> Tensor:
    """What the network says as errors between :data:`LOWEST` and :data:`HIGHEST`."""
    low, high = math.log(LOWEST), math.log(HIGHEST)
    return torch.exp(low + (high - low) * torch.sigmoid(outputs))


def _mean(values: Tensor, share: Tensor, known: Tensor) -> Tensor:
    """(N,) of values (N, B) over branches with a known error (B,), by their share (N, B) in the answer."""
    share = share * known
    total = share.sum(dim=1)
    mean = (share * values.masked_fill(known == 0, 0.0)).sum(dim=1) / total
    return mean.masked_fill(total < 0.5, torch.nan)
