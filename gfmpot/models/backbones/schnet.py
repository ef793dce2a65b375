r"""SchNet: continuous-filter convolutions.

Schütt, Kindermans, Sauceda, Chmiela, Tkatchenko, Müller, *SchNet: A continuous-filter convolutional neural network for
modeling quantum interactions* (2017). With features :math:`x_i \in R^F`, neighbours j of i, shifted softplus
:math:`\sigma(x) = \ln(1 + e^x) - \ln 2` and dense layers D:

    filters: :math:`W(r) = D_2 \sigma(D_1 g(r)) \, u(r / r_c)`, with Gaussians :math:`g_k = \exp(-\gamma (r - \mu_k)^2)`
    interaction: :math:`x_i \leftarrow x_i + D_4 \sigma(D_3 \sum_j D_0 x_j \odot W(r_{ij}))`

Differences from the paper: the envelope u takes filters to zero at the cutoff with two continuous derivatives, where
the paper has none (and SchNetPack a cosine with one); sums are divided by the square root of the typical number of
neighbours. Filters are made once for an edge and its reverse, which have one length. ``tests/models/test_schnet.py``
compares the rest with PyTorch Geometric's SchNet on the same weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gfmpot.config import tunable
from gfmpot.graph import AtomGraph, edge_pairs, gather_senders, sum_over_neighbours
from gfmpot.models.backbone import Backbone, BackboneConfig
from gfmpot.models.radial import gaussian, polynomial_envelope


@dataclass(frozen=True)
class SchNetConfig(BackboneConfig):
    """Settings of SchNet; ranges from the paper's Tables III and IV."""

    hidden: int = tunable(128, 100, 3000)
    layers: int = tunable(4, 2, 6)
    filters: int = tunable(128, 6, 300)
    """Width of the convolutions."""

    gaussians: int = tunable(40, 3, 100)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.hidden, self.layers, self.filters) < 1 or self.gaussians < 2:
            raise ValueError(f"hidden, layers and filters must be at least 1 and gaussians 2, got {self}")


class SchNet(Backbone):
    """Continuous-filter convolutions; F = ``hidden`` features in and out."""

    Config = SchNetConfig

    def __init__(self, config: SchNetConfig) -> None:
        super().__init__()
        self.hidden_features = self.out_features = config.hidden
        self.cutoff, self.gaussians = config.cutoff, config.gaussians
        scale = config.mean_neighbours**-0.5
        sizes = (config.hidden, config.filters, config.gaussians)
        self.interactions = nn.ModuleList(Interaction(*sizes, scale) for _ in range(config.layers))

    def forward(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """See :meth:`gfmpot.models.Backbone.forward`."""
        one_way, pair = edge_pairs(graph)
        distances = torch.linalg.vector_norm(vectors.index_select(0, one_way), dim=1)
        basis = gaussian(distances.unsqueeze(1), self.gaussians, self.cutoff)
        envelope = polynomial_envelope(distances / self.cutoff).unsqueeze(1)
        x = initial
        for interaction in self.interactions:
            x = x + interaction(x, basis, envelope, pair, graph)
        return x


class Interaction(nn.Module):
    """A continuous-filter convolution and the dense layers after it (section 4.1)."""

    def __init__(self, features: int, filters: int, size: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.inner = nn.Linear(features, filters, bias=False)
        self.filters = nn.ModuleList([nn.Linear(size, filters), nn.Linear(filters, filters)])
        self.outer = nn.ModuleList([nn.Linear(filters, features), nn.Linear(features, features)])

    def forward(self, x: Tensor, basis: Tensor, envelope: Tensor, pair: Tensor, graph: AtomGraph) -> Tensor:
        """Features (N, F), and Gaussians (P, K) and envelope (P, 1) of the pair (E,) of each edge, to changes of the
        features (N, F)."""
        first, second = self.filters
        filters = second(shifted_softplus(first(basis))) * (envelope * self.scale)
        sums = sum_over_neighbours(gather_senders(self.inner(x), graph) * filters.index_select(0, pair), graph)
        first, second = self.outer
        return second(shifted_softplus(first(sums)))  # type: ignore[no-any-return]


def shifted_softplus(x: Tensor) -> Tensor:
    """:math:`\\ln(1 + e^x) - \\ln 2`, smooth and zero at zero."""
    return F.softplus(x) - math.log(2.0)
