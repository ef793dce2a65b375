"""Who answers for a structure, and on which scale: what elements, charge and multiplicity decide by themselves."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answering:
    """All of an answer that does not depend on where the atoms are; it stays along a trajectory."""

    weights: Tensor  # (G, B) of the branches in the answer
    supporting: Tensor  # (G, B) bool: knows every element of the structure, and is not skipped
    reference: Tensor  # (N,) eV, reference energy of each atom on the scale of the answer
    offset: Tensor  # (G,) eV, their sums
    alignment: Tensor  # (N, B) eV, from what a branch has learnt to the common scale
    shifts: Tensor  # (G, B) eV, their sums
    totals: Tensor  # (G, B) eV, reference energies on each branch's own scale
    initial: Tensor  # (N, F) features before any message

    @property
    def wanted(self) -> Tensor:
        """(G, B) bool: branches that have a say."""
        return self.weights > 0

    def without(self, skip: float) -> Answering:
        """Branches of less weight than ``skip`` left out, structure by structure; the heaviest always stays."""
        if checked_skip(skip) == 0:
            return self
        kept = (self.weights >= skip) | (self.weights == self.weights.max(dim=1, keepdim=True).values)
        weights = self.weights * kept
        supporting = self.supporting & (weights > 0)
        return dataclasses.replace(self, weights=weights / weights.sum(dim=1, keepdim=True), supporting=supporting)

    def equal_shares(self) -> Tensor:
        """(G, B) equal weights of the supporting branches; NaN where fewer than two leave no spread to speak of."""
        count = self.supporting.sum(dim=1, keepdim=True)
        return (self.supporting / count).masked_fill(count < 2, torch.nan)

    def spread(self, aligned: Tensor, answer: Tensor) -> Tensor:
        """(G,) eV: root mean square distance of the supporting branches (G, B) from the answer (G,).

        All that know the elements count alike: with the weights of the blend, a branch that is trusted fully would
        vouch for itself (docs/architecture.md has the comparison).
        """
        return (self.equal_shares() * (aligned - answer.unsqueeze(1)) ** 2).sum(dim=1).sqrt()


def checked_skip(skip: float) -> float:
    """The weight below which branches are skipped.

    Raises:
        ValueError: one that would skip all, or none that there could be.
    """
    if not 0 <= skip < 1:
        raise ValueError(f"skip must be a weight from 0 to below 1, got {skip}; 0 skips no branch")
    return skip
