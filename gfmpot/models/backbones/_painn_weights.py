r"""PaiNN for training on CPUs: its equations (``painn.py``) by compiled kernels, with gradients of weights written out.

For losses on energies; those on forces come down to such ones (:mod:`gfmpot.training.differences`). Names are those of
``_painn_fast.py``. What is kept for the gradient, by layer:

    message: what its network got (x), :math:`z = A_1 x + c_1`, :math:`a = SiLU(z)`, :math:`\phi = A_2 a + c_2`, v
    update: v, :math:`(Uv, Vv)`, mixed, dot, :math:`z = B_1 mixed + b_1`, :math:`a = SiLU(z)`, gates
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gfmpot import kernels
from gfmpot.graph import AtomGraph
from gfmpot.models.backbones._painn_fast import _MLP, FastPaiNN, _Edges, _MessageWeights, _UpdateWeights

if TYPE_CHECKING:
    from gfmpot.models.backbones.painn import Message, PaiNN, Update

Found = dict[int, Tensor]
"""Gradients by the ``id`` of their weights."""


class TrainedPaiNN:
    """Features of a :class:`PaiNN` that know their gradient by weights and by initial features, not by geometry."""

    def __init__(self, backbone: PaiNN, fast: FastPaiNN) -> None:
        """``fast`` has the same weights, laid out for products."""
        self.basis = fast.basis
        self.messages = [_Message(*pair) for pair in zip(backbone.messages, fast.messages, strict=True)]  # type: ignore[arg-type]
        self.updates = [_Update(*pair) for pair in zip(backbone.updates, fast.updates, strict=True)]  # type: ignore[arg-type]
        self.weights = list(backbone.parameters())

    def __call__(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """(N, F) features; arguments as for ``Backbone.forward``, with ``vectors`` in float64."""
        features: Tensor = _Features.apply(initial, vectors.contiguous(), graph, self, *self.weights)  # type: ignore[no-untyped-call]
        return features

    def forward(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> tuple[Tensor, _Saved]:
        """(N, F) features, and what :meth:`backward` needs."""
        edges = _Edges.of(graph, vectors, self.basis, initial.dtype)
        s, v, layers = initial.contiguous(), None, []
        for message, update in zip(self.messages, self.updates, strict=True):
            s, v, sent = message.forward(s, v, edges, graph)
            v, mixed = update.forward(s, v)
            layers.append((sent, mixed))
        return s, _Saved(edges, layers)

    def backward(self, gradient: Tensor, saved: _Saved, graph: AtomGraph) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the initial features (N, F), and of the weights in their order."""
        found: Found = {}
        gs, gv = gradient.clone(memory_format=torch.contiguous_format), None
        for message, update, (sent, mixed) in reversed(
            list(zip(self.messages, self.updates, saved.layers, strict=True))
        ):
            gs, gv = message.backward(gs, update.backward(gs, gv, mixed, found), sent, saved.edges, graph, found)
        return gs, [found[id(weight)] for weight in self.weights]


class _Features(torch.autograd.Function):
    """Hangs the gradients into autograd, where embedding and heads go on."""

    @staticmethod
    def forward(
        ctx: Any, initial: Tensor, vectors: Tensor, graph: AtomGraph, trained: TrainedPaiNN, *_: Tensor
    ) -> Tensor:
        features, ctx.saved = trained.forward(initial, vectors, graph)
        ctx.trained, ctx.graph = trained, graph
        return features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        initial, weights = ctx.trained.backward(gradient, ctx.saved, ctx.graph)
        return initial, None, None, None, *weights


@dataclass(frozen=True)
class _Sent:
    x: Tensor  # (N, F); one row per kind of atom, (U, F), in the first message
    z: Tensor  # as x
    a: Tensor  # as x
    phi: Tensor  # (N, 3 F); (U, 2 F) in the first message
    v: Tensor | None  # (N, 3, F)


@dataclass(frozen=True)
class _Mixed:
    v: Tensor  # (N, 3, F)
    uw: Tensor  # (N, 3, 2 F)
    mixed: Tensor  # (N, 2 F)
    dot: Tensor  # (N, F)
    z: Tensor  # (N, F)
    a: Tensor  # (N, F)
    gates: Tensor  # (N, 3 F), or (N, 2 F) in the last update


@dataclass(frozen=True)
class _Saved:
    edges: _Edges
    layers: list[tuple[_Sent, _Mixed]]


