"""The verbs on graphs, in which backbones and heads are written.

Sums run over indices in a fixed order on the CPU, so results repeat bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gfmpot import kernels
from gfmpot.graph.atom_graph import AtomGraph
from gfmpot.graph.plain import in_plain_operations


def edge_vectors(graph: AtomGraph) -> Tensor:
    """(E, 3) Å, float64: from the sender to the receiver, across periodic boundaries."""
    if _by_kernels(graph.positions, graph.cell):
        vectors = graph.positions.new_empty(graph.n_edges, 3)
        assert graph.topology  # has checked that no index leads elsewhere
        indices = (graph.senders, graph.receivers, graph.structure_of_atom, graph.cell_shifts)
        senders, receivers, structures, shifts = (t.to(torch.int64).contiguous() for t in indices)
        where = (graph.positions.contiguous(), graph.cell.contiguous(), shifts)
        kernels.call("edge_vectors", torch.float64, graph.n_edges, senders, receivers, structures, *where, vectors)
        return vectors
    shifts = graph.cell_shifts.to(graph.cell.dtype)
    across = torch.einsum("ei,eij->ej", shifts, graph.cell[graph.structure_of_edge])
    return graph.positions[graph.receivers] - graph.positions[graph.senders] + across


def gather_senders(values: Tensor, graph: AtomGraph) -> Tensor:
    """(N, ...) per atom to (E, ...): the value of each edge's sender."""
    return values.index_select(0, graph.senders)


def sum_over_neighbours(messages: Tensor, graph: AtomGraph) -> Tensor:
    """(E, ...) per edge to (N, ...): the sum of the messages that each atom receives."""
    return _sum_by_index(messages, graph.receivers, graph.n_atoms)


def sum_per_structure(values: Tensor, graph: AtomGraph) -> Tensor:
    """(N, ...) per atom to (G, ...): the sum over the atoms of each structure."""
    return _sum_by_index(values, graph.structure_of_atom, graph.n_structures)


def _sum_by_index(values: Tensor, index: Tensor, size: int) -> Tensor:
    zeros = values.new_zeros((size, *values.shape[1:]))
    return zeros.index_add(0, index, values)


def forces_from_edge_gradients(gradients: Tensor, graph: AtomGraph) -> Tensor:
    """(N, 3) forces −∂E/∂r from (E, 3) ∂E/∂(edge vector): each edge pulls its two atoms in opposite directions."""
    if _by_kernels(gradients):
        forces = gradients.new_empty(graph.n_atoms, 3)
        kernels.call("forces", torch.float64, graph.n_atoms, *graph.topology, gradients.contiguous(), forces)
        return forces
    on_receiver = sum_over_neighbours(gradients, graph)
    return _sum_by_index(gradients, graph.senders, graph.n_atoms) - on_receiver


def stress_from_edge_gradients(gradients: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
    """(G, 6) stress (1/V) ∂E/∂strain from (E, 3) edge gradients and vectors, in ASE's Voigt order and sign.

    NaN for structures that have no volume.
    """
    voigt = _virials(gradients, vectors, graph)
    volume = graph.volume.to(voigt.dtype).unsqueeze(1)
    # Divide by a number in any case: a NaN divisor would poison gradients of structures that are masked out later.
    return (voigt / volume.nan_to_num(nan=1.0)).masked_fill(volume.isnan(), torch.nan)


def _virials(gradients: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
    """(G, 6) sums over edges of vector times gradient, symmetric, in Voigt order."""
    if not _by_kernels(gradients, vectors):
        outer = vectors.unsqueeze(2) * gradients.unsqueeze(1)
        virial = _sum_by_index(outer, graph.structure_of_edge, graph.n_structures)
        symmetric = 0.5 * (virial + virial.transpose(1, 2))
        return symmetric.flatten(1)[:, [0, 4, 8, 5, 2, 1]]
    virials = vectors.new_empty(graph.n_structures, 6)
    structures = graph.structure_of_atom.to(torch.int64).contiguous()
    inputs = (structures, graph.topology[0], vectors.contiguous(), gradients.contiguous())
    kernels.call("virials", torch.float64, graph.n_structures, graph.n_atoms, *inputs, virials)
    return virials


def _by_kernels(*values: Tensor) -> bool:
    """Whether kernels can do it: on a CPU, in float64, where nobody differentiates or transforms further."""
    usable = all(v.device.type == "cpu" and v.dtype == torch.float64 and not v.requires_grad for v in values)
    if not usable or not kernels.available() or in_plain_operations():
        return False
    wrapped = any(torch._C._functorch.is_functorch_wrapped_tensor(v) for v in values)
    return not wrapped and forward_ad._current_level < 0
