"""From features of atoms to one number per structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from gfmpot.models.dense import mlp

NARROWEST = 0.1
"""Of the root mean square of all deviations: features that hardly vary in the training data are not blown up."""


@dataclass(frozen=True)
class Features:
    """Of the atoms of G structures, M rows in all; or of whole structures, one row each."""

    rows: Tensor  # (M, F)
    counts: Tensor  # (G,) int64 rows of each structure
    baseline: Tensor  # (G,) float64, what composition alone says: in the target's unit, or a logit

    @cached_property
    def structure(self) -> Tensor:
        """(M,) int64."""
        return torch.repeat_interleave(self.counts, output_size=len(self.rows))

    def sums(self, values: Tensor) -> Tensor:
        """(M, ...) by row to (G, ...): sums over the rows of each structure."""
        zeros = values.new_zeros((len(self.counts), *values.shape[1:]))
        return zeros.index_add(0, self.structure, values)

    def means(self) -> Tensor:
        """(G, F), of the dtype of the rows; sums are float64."""
        return (self.sums(self.rows.double()) / self.counts.unsqueeze(1)).to(self.rows.dtype)

    def pooled(self) -> Features:
        """One row per structure: the mean of its rows."""
        return Features(self.means(), torch.ones_like(self.counts), self.baseline)

    def subset(self, structures: Tensor) -> Features:
        """The structures at (n,) ``structures``, in that order."""
        counts = self.counts[structures]
        starts = (self.counts.cumsum(0) - self.counts)[structures] - (counts.cumsum(0) - counts)
        rows = torch.repeat_interleave(starts, counts)
        rows = rows + torch.arange(len(rows), device=rows.device)
        return Features(self.rows[rows], counts, self.baseline[structures])

    @classmethod
    def join(cls, parts: Sequence[Features]) -> Features:
        """Several as one."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "counts", "baseline")))


class PropertyHead(nn.Module):
    """A small network on standardised features, of atoms or of the structures that they are pooled to.

    Args:
        features: F.
        layers: hidden ones.
        width: of these.
        pooling: ``sum`` of the network's outputs for atoms; or the network's output for the ``mean`` of the atoms'
            features, or for their mean with learnt weights, a softmax over the atoms of a structure (``attention``).
    """

    centre: Tensor
    width: Tensor

    def __init__(self, features: int, layers: int, width: int, pooling: Literal["sum", "mean", "attention"]) -> None:
        super().__init__()
        self.pooling = pooling
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("width", torch.ones(features))
        self.network = mlp(features, *[width] * layers, 1)
        self.gate = mlp(features, width, 1) if pooling == "attention" else None

    def forward(self, features: Features) -> Tensor:
        """(G,) float64, in the network's own unit."""
        x = (features.rows - self.centre) / self.width
        if self.pooling == "sum":
            return features.sums(self.network(x).squeeze(1).double())
        shares = self._shares(x, features)
        pooled = features.sums(shares.unsqueeze(1) * x).to(x.dtype)
        output: Tensor = self.network(pooled).squeeze(1).double()
        return output

    @torch.no_grad()
    def standardise(self, features: Features) -> None:
        """Take means and deviations of training features for the units of what the network gets.

        They are those of atoms where atoms are summed over, else those of the structures' means.
        """
        rows = (features.rows if self.pooling == "sum" else features.means()).double()
        deviation = rows.std(dim=0, correction=0)
        least = NARROWEST * float(deviation.square().mean().sqrt())
        self.centre.copy_(rows.mean(dim=0))
        self.width.copy_(deviation.clamp(min=least) if least > 0 else torch.ones_like(deviation))

    @property
    def is_standardised(self) -> bool:
        """Whether :meth:`standardise` was called before."""
        return bool(self.centre.any())

    def _shares(self, x: Tensor, features: Features) -> Tensor:
        """(M,) float64 weights that add up to 1 in each structure."""
        if self.gate is None:
            return 1.0 / features.counts.double()[features.structure]
        logits = self.gate(x).squeeze(1).double()
        highest = logits.new_full((len(features.counts),), -torch.inf)
        highest = highest.scatter_reduce(0, features.structure, logits.detach(), "amax")
        raised = torch.exp(logits - highest[features.structure])  # at most 1, and 1 for one of each structure
        return raised / features.sums(raised)[features.structure]
