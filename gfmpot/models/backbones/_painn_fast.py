r"""PaiNN for inference on CPUs: its equations (``painn.py``) by compiled kernels, with the gradient written out.

Energies and forces need the features and one gradient, that with respect to the edge vectors. Written out by hand, both
need no autograd graph, no tensor per edge and feature, and no gradient of any weight. What is kept for the gradient, by
layer, with :math:`a = SiLU(z)`:

    message: :math:`z = A_1 s + c_1`, :math:`\phi = A_2 a + c_2`, the vectors v that came in
    update: :math:`(Uv, Vv)`, mixed :math:`= (s, |Vv|)`, dot :math:`= \langle Uv, Vv \rangle`,
        :math:`z = B_1 mixed + b_1`, gates :math:`= B_2 a + b_2`

The first message has no z: what senders say comes from a table of kinds of atoms, which does not depend on geometry.
Where there are few kinds, what is summed over neighbours is the basis by kind, and the vectors that follow are products
of these sums with a table; so are U v and W v, by a table of products.

F is rounded up to whole cache lines, with weights that are zero: loads across two lines take twice as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gfmpot import kernels
from gfmpot.graph import AtomGraph, BatchBudget

if TYPE_CHECKING:
    from gfmpot.models.backbones.painn import Message, PaiNN, Update
    from gfmpot.models.radial_choices import RadialChoice


PART_BYTES = 4 * 2**20
"""Of the largest tensor, (N, 3, 2 F). Larger ones come from fresh pages each time, and leave the caches in between."""


class FastPaiNN:
    """The features of a :class:`PaiNN` and their gradient with respect to edge vectors.

    Weights are copied when it is made; what changes them later asks for a new one.
    """

    def __init__(self, backbone: PaiNN, dense: torch.dtype) -> None:
        """``dense`` is the dtype of matrix products (bfloat16, or that of the weights)."""
        self.basis, self.functions = backbone.basis, backbone.basis.out_features
        self.features = backbone.out_features
        self.messages = [_MessageWeights(message, dense) for message in backbone.messages]  # type: ignore[arg-type]
        self.updates = [_UpdateWeights(update, dense) for update in backbone.updates]  # type: ignore[arg-type]

    def __call__(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """(N, F) features; arguments as for ``Backbone.forward``, with ``vectors`` in float64."""
        parts = self._parts(graph, initial.element_size())
        atoms, edges = [part.n_atoms for part in parts], [part.n_edges for part in parts]
        inputs = zip(
            torch.split(vectors.double(), edges), torch.split(_widened(initial.detach()), atoms), parts, strict=True
        )
        features: list[Tensor] = [_Features.apply(*given, self) for given in inputs]  # type: ignore[no-untyped-call]
        return (torch.cat(features) if len(features) > 1 else features[0])[:, : self.features]

    def _parts(self, graph: AtomGraph, bytes_per_number: int) -> list[AtomGraph]:
        """The graph, or runs of structures whose largest tensors keep to :data:`PART_BYTES`."""
        budget = BatchBudget(max_atoms=max(1, PART_BYTES // (6 * self.features * bytes_per_number)), max_edges=10**9)
        if graph.n_structures == 1 or graph.n_atoms <= budget.max_atoms:
            return [graph]
        sizes = [_Size(i, atoms) for i, atoms in enumerate(graph.atoms_per_structure.tolist())]
        runs = budget.pack(sizes)
        return [graph.part(run[0].structure, run[-1].structure + 1) for run in runs]

    def forward(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> tuple[Tensor, _Saved]:
        """(N, F) features, and what :meth:`backward` needs."""
        edges = _Edges.of(graph, vectors, self.basis, initial.dtype)
        s, v = initial, None
        layers: list[tuple[_MessageState | _KindsState, _UpdateState]] = []
        sent: _MessageState | _KindsState
        for message, update in zip(self.messages, self.updates, strict=True):
            if v is None and message.prefers_kinds(graph):
                s, v, uw, sent = message.forward_kinds(s, update.mix, edges, graph)
            else:
                s, v, sent = message.forward(s, v, edges, graph)
                uw = update.mix(v)
            layers.append((sent, update.forward(s, v, uw)))
        return s, _Saved(edges, layers)

    def backward(self, gradient: Tensor, vectors: Tensor, saved: _Saved) -> Tensor:
        """(E, 3) float64 gradient with respect to edge vectors, from that with respect to features (N, F)."""
        edges = saved.edges
        to_edges = torch.zeros_like(edges.basis), torch.zeros_like(edges.units)
        gs, gv = gradient.clone(memory_format=torch.contiguous_format), None
        parts = zip(self.messages, self.updates, saved.layers, strict=True)
        for message, update, (sent, mixed) in reversed(list(parts)):
            gs, g_uw = update.backward(gs, gv, mixed)
            if isinstance(sent, _KindsState):
                message.backward_kinds(gs, gv, g_uw, sent, edges, to_edges)
                break
            through = update.mix.backward(g_uw)
            gs, gv = message.backward(gs, through if gv is None else gv + through, sent, edges, to_edges)
        out = torch.empty_like(vectors)
        size = (len(vectors), self.functions)
        kernels.call("radial_backward", edges.basis.dtype, *size, vectors, edges.slopes, *to_edges, out)
        return out


class _Features(torch.autograd.Function):
    """Hangs the written-out gradient into autograd, where heads and blend go on."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, initial: Tensor, graph: AtomGraph, fast: FastPaiNN) -> Tensor:
        vectors = vectors.contiguous()
        features, ctx.saved = fast.forward(initial, vectors, graph)
        ctx.fast, ctx.vectors = fast, vectors
        return features

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.fast.backward(gradient, ctx.vectors, ctx.saved), None, None, None


