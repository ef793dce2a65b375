r"""Filtered sums over neighbours without a tensor per edge and feature.

A message of the form :math:`y_i = \sum_j W(r_{ij}) \odot x_j`, whose filter is linear in K functions :math:`b_k` of the
edge, is the gradient with respect to y of the quadrilinear form

    :math:`\Phi(b, W, x, y) = \sum_{e: j \to i} \sum_k b_{ek} \sum_f W_{kf} x_{jf} y_{if}`

with edge functions b (E, K), filters W (K, F), features of senders x (N, F) and of receivers y (N, F). Its four partial
gradients are products with sparse matrices, and every derivative of one of them is made of the others: forces and the
gradients of forces never build an (E, F) tensor. Rows are done in chunks whose (n, K, F) sums stay in the cache. For
337 features that makes a training step bound by dense products instead of memory traffic.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from gfmpot.graph.atom_graph import AtomGraph
from gfmpot.graph.ops import gather_senders, sum_over_neighbours
from gfmpot.graph.plain import in_plain_operations

CHUNK_BYTES = 2**20
"""Size of the (n, K, F) sums of a chunk, per thread: half the second-level cache of a current core."""


def filtered_neighbour_sums(functions: Tensor, filters: Tensor, features: Tensor, graph: AtomGraph) -> Tensor:
    """(N, F): for each atom the sum of its neighbours' features, each times the filter at that edge.

    Args:
        functions: (E, K) functions of the edge, e.g. a radial basis, from which filters are made.
        filters: (K, F) the linear map from functions to filters.
        features: (N, F) per atom, taken from each edge's sender.
        graph: topology; edges sorted by receiver.
    """
    # A compiler fuses the plain form, and cannot look into sparse products; those have not been tried on GPUs yet.
    if in_plain_operations() or functions.device.type != "cpu":
        return sum_over_neighbours((functions @ filters) * gather_senders(features, graph), graph)
    dtype = functions.dtype  # sums stay in it where autocast has made features bfloat16
    sums: Tensor = _Receivers.apply(functions, filters.to(dtype), features.to(dtype), graph)  # type: ignore[no-untyped-call]
    return sums


@dataclass(frozen=True)
class _Chunk:
    """Some rows of a sparse (N K, N) matrix; row (i, k) has the k-th function of the edges of atom i."""

    atoms: slice
    entries: slice
    rows: Tensor  # (n K + 1,) int32, as MKL wants
    columns: Tensor  # (e K,) int32


@dataclass(frozen=True)
class _Matrix:
    """The sparse matrix from senders to receivers, or its transpose."""

    chunks: list[_Chunk]
    order: Tensor  # (E K,) position of each entry in the flattened (E, K) functions
    shape: tuple[int, int]  # N, K


def _matrix(graph: AtomGraph, functions: int, features: Tensor, *, transposed: bool) -> _Matrix:
    """Built once per graph, number of functions and size of the chunks; the layers share it."""
    budget = CHUNK_BYTES * torch.get_num_threads()
    atoms = max(1, budget // (functions * features.shape[1] * features.element_size()))
    built: dict[tuple[int, int, bool], _Matrix] = graph.__dict__.setdefault("_sparse_matrices", {})
    key = (functions, min(atoms, graph.n_atoms), transposed)
    if key not in built:
        built[key] = _build_matrix(graph, *key)
    return built[key]


def _build_matrix(graph: AtomGraph, functions: int, atoms_per_chunk: int, transposed: bool) -> _Matrix:
    device, n_atoms, n_edges = graph.positions.device, graph.n_atoms, graph.n_edges
    ends, others, edges = graph.receivers, graph.senders, torch.arange(n_edges, device=device)
    if transposed:
        edges = torch.argsort(graph.senders, stable=True)
        ends, others = graph.senders[edges], graph.receivers[edges]
    degree = torch.bincount(ends, minlength=n_atoms)
    offsets = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    # Entries are ordered by atom, function, edge: within an atom, the (edges, functions) block transposed.
    k = torch.arange(functions, device=device)
    rank = torch.arange(n_edges, device=device) - offsets[ends]
    place = (offsets[ends] * functions + rank).unsqueeze(1) + degree[ends].unsqueeze(1) * k
    order = torch.empty(n_edges * functions, dtype=torch.int64, device=device)
    order[place.flatten()] = (edges.unsqueeze(1) * functions + k).flatten()
    columns = torch.empty(n_edges * functions, dtype=torch.int32, device=device)
    columns[place] = others.int().unsqueeze(1).expand(-1, functions)
    rows = torch.cat([offsets.new_zeros(1), degree.repeat_interleave(functions).cumsum(0)])
    starts = [*range(0, n_atoms, atoms_per_chunk), n_atoms]
    bounds = (offsets[torch.tensor(starts, device=device)] * functions).tolist()
    chunks = [
        _Chunk(slice(a, b), slice(p, q), (rows[a * functions : b * functions + 1] - p).int(), columns[p:q])
        for (a, b), (p, q) in zip(pairwise(starts), pairwise(bounds), strict=True)
    ]
    return _Matrix(chunks, order, (n_atoms, functions))


def _csr(chunk: _Chunk, values: Tensor, columns: int) -> Tensor:
    _use_up_beta_warning()
    size = (len(chunk.rows) - 1, columns)
    return torch.sparse_csr_tensor(chunk.rows, chunk.columns, values, size, check_invariants=False)


@functools.cache
def _use_up_beta_warning() -> None:
    """PyTorch says once per process that CSR tensors are in beta state, which tells a user nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


