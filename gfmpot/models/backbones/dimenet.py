r"""DimeNet++: messages that live on directed edges and know the angles between them.

Gasteiger, Groß, Günnemann, *Directional Message Passing for Molecular Graphs* (DimeNet, 2020) and Gasteiger, Giri,
Margraf, Günnemann, *Fast and Uncertainty-Aware Directional Message Passing for Non-Equilibrium Molecules* (DimeNet++,
2020). With features :math:`h_i` of atoms, messages :math:`m_{ji}` from j to i, dense layers W, activations
:math:`\sigma` (SiLU), :math:`x = d / c` and the envelope u (eq. 8):

    radial basis (eq. 7): :math:`e_n(d) = u(x) \sin(n \pi x) / x`
    basis of two edges (eq. 6): :math:`a_{ln}(d, \theta) = u(x)\, N_{ln}\, j_l(z_{ln} x)\, Y_l^0(\theta)`
    embedding (eq. 9): :math:`m_{ji} = \sigma(W [h_i, h_j, \sigma(W e(d_{ji}))])`
    interaction, as in DimeNet++: :math:`m_{ji}` becomes :math:`m_{ji} + \sigma(W R(\sigma(W m_{ji}) +
        \sigma(W_\uparrow y_{ji})))`, followed by more residual layers, where R are such layers, too, and
        :math:`y_{ji} = \sum_{k \to j, k \ne i} \sigma(W_\downarrow(\sigma(W m_{kj}) \odot W_2 W_1 e(d_{kj}))) \odot
        W'_2 W'_1 a(d_{kj}, \theta_{kji})`
    output: :math:`t_i = W \sigma(W \sigma(W \sigma(W W_\uparrow \sum_j m_{ji} \odot W e(d_{ji}))))`

The features returned are :math:`h_i` plus the outputs after the embedding and after each interaction.

Nothing of an edge is left at the cutoff. Its message itself does not vanish there, but is only ever read times
:math:`e(d)`, in outputs and in sums over pairs of edges alike, and :math:`W_\downarrow` has no bias. With e go its
first three derivatives: two of the envelope, and every function of both bases has a root there.

Differences from the papers. Sums over neighbours are divided by the square root of their typical number. Atoms keep
:math:`h_i`, without which an ion alone would have the energy of an atom. A pair of edges leaves out only the way back
across the opposite cell shift, not other images of the atom. Angles enter as polynomials of directions, and sums over
pairs of edges are taken apart (:mod:`._dimenet_triplets`): the same numbers, smooth for atoms in line. Distances are in
units of the cutoff, so that the papers' factors of c, which weights absorb, are missing. From the authors' code, the
basis of two edges differs by a factor x, by which eq. 6 does not divide, and frequencies are not learnt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gfmpot.config import tunable
from gfmpot.graph import AtomGraph, gather_senders, sum_over_neighbours
from gfmpot.models.backbone import Backbone, BackboneConfig
from gfmpot.models.backbones._dimenet_basis import Harmonics, RadialFunctions
from gfmpot.models.backbones._dimenet_triplets import EdgePairs

OUTPUT_LAYERS = 3
"""Dense layers of each output, between its two projections."""


@dataclass(frozen=True)
class DimeNetConfig(BackboneConfig):
    """Settings of DimeNet++; ranges from the Tables III and IV of the paper on graph foundation models."""

    hidden: int = tunable(64, 10, 100)
    """H, width of messages and of the features of atoms."""

    layers: int = tunable(3, 2, 6)
    """Interactions."""

    basis_embedding: int = tunable(8, 8, 200)
    """Rank of the maps from bases to filters."""

    envelope_exponent: int = tunable(5, 4, 6)
    """Of the envelope; p − 1 in eq. 8."""

    interaction_embedding: int = tunable(32, 16, 500)
    """I, width of messages where they meet at an angle."""

    output_embedding: int = tunable(128, 24, 4000)
    """O, width of outputs before they are projected to H."""

    layers_after_skip: int = tunable(2, 0, 2)
    layers_before_skip: int = tunable(1, 0, 2)
    radial_basis: int = tunable(6, 3, 12)
    """K, number of radial functions of each order."""

    spherical_basis: int = tunable(7, 2, 8)
    """L, number of orders of the angular basis."""

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = (self.hidden, self.basis_embedding, self.interaction_embedding, self.output_embedding)
        if min(*widths, self.layers, self.envelope_exponent, self.radial_basis, self.spherical_basis) < 1:
            raise ValueError(f"widths, layers, envelope_exponent and sizes of bases must be at least 1, got {self}")
        if min(self.layers_after_skip, self.layers_before_skip) < 0:
            raise ValueError(f"layers_after_skip and layers_before_skip must not be negative, got {self}")


class DimeNet(Backbone):
    """Directional message passing; H = ``hidden`` features in and out."""

    Config = DimeNetConfig

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        self.hidden_features = self.out_features = config.hidden
        self.functions = RadialFunctions(
            config.spherical_basis, config.radial_basis, config.cutoff, config.envelope_exponent
        )
        self.harmonics = Harmonics(config.spherical_basis)
        self.embedding = Embedding(config)
        self.interactions = nn.ModuleList(Interaction(config) for _ in range(config.layers))
        self.outputs = nn.ModuleList(Output(config) for _ in range(config.layers + 1))

    def forward(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """See :meth:`gfmpot.models.Backbone.forward`."""
        distances = torch.linalg.vector_norm(vectors, dim=1)
        functions = self.functions(distances)
        basis = functions[:, 0] * math.sqrt(0.5)  # j_0 is a sine over its argument: eq. 7 is the first row of eq. 6
        pairs = EdgePairs(functions, vectors / distances.unsqueeze(1), self.harmonics, graph)
        messages = self.embedding(initial, basis, graph)
        features: Tensor = initial + self.outputs[0](messages, basis, graph)
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            messages = interaction(messages, basis, pairs)
            features = features + output(messages, basis, graph)
        return features


class Embedding(nn.Module):
    """The first messages, from atoms and distances (DimeNet, eq. 9)."""

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        self.radial = nn.Linear(config.radial_basis, config.hidden)
        self.dense = nn.Linear(3 * config.hidden, config.hidden)

    def forward(self, atoms: Tensor, basis: Tensor, graph: AtomGraph) -> Tensor:
        """Features of atoms (N, H) and basis (E, K) to messages (E, H).

        The product with the joined features of both atoms is the sum of products, made once per atom.
        """
        to_receiver, to_sender, to_basis = self.dense.weight.chunk(3, dim=1)
        received = F.linear(atoms, to_receiver, self.dense.bias).index_select(0, graph.receivers)
        lengths = F.linear(F.silu(self.radial(basis)), to_basis)
        return F.silu(received + gather_senders(F.linear(atoms, to_sender), graph) + lengths)


class Interaction(nn.Module):
    """How a message changes by those that arrive where it starts (DimeNet++, fig. 1)."""

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        hidden, rank, inner = config.hidden, config.basis_embedding, config.interaction_embedding
        self.scale, self.orders = config.mean_neighbours**-0.5, config.spherical_basis
        self.radial = LowRank(config.radial_basis, rank, hidden)
        self.spherical = LowRank(config.radial_basis * self.orders, rank, inner)
        self.own, self.sent = dense(hidden, hidden), dense(hidden, hidden)
        self.down, self.up = dense(hidden, inner, bias=False), dense(inner, hidden, bias=False)
        self.before_skip = residuals(config.layers_before_skip, hidden)
        self.dense = dense(hidden, hidden)
        self.after_skip = residuals(config.layers_after_skip, hidden)

    def forward(self, messages: Tensor, basis: Tensor, pairs: EdgePairs) -> Tensor:
        """Messages (E, H) and basis (E, K) to new messages."""
        sent = F.silu(self.sent(messages)) * F.linear(basis, self.radial())
        sent = F.silu(self.down(sent))
        arrived = pairs.sums(sent, self._filters()).to(sent.dtype)
        mixed = self.before_skip(F.silu(self.own(messages)) + F.silu(self.up(arrived)))
        changed: Tensor = self.after_skip(F.silu(self.dense(mixed)) + messages)
        return changed

    def _filters(self) -> Tensor:
        """(L, K, I)."""
        weight: Tensor = self.spherical() * self.scale
        return weight.view(weight.shape[0], self.orders, -1).permute(1, 2, 0)


class Output(nn.Module):
    """What messages tell the atoms that they arrive at (DimeNet++, fig. 1)."""

    def __init__(self, config: DimeNetConfig) -> None:
        super().__init__()
        hidden, wide = config.hidden, config.output_embedding
        self.scale = config.mean_neighbours**-0.5
        self.radial = dense(config.radial_basis, hidden, bias=False)
        self.up = dense(hidden, wide, bias=False)
        self.layers = nn.Sequential(*(m for _ in range(OUTPUT_LAYERS) for m in (dense(wide, wide), nn.SiLU())))
        self.last = dense(wide, hidden, bias=False)

    def forward(self, messages: Tensor, basis: Tensor, graph: AtomGraph) -> Tensor:
        """Messages (E, H) and basis (E, K) to features of atoms (N, H)."""
        read = (messages * self.radial(basis)).to(basis.dtype)  # sums stay in it where autocast has made bfloat16
        atoms = sum_over_neighbours(read, graph) * self.scale
        features: Tensor = self.last(self.layers(self.up(atoms)))
        return features


class LowRank(nn.Module):
    """The weight of two linear maps, one after the other."""

    def __init__(self, inputs: int, rank: int, outputs: int) -> None:
        super().__init__()
        self.first, self.second = dense(inputs, rank, bias=False), dense(rank, outputs, bias=False)

    def forward(self) -> Tensor:
        """(outputs, inputs); one product for all edges instead of another one per edge."""
        product: Tensor = self.second.weight @ self.first.weight
        return product


class Residual(nn.Module):
    """Two dense layers beside an identity."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(dense(features, features), nn.SiLU(), dense(features, features), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """(E, F) to (E, F)."""
        changed: Tensor = x + self.layers(x)
        return changed


def residuals(count: int, features: int) -> nn.Sequential:
    """Residual layers, one after the other."""
    return nn.Sequential(*(Residual(features) for _ in range(count)))


def dense(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A dense layer with random orthogonal weights of Glorot's variance and no bias to begin with, as in DimeNet."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.orthogonal_(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(math.sqrt(2 / (inputs + outputs)) / layer.weight.square().mean().sqrt())
        if bias:
            layer.bias.zero_()
    return layer
