r"""PNAEq: PaiNN whose scalar messages are aggregated in several ways at once.

The scalars of PaiNN (Schütt, Unke, Gastegger 2021) receive what Principal Neighbourhood Aggregation does with messages
(Corso, Cavalleri, Beaini, Liò, Veličković, *Principal neighbourhood aggregation for graph nets*, 2020): their mean,
standard deviation, largest and smallest, each as it is, amplified and attenuated by the number of neighbours. Vectors
are those of PaiNN. With messages :math:`m_{ij} = \sigma(A s_i + B s_j + C b(r_{ij}))` and an envelope u:

    degree: :math:`d_i = \sum_j u_{ij}`, and its scaler :math:`S_i = \ln(2 + d_i) / \ln(2 + \bar d)` (PNA, eq. 5)
    aggregates: :math:`a_i` = mean, deviation, soft maximum and soft minimum of :math:`m_{ij}`, weighted by u (eq. 6)
    message: :math:`\Delta s_i = (M_1 + S_i M_2 + S_i^{-1} M_3) \, a_i` (eq. 8)

Differences from PNA, all of which forces need: counts, means and extremes over a hard set of neighbours jump when an
atom crosses the cutoff, and extremes have a kink where two messages are equal. Here every neighbour has the weight u,
and each atom has a message of zero and weight one of its own, so that all is smooth and nothing is divided by zero;
extremes are means with weights :math:`\exp(\pm \beta m / \sqrt{1 + m^2})`. The mean degree is that of the settings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gfmpot.graph import AtomGraph, gather_senders, sum_over_neighbours
from gfmpot.models.backbone import Backbone
from gfmpot.models.backbones.painn import NORM_SOFTNESS, PaiNNConfig, Update, directed_sums, passed_sums
from gfmpot.models.dense import mlp
from gfmpot.models.radial import BesselBasis, polynomial_envelope

SHARPNESS = 4.0
"""β of the soft extremes: the largest of equally many messages near 1 and 0 has 17 times the weight of the smallest."""

AGGREGATORS = 4


@dataclass(frozen=True)
class PNAEqConfig(PaiNNConfig):
    """Settings of PNAEq, which are those of PaiNN; so are the ranges (Tables III and IV)."""


class PNAEq(Backbone):
    """Scalar–vector message passing with several aggregators; F = ``hidden`` features in and out."""

    Config = PNAEqConfig

    def __init__(self, config: PNAEqConfig) -> None:
        super().__init__()
        self.hidden_features = self.out_features = config.hidden
        self.cutoff = config.cutoff
        self.basis = BesselBasis(config.radial_basis, config.cutoff)
        first_flags = [True] + [False] * (config.layers - 1)
        sizes = (config.hidden, self.basis.out_features, config.mean_neighbours)
        self.scalars = nn.ModuleList(ScalarMessage(*sizes) for _ in first_flags)
        self.vectors = nn.ModuleList(VectorMessage(*sizes, first=first) for first in first_flags)
        self.updates = nn.ModuleList(Update(config.hidden, last=last) for last in reversed(first_flags))

    def forward(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """See :meth:`gfmpot.models.Backbone.forward`."""
        distances = torch.linalg.vector_norm(vectors, dim=1)
        units = vectors / distances.unsqueeze(1)
        basis, envelope = self.basis(distances), polynomial_envelope(distances / self.cutoff).unsqueeze(1)
        s, v = initial, None
        for scalar, vector, update in zip(self.scalars, self.vectors, self.updates, strict=True):
            received = scalar(s, basis, envelope, graph)
            v = vector(s, v, basis, units, graph)
            s, v = update(s + received, v)
        return s


class ScalarMessage(nn.Module):
    """What scalars receive from their neighbours (PNA, eqs. 5 to 8)."""

    def __init__(self, features: int, radial: int, mean_neighbours: float) -> None:
        super().__init__()
        self.features, self.mean_neighbours = features, mean_neighbours
        self.receiver = nn.Linear(features, features)
        self.sender = nn.Linear(features, features, bias=False)
        self.edge = nn.Linear(radial, features, bias=False)
        self.mix = nn.Linear(AGGREGATORS * features, 3 * features, bias=False)

    def forward(self, s: Tensor, basis: Tensor, envelope: Tensor, graph: AtomGraph) -> Tensor:
        """Scalars (N, F), basis (E, K) and envelope (E, 1) to changes of the scalars (N, F)."""
        there = self.receiver(s).index_select(0, graph.receivers)
        messages = F.silu(there + gather_senders(self.sender(s), graph) + self.edge(basis))
        degree, aggregates = aggregate(messages, envelope, graph)
        plain, amplified, attenuated = torch.split(self.mix(aggregates), self.features, dim=1)
        scaler = torch.log(2.0 + degree) / math.log(2.0 + self.mean_neighbours)
        return plain + scaler * amplified + attenuated / scaler


class VectorMessage(nn.Module):
    """What vectors receive from their neighbours (PaiNN, eq. 8); the first one has none to pass on."""

    def __init__(self, features: int, radial: int, mean_neighbours: float, *, first: bool) -> None:
        super().__init__()
        self.features, self.scale = features, mean_neighbours**-0.5
        gates = 1 if first else 2
        self.gates = mlp(features, features, gates * features)
        self.filters = nn.Linear(radial, gates * features, bias=False)

    def forward(self, s: Tensor, v: Tensor | None, basis: Tensor, units: Tensor, graph: AtomGraph) -> Tensor:
        """Scalars (N, F), vectors (N, 3, F) or None, basis (E, K) and units (E, 3) to new vectors."""
        to_vector, *through = torch.split(self.gates(s), self.features, dim=1)
        w_vector, *w_through = torch.split(self.filters.weight.T * self.scale, self.features, dim=1)
        received = directed_sums(to_vector, w_vector, basis, units, graph)
        if v is None:
            return received
        return v + received + passed_sums(v, through[0], w_through[0], basis, graph)


def aggregate(messages: Tensor, envelope: Tensor, graph: AtomGraph) -> tuple[Tensor, Tensor]:
    """Messages (E, F) and their weights (E, 1) to degrees (N, 1) and aggregates (N, 4 F)."""
    steep = SHARPNESS * messages / torch.sqrt(1.0 + messages * messages)
    high, low = envelope * torch.exp(steep), envelope * torch.exp(-steep)
    weighted = envelope * messages
    parts = [envelope, weighted, weighted * messages, high, high * messages, low, low * messages]
    sizes = [part.shape[1] for part in parts]
    sums = torch.split(sum_over_neighbours(torch.cat(parts, dim=1), graph), sizes, dim=1)
    degree, first, second, many, largest, few, smallest = sums
    total = 1.0 + degree  # with the message of zero that each atom has of its own
    mean = first / total
    variance = second / total - mean * mean
    deviation = torch.sqrt(variance + NORM_SOFTNESS**2) - NORM_SOFTNESS
    return degree, torch.cat([mean, deviation, largest / (1.0 + many), smallest / (1.0 + few)], dim=1)