class _Size(NamedTuple):
    """Of a structure in a batch, to be packed."""

    structure: int
    n_atoms: int
    n_edges: int = 0


@dataclass(frozen=True)
class _Edges:
    """What all messages share."""

    basis: Tensor  # (E, K)
    slopes: Tensor  # (E, K) derivative of the basis by the length, 1/Å
    units: Tensor  # (E, 3)
    offsets: Tensor  # (N + 1,)
    sender_offsets: Tensor  # (N + 1,)
    by_sender: Tensor  # (E,)
    senders: Tensor  # (E,)
    receivers: Tensor  # (E,)

    @classmethod
    def of(cls, graph: AtomGraph, vectors: Tensor, radial: RadialChoice, dtype: torch.dtype) -> _Edges:
        n_edges, functions = len(vectors), radial.out_features
        basis, slopes = vectors.new_empty(2, n_edges, functions, dtype=dtype)
        units = vectors.new_empty(n_edges, 3, dtype=dtype)
        ends = graph.edge_index.contiguous()
        radii = None if radial.transform == "none" else radial.radii_of_atoms(graph, torch.float64)
        size = (n_edges, functions, radial.of_length, float(radial.cutoff))
        kernels.call("radial", dtype, *size, radii, ends[0], ends[1], vectors, basis, slopes, units)
        return cls(basis, slopes, units, *graph.topology, ends[0], ends[1])


@dataclass(frozen=True)
class _MessageState:
    rows: Tensor  # (E,) row of phi for each edge's sender
    phi: Tensor  # (N, 3 F); by kind (U, 2 F) in the first message
    z: Tensor | None = None  # (N, F)
    v: Tensor | None = None  # (N, 3, F)


@dataclass(frozen=True)
class _KindsState:
    rows: Tensor  # (E,) kind of each edge's sender
    n_kinds: int  # U
    to_s: Tensor  # (U K, F)
    to_v: Tensor  # (U K, F)
    to_uw: Tensor  # (U K, 2 F)


@dataclass(frozen=True)
class _UpdateState:
    uw: Tensor  # (N, 3, 2 F)
    mixed: Tensor  # (N, 2 F)
    dot: Tensor  # (N, F)
    z: Tensor  # (N, F)
    gates: Tensor  # (N, 3 F), or (N, 2 F) in the last update


@dataclass(frozen=True)
class _Saved:
    edges: _Edges
    layers: list[tuple[_MessageState | _KindsState, _UpdateState]]