class _Network:
    """Two dense layers with SiLU between them."""

    def __init__(self, layers: nn.Sequential, fast: _MLP) -> None:
        self.inner, self.outer, self.fast = layers[0], layers[2], fast

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z, a and the output."""
        z = self.fast.inner(x)
        a = F.silu(z)
        return z, a, self.fast.outer(a)

    def backward(self, g: Tensor, x: Tensor, z: Tensor, a: Tensor, found: Found) -> Tensor:
        """The gradient of x."""
        gz = torch.ops.aten.silu_backward(self.fast.outer.backward(g), z)
        for layer, out, into in ((self.outer, g, a), (self.inner, gz, x)):
            found[id(layer.weight)], found[id(layer.bias)] = _transposed_product(out, into), out.sum(dim=0)
        return self.fast.inner.backward(gz)


class _Message:
    def __init__(self, message: Message, fast: _MessageWeights) -> None:
        self.network, self.filters = _Network(message.scalars, fast.mlp), fast.filters
        self.weight, self.scale = message.filters.weight, message.scale

    def forward(self, s: Tensor, v: Tensor | None, edges: _Edges, graph: AtomGraph) -> tuple[Tensor, Tensor, _Sent]:
        """s and v after it. Senders of one kind say the same in the first message."""
        first = v is None
        x = s[graph.kinds[0]] if first else s
        z, a, phi = self.network.forward(x)
        rows = graph.kinds[1][edges.senders] if first else edges.senders
        out_s, out_v = torch.empty_like(s), s.new_empty(len(s), 3, s.shape[1])
        inputs = (edges.offsets, rows, edges.basis, edges.units, self.filters, phi, v)
        kernels.call("message", s.dtype, *s.shape, len(self.filters), *inputs, s, out_s, out_v)
        return out_s, out_v, _Sent(x, z, a, phi, v)

    def backward(
        self, gs: Tensor, gv: Tensor, sent: _Sent, edges: _Edges, graph: AtomGraph, found: Found
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of what came in."""
        atoms, kind = graph.kinds if sent.v is None else (None, None)
        g_phi = gs.new_empty(len(gs), sent.phi.shape[1])
        g_v = None if sent.v is None else torch.empty_like(sent.v)
        g_filters = gs.new_empty(torch.get_num_threads(), *self.filters.shape)
        lists = (edges.sender_offsets, edges.by_sender, edges.receivers, kind)
        inputs = (edges.basis, edges.units, self.filters, sent.phi, sent.v, gs, gv)
        size = (*gs.shape, len(self.filters))
        kernels.call("message_weights", gs.dtype, *size, *lists, *inputs, g_phi, g_v, g_filters)
        found[id(self.weight)] = g_filters.sum(dim=0).T * self.scale
        if kind is not None:
            g_phi = torch.zeros_like(sent.phi).index_add(0, kind, g_phi)
        gx = self.network.backward(g_phi, sent.x, sent.z, sent.a, found)
        return (gs + gx if atoms is None else gs.index_add(0, atoms, gx)), g_v


class _Update:
    def __init__(self, update: Update, fast: _UpdateWeights) -> None:
        self.network, self.mix, self.weight = _Network(update.gates, fast.gates), fast.mix, update.mix.weight
        self.softness, self.last = fast.softness, fast.last

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, _Mixed]:
        """v after it; s is changed in place, and v is kept as it came in."""
        uw = self.mix(v)
        mixed, dot = s.new_empty(len(s), 2 * s.shape[1]), torch.empty_like(s)
        kernels.call("update_products", s.dtype, *s.shape, self.softness, uw, s, mixed, dot)
        z, a, gates = self.network.forward(mixed)
        out = None if self.last else v.clone()
        kernels.call("update_apply", s.dtype, *s.shape, gates, dot, uw, s, out)
        return v if out is None else out, _Mixed(v, uw, mixed, dot, z, a, gates)

    def backward(self, gs: Tensor, gv: Tensor | None, mixed: _Mixed, found: Found) -> Tensor:
        """The gradient of the v that came in; ``gs`` becomes that of the s."""
        g_gates = torch.empty_like(mixed.gates)
        kernels.call("update_apply_backward", gs.dtype, *gs.shape, gs, gv, mixed.dot, mixed.uw, g_gates)
        g_mixed = self.network.backward(g_gates, mixed.mixed, mixed.z, mixed.a, found)
        g_uw = torch.empty_like(mixed.uw)
        inputs = (g_mixed, gv, mixed.gates, mixed.mixed, mixed.uw)
        kernels.call("update_products_backward", gs.dtype, *gs.shape, *inputs, gs, g_uw)
        found[id(self.weight)] = _transposed_product(g_uw.flatten(0, 1), mixed.v.flatten(0, 1))
        through = self.mix.backward(g_uw)
        return through if gv is None else through.add_(gv)


def _transposed_product(g: Tensor, x: Tensor) -> Tensor:
    """``g.T @ x``, by oneDNN in float32: MKL leaves AMD's processors half idle."""
    if g.dtype != torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return g.T @ x
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(g.T, x.T, None, "none", [], "")
    return product