def _sums(b: Tensor, x: Tensor, matrix: _Matrix) -> Iterator[tuple[_Chunk, Tensor]]:
    """By chunk of n atoms: (n, K, F) sums over neighbours of each function times features."""
    values = b.flatten()[matrix.order]
    rows = max(len(chunk.rows) for chunk in matrix.chunks) - 1
    buffer = x.new_empty(rows, x.shape[1])  # one for all chunks: fresh memory would cost more than the arithmetic
    for chunk in matrix.chunks:
        sums = buffer[: len(chunk.rows) - 1]
        torch.mm(_csr(chunk, values[chunk.entries], len(x)), x, out=sums)
        yield chunk, sums.view(-1, matrix.shape[1], x.shape[1])


def _gather(b: Tensor, w: Tensor, x: Tensor, matrix: _Matrix) -> Tensor:
    """(N, F): ∂Φ/∂y, or ∂Φ/∂x with the transposed matrix and y in the place of x."""
    out = torch.empty_like(x)
    for chunk, sums in _sums(b, x, matrix):
        torch.sum(sums.mul_(w), dim=1, out=out[chunk.atoms])
    return out


def _both(b: Tensor, w: Tensor, x: Tensor, y: Tensor, matrix: _Matrix) -> tuple[Tensor, Tensor]:
    """:func:`_gather` and :func:`_filters` from the same sums."""
    gathered, filters = torch.empty_like(x), x.new_zeros(matrix.shape[1], x.shape[1])
    for chunk, sums in _sums(b, x, matrix):
        torch.sum(sums * w, dim=1, out=gathered[chunk.atoms])
        filters += sums.mul_(y[chunk.atoms].unsqueeze(1)).sum(dim=0)
    return gathered, filters


