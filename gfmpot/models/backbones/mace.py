r"""MACE: messages of many atoms at once, from products of equivariant sums over neighbours.

Batatia, Kovács, Simm, Ortner, Csányi, *MACE: Higher Order Equivariant Message Passing Neural Networks for Fast and
Accurate Force Fields* (NeurIPS 2022, arXiv:2206.07697). With K channels k, features :math:`h_{i,klm}` that begin as
scalars from element, charge and spin, spherical harmonics Y, Clebsch–Gordan coefficients C and neighbours j of i, a
layer is

    :math:`\phi_{ij,k l_3 m_3} = \sum_{l_1 m_1 l_2 m_2} C^{l_3 m_3}_{l_1 m_1 l_2 m_2} R_{k l_1 l_2 l_3}(r_{ij})
    Y_{l_1 m_1}(\hat r_{ij}) \sum_{k'} W_{k k' l_2} h_{j,k' l_2 m_2}` (eq. 8, and 9 where h are scalars)
    :math:`A_{i,k lm} = \sum_{k' \eta} W_{k k' \eta l} \sum_j \phi_{ij,k' \eta lm}` (eq. 8, and w in eq. 10)
    :math:`m_{i,kLM} = \sum_{\nu \eta} W_{i,\nu \eta k L} B_{i,\nu \eta kLM}`, B products of ν factors A (eqs. 10, 11)
    :math:`h_{i,kLM} \leftarrow \sum_{k'} W_{kk'L} m_{i,k'LM} + g_{i,kL} \sum_{k'} W'_{kk'L} h_{i,k'LM}` (eq. 12)

with η the pairs :math:`(l_1, l_2)` that give an l, and for B the ways of coupling (:mod:`._mace_contraction`). All
features have parity :math:`(-1)^l`. Scalars of all layers, side by side, are the result: the energy is a sum over
layers of functions of them (eq. 13), which is for the heads to learn.

Differences from the paper and from mace-torch, deliberate:

- **Weights do not depend on the element but on the initial features** :math:`x_i`, which know the charge and spin as
  well. The paper has a table :math:`W_{z \nu\eta k L}` with a row per element; here :math:`W_i = \sum_s c_s(x_i)
  W_s` with c linear and S = ``species`` rows: the same table as a product of rank S. One-hot c and a row per element
  would be the paper's. The skip connection's :math:`W_{z k k' L}` is :math:`g_{kL}(x_i) W'_{kk'L}`, with g linear.
- **Radial functions** are those of :mod:`gfmpot.models.radial_choices`: they include the envelope itself, which stands
  for the bias that the network of radial functions, having none, lacks. All of them are zero at the cutoff, and so is
  what the network makes of them, with two derivatives. The Agnesi coordinate is spread over the functions' range.
- **Sums over neighbours** are divided by the square root of ``mean_neighbours``, not by the number: with fresh weights
  A is of order one then (0.1 to 0.4 in molecules, 0.2 to 1.5 in crystals), and its cubes are not the largest messages.
- Linear maps have their scale in their initial weights, not in a factor beside them, so that a wider network can begin
  with the weights of a narrower one.
- The skip connection is there in the first layer, too, and the last layer has scalars only, as in mace-torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor, nn

from gfmpot.config import tunable
from gfmpot.graph import AtomGraph
from gfmpot.models.backbone import Backbone, BackboneConfig
from gfmpot.models.backbones._mace_contraction import Constants, SymmetricContraction
from gfmpot.models.backbones._mace_harmonics import MOST_ELL, degrees, harmonics, wigner_3j
from gfmpot.models.backbones._mace_neighbours import Slots, slots
from gfmpot.models.radial_choices import DistanceTransform, RadialChoice, RadialType

RADIAL_WIDTHS = (64, 64, 64)
"""Of the hidden layers of the network of radial functions, as in the paper."""

SILU_GAIN = 1.679177
"""1 over the root mean square of SiLU of a normal variable: layers keep their size."""


@dataclass(frozen=True)
class MACEConfig(BackboneConfig):
    """Settings of MACE; ranges from the source paper's Tables III and IV."""

    hidden: int = tunable(128, 100, 1000)
    """K, channels: copies of each order."""

    layers: int = tunable(2, 2, 6)
    radial_type: RadialType = tunable("bessel", choices=get_args(RadialType))  # noqa: RUF009, a field as the others
    distance_transform: DistanceTransform = tunable("none", choices=get_args(DistanceTransform))  # noqa: RUF009
    radial_basis: int = tunable(8, 3, 12)
    max_ell: int = tunable(2, 2, 3)
    """Highest order of spherical harmonics of edges, and of A."""

    node_max_ell: int = tunable(1, 1, 3)
    """Highest order of features between layers."""

    correlation: int = tunable(3, 2, 3)
    """Highest number of factors A: messages are of one order of bodies more."""

    species: int = 16
    """S, rank of the table of weights of the contraction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.hidden, self.layers, self.radial_basis, self.species) < 1:
            raise ValueError(f"hidden, layers, radial_basis and species must be at least 1, got {self}")
        if not 1 <= self.max_ell <= MOST_ELL or self.correlation not in (2, 3):
            raise ValueError(
                f"max_ell must be 1 to {MOST_ELL} and correlation 2 or 3, got {self.max_ell} and {self.correlation}"
            )
        if not 0 <= self.node_max_ell <= 2 * self.max_ell:  # beyond that, edges could not make anything of them
            raise ValueError(f"node_max_ell must be 0 to twice max_ell, got {self.node_max_ell} and {self.max_ell}")


class MACE(Backbone):
    """Products of equivariant sums over neighbours; F = ``hidden`` features in, ``layers`` times as many out."""

    Config = MACEConfig

    def __init__(self, config: MACEConfig) -> None:
        super().__init__()
        self.max_ell = config.max_ell
        self.hidden_features, self.out_features = config.hidden, config.layers * config.hidden
        self.basis = RadialChoice(config.radial_type, config.distance_transform, config.radial_basis, config.cutoff)
        orders = [0, *[config.node_max_ell] * (config.layers - 1), 0]
        self.layers = nn.ModuleList(Layer(config, self.basis.out_features, *ends) for ends in pairwise(orders))

    def forward(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """See :meth:`gfmpot.models.Backbone.forward`."""
        scalars = [h[0] for h in self.features(initial, vectors, graph)]
        return torch.cat(scalars, dim=1)

    def features(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> list[Tensor]:
        """After each layer, h ((orders + 1)², N, K); arguments as for :meth:`forward`."""
        distances = torch.linalg.vector_norm(vectors, dim=1)
        places = slots(graph)
        angular = places.fill(harmonics(vectors / distances.unsqueeze(1), self.max_ell))
        radial = places.fill(self.basis(distances, graph))
        h, found = initial.unsqueeze(0), []
        for layer in self.layers:
            h = layer(h, initial, radial, angular, places)
            found.append(h)
        return found


class Layer(nn.Module):
    """Features h of orders up to ``before`` to those up to ``after``."""

    def __init__(self, config: MACEConfig, radial: int, before: int, after: int) -> None:
        super().__init__()
        width = config.hidden
        self.convolution = Convolution(width, radial, config.max_ell, before, config.mean_neighbours)
        self.contraction = SymmetricContraction(config.max_ell, after, config.correlation)
        self.species = linear(width, config.species)
        self.weights = nn.ParameterList(
            torch.randn(paths, config.species, width) * (paths * config.species) ** -0.5
            for paths in self.contraction.paths
        )
        self.kept = min(before, after)
        self.mix = ByOrder(width, after)
        self.skip = ByOrder(width, self.kept)
        self.gates = linear(width, (self.kept + 1) * width)

    def forward(self, h: Tensor, initial: Tensor, radial: Tensor, angular: Tensor, places: Slots) -> Tensor:
        """Features (·, N, K), initial (N, K), radial (P, R) and angular (P, d) functions to features (·, N, K)."""
        a = self.convolution(h, radial, angular, places)
        with exactly(a):
            mixture = self.species(initial).to(a.dtype)
            messages = self.contraction(a, [mixture @ table for table in self.weights])
        new = self.mix(torch.stack(messages))
        kept = self._gated(self.skip(h[: (self.kept + 1) ** 2]), self.gates(initial))
        return torch.cat([new[: len(kept)] + kept, new[len(kept) :]])

    def _gated(self, h: Tensor, gates: Tensor) -> Tensor:
        """(·, N, K), each order times its own gates (N, · K)."""
        parts = torch.split(h, degrees(self.kept))
        return torch.cat([part * gate for part, gate in zip(parts, gates.chunk(len(parts), dim=1), strict=True)])


class Convolution(nn.Module):
    """Features h of neighbours to sums A on atoms (eqs. 8 and 9)."""

    def __init__(self, width: int, radial: int, max_ell: int, orders: int, mean_neighbours: float) -> None:
        super().__init__()
        self.orders, self.scale = orders, mean_neighbours**-0.5
        self.paths = edge_paths(max_ell, orders)
        self.couplings = Constants({"all": edge_couplings(self.paths, max_ell)})
        self.up = ByOrder(width, orders)
        self.radial = RadialNetwork(radial, len(self.paths) * width)
        fan_in = [sum(path[2] == ell for path in self.paths) for ell in range(max_ell + 1)]
        self.down = nn.ModuleList(linear(n * width, width) for n in fan_in)

    def forward(self, h: Tensor, radial: Tensor, angular: Tensor, places: Slots) -> Tensor:
        """Features (·, N, K), radial (P, R) and angular (P, d) functions to A (d, N, K)."""
        sent = [_by_slot(part, places).to(angular.dtype) for part in torch.split(self.up(h), degrees(self.orders))]
        filters = self.radial(radial).to(angular.dtype).chunk(len(self.paths), dim=1)
        with exactly(angular):
            functions = self._functions(angular)
            by_order: list[list[Tensor]] = [[] for _ in self.down]
            for (_, l2, l3), filtered, g in zip(self.paths, filters, functions, strict=True):
                by_order[l3].append(places.sum(g, filtered.unsqueeze(1) * sent[l2]))
        sums = [torch.cat(parts, dim=2).transpose(0, 1) for parts in by_order]  # (2 l + 1, N, · K)
        return torch.cat([down(s) for down, s in zip(self.down, sums, strict=True)]).to(angular.dtype)

    def _functions(self, angular: Tensor) -> list[Tensor]:
        """(P, d) to, by path, (P, 2 l2 + 1, 2 l3 + 1): harmonics of order l1 coupled to what is left."""
        shapes = [(2 * l2 + 1, 2 * l3 + 1) for _, l2, l3 in self.paths]
        functions = torch.split(angular @ self.couplings["all"], [a * b for a, b in shapes], dim=1)
        return [f.view(-1, *shape) * self.scale for f, shape in zip(functions, shapes, strict=True)]


def _by_slot(h: Tensor, places: Slots) -> Tensor:
    """(2 l + 1, N, K) of atoms to (P, 2 l + 1, K) of the senders of edges."""
    return h.transpose(0, 1).contiguous().index_select(0, places.senders)


class RadialNetwork(nn.Module):
    """Radial functions of an edge to its filters; no biases, so that zero remains zero."""

    def __init__(self, functions: int, filters: int) -> None:
        super().__init__()
        widths = (functions, *RADIAL_WIDTHS)
        self.hidden = nn.ModuleList(linear(a, b) for a, b in pairwise(widths))
        self.last = linear(widths[-1], filters)

    def forward(self, functions: Tensor) -> Tensor:
        """(P, R) to (P, · K)."""
        for layer in self.hidden:
            functions = SILU_GAIN * nn.functional.silu(layer(functions))
        filters: Tensor = self.last(functions)
        return filters


class ByOrder(nn.Module):
    """A linear map of channels for each order."""

    def __init__(self, width: int, orders: int) -> None:
        super().__init__()
        self.degrees = degrees(orders)
        self.maps = nn.ModuleList(linear(width, width) for _ in self.degrees)

    def forward(self, h: Tensor) -> Tensor:
        """(·, N, K) to (·, N, K)."""
        return torch.cat([f(part) for f, part in zip(self.maps, torch.split(h, self.degrees), strict=True)])


def edge_paths(max_ell: int, orders: int) -> list[tuple[int, int, int]]:
    """(l1, l2, l3) of harmonics, of features and of what comes of them, of parity (−1)^l3."""
    return [
        (l1, l2, l3)
        for l2 in range(orders + 1)
        for l1 in range(max_ell + 1)
        for l3 in range(abs(l1 - l2), min(l1 + l2, max_ell) + 1)
        if (l1 + l2 + l3) % 2 == 0
    ]


def edge_couplings(paths: list[tuple[int, int, int]], max_ell: int) -> Tensor:
    """(d, Σ (2 l2 + 1)(2 l3 + 1)) from all harmonics, such that results have the variance of products of factors."""
    columns = []
    for l1, l2, l3 in paths:
        column = torch.zeros((max_ell + 1) ** 2, (2 * l2 + 1) * (2 * l3 + 1), dtype=torch.float64)
        column[l1 * l1 : (l1 + 1) ** 2] = (2 * l3 + 1) ** 0.5 * wigner_3j(l1, l2, l3).flatten(1)
        columns.append(column)
    return torch.cat(columns, dim=1)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Without a bias, with weights such that independent normal inputs give outputs of unit variance."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer


def exactly(tensor: Tensor) -> torch.autocast:
    """Where sums and products stay in their own precision, whatever linear maps are cast to."""
    return torch.autocast(tensor.device.type, enabled=False)
