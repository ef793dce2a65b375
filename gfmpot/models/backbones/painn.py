r"""PaiNN: scalar and vector features of atoms, coupled by equivariant messages.

Schütt, Unke, Gastegger, *Equivariant message passing for the prediction of tensorial properties and molecular spectra*
(2021). With scalars :math:`s_i \in R^F`, vectors :math:`v_i \in R^{3 \times F}`, neighbours j of i, unit vectors
:math:`u_{ij}`, networks :math:`\phi, a` and radial filters W that vanish at the cutoff:

    message (eqs. 7, 8):
        :math:`\Delta s_i = \sum_j \phi_s(s_j) W_s(r_{ij})`
        :math:`\Delta v_i = \sum_j v_j \phi_{vv}(s_j) W_{vv}(r_{ij}) + \phi_{vs}(s_j) W_{vs}(r_{ij}) u_{ij}`
    update (eqs. 9, 10), with :math:`a = a(s_i, |V v_i|)`:
        :math:`\Delta s_i = a_{ss} + a_{sv} \langle U v_i, V v_i \rangle`
        :math:`\Delta v_i = a_{vv} U v_i`

Differences from the paper, all exact simplifications or needed for smooth forces: vectors are zero before the first
message and unused after the last update, so the weights that only they would see do not exist; the filter's bias lies
inside the envelope; the norm is :math:`\sqrt{|V v|^2 + \epsilon^2}`, smooth at zero, where symmetric crystals sit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from gfmpot.config import tunable
from gfmpot.graph import AtomGraph, filtered_neighbour_sums, in_plain_operations
from gfmpot.models.backbone import Backbone, BackboneConfig, TrainingKernels
from gfmpot.models.dense import mlp
from gfmpot.models.radial_choices import RadialChoice

if TYPE_CHECKING:
    from gfmpot.models.backbones._painn_fast import FastPaiNN

NORM_SOFTNESS = 0.1
"""ε of the smooth norm; features are of order one. A small ε makes a cusp where vectors vanish by symmetry: forces stay
continuous, but force constants of symmetric sites (phonons, vibrations) come out wrong, even in sign."""


MOST_KINDS = 128
"""Of atoms, for which the first message is made from a table: its cost grows with their number."""


@dataclass(frozen=True)
class PaiNNConfig(BackboneConfig):
    """Settings of PaiNN; ranges from the paper's Tables III and IV."""

    hidden: int = tunable(128, 100, 1000)
    layers: int = tunable(3, 2, 6)
    radial_basis: int = tunable(8, 3, 12)
    distance_transform: Literal["none", "agnesi", "both"] = tunable("none", choices=("none", "agnesi", "both"))
    """Of lengths before the basis (:mod:`gfmpot.models.radial_choices`). ``agnesi`` relates them to the covalent radii
    of a pair, so that what is learnt of one pair holds for others: with many elements, far fewer steps to the same
    error. ``both`` is one half of the functions of each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.hidden, self.layers, self.radial_basis) < 1:
            raise ValueError(f"hidden, layers and radial_basis must be at least 1, got {self}")


class PaiNN(Backbone):
    """Scalar–vector message passing; F = ``hidden`` features in and out."""

    Config = PaiNNConfig

    def __init__(self, config: PaiNNConfig) -> None:
        super().__init__()
        self.hidden_features = self.out_features = config.hidden
        self.basis = RadialChoice("bessel", config.distance_transform, config.radial_basis, config.cutoff)
        scale = config.mean_neighbours**-0.5
        first_flags = [True] + [False] * (config.layers - 1)
        self.messages = nn.ModuleList(
            Message(config.hidden, self.basis.out_features, scale, first=first) for first in first_flags
        )
        self.updates = nn.ModuleList(Update(config.hidden, last=last) for last in reversed(first_flags))

    def forward(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """See :meth:`gfmpot.models.Backbone.forward`."""
        distances = torch.linalg.vector_norm(vectors, dim=1)
        units = vectors / distances.unsqueeze(1)
        basis = self.basis(distances, graph)
        s, v = initial, None
        for message, update in zip(self.messages, self.updates, strict=True):
            s, v = message(s, v, basis, units, graph)
            s, v = update(s, v)
        return s

    def kernels(self, dense: torch.dtype) -> FastPaiNN | None:
        """See :meth:`gfmpot.models.Backbone.kernels`."""
        from gfmpot import kernels

        if not kernels.available() or next(self.parameters()).device.type != "cpu":
            return None
        from gfmpot.models.backbones._painn_fast import FastPaiNN

        return FastPaiNN(self, dense)

    def training_kernels(self) -> TrainingKernels | None:
        """See :meth:`gfmpot.models.Backbone.training_kernels`."""
        from gfmpot import kernels

        fast = self.kernels(next(self.parameters()).dtype)
        if fast is None or self.out_features % kernels.CACHE_LINE:
            return None
        from gfmpot.models.backbones._painn_weights import TrainedPaiNN

        return TrainingKernels(fast, TrainedPaiNN(self, fast))


class Message(nn.Module):
    """What an atom receives from its neighbours (eqs. 7 and 8); the first one has no vectors to pass on."""

    def __init__(self, features: int, radial: int, scale: float, *, first: bool) -> None:
        super().__init__()
        self.features, self.scale = features, scale
        gates = 2 if first else 3
        self.scalars = mlp(features, features, gates * features)
        self.filters = nn.Linear(radial, gates * features, bias=False)

    def forward(
        self, s: Tensor, v: Tensor | None, basis: Tensor, units: Tensor, graph: AtomGraph
    ) -> tuple[Tensor, Tensor]:
        """Scalars (N, F) and vectors (N, 3, F) or None, basis (E, K), units (E, 3), to new scalars and vectors.

        Filters are linear in the basis, so that no tensor has a row per edge and a column per feature.
        """
        filters = self.filters.weight.T * self.scale  # (K, gates F)
        if v is None and not in_plain_operations() and len(graph.kinds[0]) <= MOST_KINDS:
            scalars, vectors = self._from_kinds(s[graph.kinds[0]], filters, basis, units, graph)
            return s + scalars, vectors
        to_scalar, to_vector, *through = torch.split(self.scalars(s), self.features, dim=1)
        w_scalar, w_vector, *w_through = torch.split(filters, self.features, dim=1)
        received = directed_sums(to_vector, w_vector, basis, units, graph)
        if v is not None:
            received = v + received + passed_sums(v, through[0], w_through[0], basis, graph)
        return s + filtered_neighbour_sums(basis, w_scalar, to_scalar, graph), received

    def _from_kinds(
        self, s: Tensor, filters: Tensor, basis: Tensor, units: Tensor, graph: AtomGraph
    ) -> tuple[Tensor, Tensor]:
        """The first message, in which senders of one kind say the same: a table (U K, F) instead of N networks.

        What is summed over neighbours, by kind, is the basis alone.
        """
        directed = torch.cat([basis.unsqueeze(2), basis.unsqueeze(2) * units.unsqueeze(1)], dim=2)  # (E, K, 4)
        kind = graph.kinds[1].index_select(0, graph.senders)
        place = graph.receivers * len(s) + kind
        sums = directed.new_zeros(graph.n_atoms * len(s), *directed.shape[1:]).index_add(0, place, directed)
        sums = sums.view(graph.n_atoms, -1, 4).transpose(1, 2)  # (N, 4, U K)
        tables = (self.scalars(s).unsqueeze(1) * filters).flatten(0, 1).to(sums.dtype)  # (U K, 2 F)
        to_scalar, to_vector = torch.split(tables, self.features, dim=1)
        return sums[:, 0] @ to_scalar, sums[:, 1:] @ to_vector


def directed_sums(gates: Tensor, filters: Tensor, basis: Tensor, units: Tensor, graph: AtomGraph) -> Tensor:
    """(N, 3, F): what gates of senders (N, F) and filters (K, F) put along unit vectors (E, 3) (eq. 8, second term)."""
    steps = torch.split(units, 1, dim=1)
    return torch.stack([filtered_neighbour_sums(basis * u, filters, gates, graph) for u in steps], dim=1)


def passed_sums(v: Tensor, gates: Tensor, filters: Tensor, basis: Tensor, graph: AtomGraph) -> Tensor:
    """(N, 3, F): vectors of senders (N, 3, F) times their gates (N, F) and filters (K, F) (eq. 8, first term)."""
    passed = (gates.unsqueeze(1) * v).flatten(1)
    return filtered_neighbour_sums(basis, filters.repeat(1, 3), passed, graph).view(v.shape)


class Update(nn.Module):
    """How an atom mixes its own scalars and vectors (eqs. 9 and 10); the last one leaves the vectors alone."""

    def __init__(self, features: int, *, last: bool) -> None:
        super().__init__()
        self.features = features
        self.mix = nn.Linear(features, 2 * features, bias=False)  # a bias would break rotation equivariance
        self.gates = mlp(2 * features, features, (2 if last else 3) * features)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (N, F) and vectors (N, 3, F) to new ones."""
        u, w = self.mix(v).split(self.features, dim=2)
        norm = torch.sqrt((w * w).sum(dim=1) + NORM_SOFTNESS**2)
        a_ss, a_sv, *a_vv = self.gates(torch.cat([s, norm], dim=1)).split(self.features, dim=1)
        s = s + a_ss + a_sv * (u * w).sum(dim=1)
        return s, v + a_vv[0].unsqueeze(1) * u if a_vv else v
