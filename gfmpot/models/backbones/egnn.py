r"""EGNN: messages from distances, which move the atoms.

Satorras, Hoogeboom, Welling, *E(n) equivariant graph neural networks* (2021). With features :math:`h_i \in R^F`, places
:math:`x_i` that begin at the atoms, neighbours j of i and networks :math:`\phi`:

    :math:`m_{ij} = \phi_e(h_i, h_j, |x_i - x_j|^2, a_{ij}) \, u(r_{ij} / r_c)` (eq. 3)
    :math:`x_i \leftarrow x_i + \sum_j (x_i - x_j) \, \phi_x(m_{ij})` (eq. 4)
    :math:`h_i \leftarrow h_i + \phi_h(h_i, \sum_j m_{ij})` (eqs. 5, 6)

Only differences of places enter, so that atoms may be periodic images of each other. The attributes :math:`a_{ij}` of
an edge are a Bessel basis of its length. Differences from the paper: the envelope u, of the length that the edge has at
first, takes messages smoothly to zero at the cutoff; what moves an atom is bounded, and divided by the cutoff's scale;
sums are divided by the square root of the typical number of neighbours; places do not move after the last layer, which
nothing would see.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gfmpot.config import tunable
from gfmpot.graph import AtomGraph, gather_senders, sum_over_neighbours
from gfmpot.models.backbone import Backbone, BackboneConfig
from gfmpot.models.dense import mlp
from gfmpot.models.radial import BesselBasis, polynomial_envelope

RADIAL = 8
"""Bessel functions in an edge's attributes."""


@dataclass(frozen=True)
class EGNNConfig(BackboneConfig):
    """Settings of EGNN; ranges from the paper's Table III."""

    hidden: int = tunable(128, 100, 3000)
    layers: int = tunable(4, 2, 6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.hidden, self.layers) < 1:
            raise ValueError(f"hidden and layers must be at least 1, got {self}")


class EGNN(Backbone):
    """Messages from distances between places that move; F = ``hidden`` features in and out."""

    Config = EGNNConfig

    def __init__(self, config: EGNNConfig) -> None:
        super().__init__()
        self.hidden_features = self.out_features = config.hidden
        self.cutoff = config.cutoff
        self.basis = BesselBasis(RADIAL, config.cutoff)
        scale, last = config.mean_neighbours**-0.5, config.layers - 1
        self.layers = nn.ModuleList(Layer(config.hidden, scale, last=i == last) for i in range(config.layers))

    def forward(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """See :meth:`gfmpot.models.Backbone.forward`."""
        distances = torch.linalg.vector_norm(vectors, dim=1)
        envelope = polynomial_envelope(distances / self.cutoff).unsqueeze(1)
        attributes = self.basis(distances)
        h, apart = initial, vectors / self.cutoff
        for layer in self.layers:
            h, apart = layer(h, apart, attributes, envelope, graph)
        return h


class Layer(nn.Module):
    """An equivariant graph convolution (section 3)."""

    def __init__(self, features: int, scale: float, *, last: bool) -> None:
        super().__init__()
        self.scale = scale
        # φ_e's first layer, in parts: products per atom instead of per edge.
        self.receiver = nn.Linear(features, features)
        self.sender = nn.Linear(features, features, bias=False)
        self.edge = nn.Linear(RADIAL + 2, features, bias=False)
        self.message = nn.Linear(features, features)
        self.update = mlp(2 * features, features, features)
        self.move = None if last else mlp(features, features, 1)

    def forward(
        self, h: Tensor, apart: Tensor, attributes: Tensor, envelope: Tensor, graph: AtomGraph
    ) -> tuple[Tensor, Tensor]:
        """Features (N, F), differences of places (E, 3) from sender to receiver in units of the cutoff, attributes
        (E, K) and envelope (E, 1), to new features and differences."""
        square = (apart * apart).sum(dim=1, keepdim=True)
        edge = self.edge(torch.cat([square, attributes], dim=1))
        inner = self.receiver(h).index_select(0, graph.receivers) + gather_senders(self.sender(h), graph) + edge
        messages = F.silu(self.message(F.silu(inner))) * envelope
        received = self.scale * sum_over_neighbours(messages, graph)
        if self.move is not None:
            steps = apart * (torch.tanh(self.move(messages)) * envelope)
            moved = self.scale * sum_over_neighbours(steps, graph)
            apart = apart + moved.index_select(0, graph.receivers) - gather_senders(moved, graph)
        return h + self.update(torch.cat([h, received], dim=1)), apart