class _Dense:
    """``x @ weight.T + bias`` and the gradient with respect to x, in the dtype of matrix products."""

    def __init__(self, layer: torch.nn.Linear, features: int, dense: torch.dtype) -> None:
        """``features`` is F: inputs and outputs are one or several times as wide."""
        self.dtype = dense
        outer, inner = (n // features for n in layer.weight.shape)
        blocks = layer.weight.detach().clone().reshape(outer, features, inner, features)
        weight = _widened(_widened(blocks, 1), 3).flatten(2).flatten(0, 1).to(dense)
        bias = None if layer.bias is None else _widened(layer.bias.detach().clone().reshape(outer, features))
        self._forward = _product(weight, None if bias is None else bias.flatten().to(dense))
        self._backward = _product(weight.T, None)

    def __call__(self, x: Tensor) -> Tensor:
        return self._forward(x.to(self.dtype)).to(x.dtype)

    def backward(self, g: Tensor) -> Tensor:
        return self._backward(g.to(self.dtype)).to(g.dtype)


def _widened(x: Tensor, dim: int = -1) -> Tensor:
    """With zeros up to whole cache lines."""
    zeros = list(x.shape)
    zeros[dim] = -x.shape[dim] % kernels.CACHE_LINE
    return torch.cat([x, x.new_zeros(zeros)], dim=dim).contiguous() if zeros[dim] else x.contiguous()


def _product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """``x @ weight.T + bias`` in the fastest way: by oneDNN, whose weights come in a layout of its own, in float32 and
    bfloat16; in float64 by a kernel where MKL leaves half of the processor idle."""
    if weight.dtype == torch.float64:
        packed = kernels.PackedWeights(weight, bias) if kernels.products_pay() else None
        return packed or (lambda x: F.linear(x, weight, bias))
    able = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not able or (weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return lambda x: F.linear(x, weight, bias)
    reordered = torch.ops.mkldnn._reorder_linear_weight.default(weight.contiguous())
    return lambda x: torch.ops.mkldnn._linear_pointwise.default(x, reordered, bias, "none", [], "")


class _MLP:
    """Two dense layers with SiLU between them; keeps what was before it."""

    def __init__(self, layers: torch.nn.Sequential, features: int, dense: torch.dtype) -> None:
        self.inner, self.outer = (_Dense(layer, features, dense) for layer in (layers[0], layers[2]))  # type: ignore[arg-type]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.inner(x)
        return self.outer(F.silu(z)), z

    def backward(self, g: Tensor, z: Tensor) -> Tensor:
        return self.inner.backward(torch.ops.aten.silu_backward(self.outer.backward(g), z))


class _MessageWeights:
    def __init__(self, message: Message, dense: torch.dtype) -> None:
        self.mlp, self.features = _MLP(message.scalars, message.features, dense), message.features
        filters = message.filters.weight.detach().T * message.scale
        self.filters = _widened(filters.reshape(len(filters), -1, message.features)).flatten(1)  # (K, gates F)

    def forward(
        self, s: Tensor, v: Tensor | None, edges: _Edges, graph: AtomGraph
    ) -> tuple[Tensor, Tensor, _MessageState]:
        if v is None:
            atoms, kind = graph.kinds
            phi, z, rows = self.mlp(s[atoms])[0], None, kind[edges.senders]
        else:
            (phi, z), rows = self.mlp(s), edges.senders
        out_s, out_v = torch.empty_like(s), s.new_empty(len(s), 3, s.shape[1])
        size = (*s.shape, len(self.filters))
        inputs = (edges.offsets, rows, edges.basis, edges.units, self.filters, phi, v)
        kernels.call("message", s.dtype, *size, *inputs, s, out_s, out_v)
        return out_s, out_v, _MessageState(rows, phi, z, v)

    def backward(
        self, gs: Tensor, gv: Tensor, state: _MessageState, edges: _Edges, to_edges: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of what came in; those of edges are added to ``to_edges``."""
        size = (*gs.shape, len(self.filters))
        functions = (edges.basis, edges.units, self.filters, state.phi)
        if state.v is None or state.z is None:
            lists = (edges.offsets, state.rows)
            kernels.call("first_message_backward", gs.dtype, *size, *lists, *functions, gs, gv, *to_edges)
            return gs, None
        g_phi, g_v = torch.empty_like(state.phi), torch.empty_like(state.v)
        inputs = (edges.sender_offsets, edges.by_sender, edges.receivers, *functions, state.v, gs, gv)
        kernels.call("message_backward", gs.dtype, *size, *inputs, *to_edges, g_phi, g_v)
        return gs + self.mlp.backward(g_phi, state.z), g_v

    def prefers_kinds(self, graph: AtomGraph) -> bool:
        """Whether products with sums by kind take fewer operations than a sum over neighbours and a product with it."""
        functions, features = len(self.filters), self.features
        neighbours = graph.n_edges / max(1, graph.n_atoms)
        return len(graph.kinds[0]) * functions < 0.6 * features + neighbours * (2 * functions + 8) / 10

    def forward_kinds(
        self, s: Tensor, mix: _Dense, edges: _Edges, graph: AtomGraph
    ) -> tuple[Tensor, Tensor, Tensor, _KindsState]:
        """The first message and, beside s and v, what ``mix`` makes of v."""
        atoms, kind = graph.kinds
        tables = self.mlp(s[atoms])[0].unsqueeze(1) * self.filters  # (U, K, 2 F)
        to_s, to_v = (table.contiguous() for table in tables.flatten(0, 1).chunk(2, dim=1))
        state = _KindsState(kind[edges.senders], len(atoms), to_s, to_v, mix(to_v))
        scalars, vectors = s.new_empty(len(s), len(to_s)), s.new_empty(len(s), 3, len(to_s))
        size = (len(s), len(self.filters), state.n_kinds)
        inputs = (edges.offsets, state.rows, edges.basis, edges.units)
        kernels.call("kind_sums", s.dtype, *size, *inputs, scalars, vectors)
        return torch.addmm(s, scalars, to_s), vectors @ to_v, vectors @ state.to_uw, state

    def backward_kinds(
        self,
        gs: Tensor,
        gv: Tensor | None,
        g_uw: Tensor,
        state: _KindsState,
        edges: _Edges,
        to_edges: tuple[Tensor, Tensor],
    ) -> None:
        """Adds the gradients of edges to ``to_edges``; nothing else came in."""
        g_scalar, g_vector = gs @ state.to_s.T, g_uw @ state.to_uw.T
        if gv is not None:
            g_vector += gv @ state.to_v.T
        size = (len(gs), len(self.filters), state.n_kinds)
        inputs = (edges.offsets, state.rows, edges.basis, edges.units, g_scalar, g_vector)
        kernels.call("kind_sums_backward", gs.dtype, *size, *inputs, *to_edges)


class _UpdateWeights:
    def __init__(self, update: Update, dense: torch.dtype) -> None:
        from gfmpot.models.backbones.painn import NORM_SOFTNESS

        self.mix, self.gates = _Dense(update.mix, update.features, dense), _MLP(update.gates, update.features, dense)
        self.softness = NORM_SOFTNESS
        self.last = update.gates[2].out_features == 2 * update.features

    def forward(self, s: Tensor, v: Tensor, uw: Tensor) -> _UpdateState:
        """Changes s and v in place: nobody else needs what the message made of them."""
        size = s.shape
        mixed, dot = s.new_empty(len(s), 2 * s.shape[1]), torch.empty_like(s)
        kernels.call("update_products", s.dtype, *size, self.softness, uw, s, mixed, dot)
        gates, z = self.gates(mixed)
        kernels.call("update_apply", s.dtype, *size, gates, dot, uw, s, None if self.last else v)
        return _UpdateState(uw, mixed, dot, z, gates)

    def backward(self, gs: Tensor, gv: Tensor | None, state: _UpdateState) -> tuple[Tensor, Tensor]:
        """Gradients of s (in the place of ``gs``) and of U v and W v; that of v beside them is ``gv`` still."""
        size = gs.shape
        g_gates, g_uw = torch.empty_like(state.gates), torch.empty_like(state.uw)
        kernels.call("update_apply_backward", gs.dtype, *size, gs, gv, state.dot, state.uw, g_gates)
        g_mixed = self.gates.backward(g_gates, state.z)
        inputs = (g_mixed, gv, state.gates, state.mixed, state.uw)
        kernels.call("update_products_backward", gs.dtype, *size, *inputs, gs, g_uw)
        return gs, g_uw