def _edges(w: Tensor, x: Tensor, y: Tensor, graph: AtomGraph) -> Tensor:
    """(E, K): ∂Φ/∂b, by a product of features per edge.

    ``torch.sparse.sampled_addmm`` would do it, but aborts where small cells have a pair of atoms several times.
    """
    out = x.new_empty(graph.n_edges, len(w))
    transposed = w.T.contiguous()
    size = max(1, CHUNK_BYTES * torch.get_num_threads() // (x.shape[1] * x.element_size()))
    sent, received = (x.new_empty(min(size, graph.n_edges), x.shape[1]) for _ in range(2))
    for start in range(0, graph.n_edges, size):
        edges = slice(start, min(start + size, graph.n_edges))
        n = edges.stop - start
        torch.index_select(x, 0, graph.senders[edges], out=sent[:n])
        torch.index_select(y, 0, graph.receivers[edges], out=received[:n])
        torch.mm(sent[:n].mul_(received[:n]), transposed, out=out[edges])
    return out


def _filters(b: Tensor, x: Tensor, y: Tensor, matrix: _Matrix) -> Tensor:
    """(K, F): ∂Φ/∂W."""
    out = x.new_zeros(matrix.shape[1], x.shape[1])
    for chunk, sums in _sums(b, x, matrix):
        out += sums.mul_(y[chunk.atoms].unsqueeze(1)).sum(dim=0)
    return out


# The four partial gradients as functions that autograd knows. Each saves its three arguments (and the topology), and
# gets a fourth one as the gradient of its result: its own gradients are the partial gradients at these four.

Gradients = Literal["all", "geometry", "weights"]


@contextmanager
def gradients_of(graph: AtomGraph, what: Gradients) -> Iterator[None]:
    """What backward passes over ``graph`` are for: the rest is not computed.

    Autograd asks for every gradient that anything could want: those of filters even where only forces are, and those
    of edges even where a loss is on its way to the weights. ``"geometry"`` leaves out filters, ``"weights"`` leaves
    out functions of edges, which must not depend on weights then.
    """
    before = graph.__dict__.get("_gradients", "all")
    graph.__dict__["_gradients"] = what
    try:
        yield
    finally:
        graph.__dict__["_gradients"] = before


def want_weights_only(graph: AtomGraph) -> None:
    """From now on, backward passes over ``graph`` are for weights; see :func:`gradients_of`."""
    graph.__dict__["_gradients"] = "weights"


def _wanted(ctx: Any, functions: int, filters: int) -> list[bool]:
    """Which of the inputs need gradients; ``functions`` and ``filters`` are the places of b and W, or -1."""
    wanted = list(ctx.needs_input_grad[:3])
    what: Gradients = ctx.graph.__dict__.get("_gradients", "all")
    if what == "geometry" and filters >= 0:
        wanted[filters] = False
    if what == "weights" and functions >= 0:
        wanted[functions] = False
    return wanted


def _save(ctx: Any, graph: AtomGraph, *arguments: Tensor) -> None:
    ctx.graph = graph
    ctx.save_for_backward(*arguments)


def _apply(function: type[torch.autograd.Function], wanted: bool, *arguments: Any) -> Tensor | None:
    return function.apply(*arguments) if wanted else None  # type: ignore[no-untyped-call]


def _features_and_filters(
    ctx: Any, wanted: tuple[bool, bool], b: Tensor, w: Tensor, given: Tensor, other: Tensor, *, to_senders: bool
) -> tuple[Tensor | None, Tensor | None]:
    """∂Φ/∂(other side) and ∂Φ/∂W, from one set of sums of ``given`` features where nobody will differentiate them."""
    if all(wanted) and not torch.is_grad_enabled():
        return _both(b, w, given.contiguous(), other, _matrix(ctx.graph, len(w), given, transposed=to_senders))
    x, y = (other, given) if to_senders else (given, other)
    features = _apply(_Senders if to_senders else _Receivers, wanted[0], b, w, given, ctx.graph)
    return features, _apply(_Filters, wanted[1], b, x, y, ctx.graph)


class _Receivers(torch.autograd.Function):
    """(b, W, x) to y."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, w: Tensor, x: Tensor, graph: AtomGraph) -> Tensor:
        _save(ctx, graph, b, w, x)
        return _gather(b, w, x, _matrix(graph, len(w), x, transposed=False))

    @staticmethod
    def backward(ctx: Any, y: Tensor) -> tuple[Tensor | None, ...]:
        b, w, x = ctx.saved_tensors
        to_b, to_w, to_x = _wanted(ctx, 0, 1)
        grad_x, grad_w = _features_and_filters(ctx, (to_x, to_w), b, w, y, x, to_senders=True)
        return _apply(_Functions, to_b, w, x, y, ctx.graph), grad_w, grad_x, None


class _Senders(torch.autograd.Function):
    """(b, W, y) to x."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, w: Tensor, y: Tensor, graph: AtomGraph) -> Tensor:
        _save(ctx, graph, b, w, y)
        return _gather(b, w, y.contiguous(), _matrix(graph, len(w), y, transposed=True))

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Tensor | None, ...]:
        b, w, y = ctx.saved_tensors
        to_b, to_w, to_y = _wanted(ctx, 0, 1)
        grad_y, grad_w = _features_and_filters(ctx, (to_y, to_w), b, w, x, y, to_senders=False)
        return _apply(_Functions, to_b, w, x, y, ctx.graph), grad_w, grad_y, None


class _Functions(torch.autograd.Function):
    """(W, x, y) to b."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, x: Tensor, y: Tensor, graph: AtomGraph) -> Tensor:
        _save(ctx, graph, w, x, y)
        return _edges(w, x, y, graph)

    @staticmethod
    def backward(ctx: Any, b: Tensor) -> tuple[Tensor | None, ...]:
        w, x, y = ctx.saved_tensors
        to_w, to_x, to_y = _wanted(ctx, -1, 0)
        grad_y, grad_w = _features_and_filters(ctx, (to_y, to_w), b, w, x, y, to_senders=False)
        return grad_w, _apply(_Senders, to_x, b, w, y, ctx.graph), grad_y, None


class _Filters(torch.autograd.Function):
    """(b, x, y) to W."""

    @staticmethod
    def forward(ctx: Any, b: Tensor, x: Tensor, y: Tensor, graph: AtomGraph) -> Tensor:
        _save(ctx, graph, b, x, y)
        return _filters(b, x, y, _matrix(graph, b.shape[1], x, transposed=False))

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor | None, ...]:
        b, x, y = ctx.saved_tensors
        to_b, to_x, to_y = _wanted(ctx, 0, -1)
        return (
            _apply(_Functions, to_b, w, x, y, ctx.graph),
            _apply(_Senders, to_x, b, w, y, ctx.graph),
            _apply(_Receivers, to_y, b, w, x, ctx.graph),
            None,
        )
