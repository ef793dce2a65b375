"""A model as one compiled file that runs without gfmpot: ``.pt2``, for PyTorch in Python or C++."""

from __future__ import annotations

import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gfmpot import __version__
from gfmpot.graph import AtomGraph, edge_vectors
from gfmpot.graph.ops import forces_from_edge_gradients, stress_from_edge_gradients
from gfmpot.inference.precision import dense_layers_in, network_dtype
from gfmpot.inference.tracing import example_graph, traced
from gfmpot.models import Potential, fingerprint
from gfmpot.models.branch_weights import masked_softmax

INPUTS = {
    "atomic_numbers": "(N,) int64",
    "positions": "(N, 3) float64, Å",
    "cell": "(3, 3) float64, Å, rows are lattice vectors; zero where there are none",
    "edge_index": "(2, E) int64: sender and receiver of every pair within the cutoff, both ways, in any order",
    "cell_shifts": "(E, 3) int64: vector = positions[receiver] - positions[sender] + shift @ cell",
    "charge": "(1,) int64, total charge",
    "spin": "(1,) int64, multiplicity 2S+1, or 0 for not stated",
}
"""Of an exported model, in this order; N and E are 2 or more."""

OUTPUTS = {
    "energy": "(1,) float64, eV; NaN if no branch has learnt all the elements",
    "forces": "(N, 3) float64, eV/Å",
    "stress": "(1, 6) float64, eV/Å³, xx yy zz yz xz xy; NaN without a volume",
}
"""Of an exported model, in this order."""


class SingleStructure(nn.Module):
    """The answer for one structure, as a function of tensors; :data:`INPUTS` to :data:`OUTPUTS`."""

    def __init__(self, potential: Potential, precision: str, head: str | None) -> None:
        super().__init__()
        self.potential, self.precision = potential, precision
        self.head = None if head is None else potential.branch_index(head)

    def forward(
        self,
        atomic_numbers: Tensor,
        positions: Tensor,
        cell: Tensor,
        edge_index: Tensor,
        cell_shifts: Tensor,
        charge: Tensor,
        spin: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :data:`INPUTS` and :data:`OUTPUTS`."""
        alone, boxes = torch.zeros_like(atomic_numbers), cell.unsqueeze(0)
        pbc = torch.ones_like(boxes[:, 0], dtype=torch.bool)
        graph = AtomGraph(positions, atomic_numbers, boxes, pbc, edge_index, cell_shifts, alone, charge, spin)
        potential = self.potential
        weights, reference = self._answering(graph)
        with torch.enable_grad(), dense_layers_in(self.precision):
            vectors = edge_vectors(graph).detach().requires_grad_()
            features = potential.atom_features(potential.embedding(graph), vectors, graph)
            eps = potential.contributions(features, graph)
            learnt = eps.sum(dim=0, keepdim=True) if potential.atomwise else eps
            blended = (weights * (learnt + potential.references.shifts(graph))).sum(dim=1)
            (gradient,) = torch.autograd.grad(blended.sum(), vectors)
        repelling, apart = potential.repelling(vectors, graph)
        gradient = gradient + apart
        energy = blended.detach() + graph.composition @ reference[1:] + repelling.sum()
        forces = forces_from_edge_gradients(gradient, graph)
        return energy, forces, stress_from_edge_gradients(gradient, vectors.detach(), graph)

    def _answering(self, graph: AtomGraph) -> tuple[Tensor, Tensor]:
        """(1, B) weights and (119,) reference energies."""
        references = self.potential.references
        supporting = references.supporting(graph)
        if self.head is None:
            counts = graph.composition
            logits = self.potential.weights(counts / counts.sum(dim=1, keepdim=True))
            return masked_softmax(logits, supporting), references.e0_blend
        one = torch.zeros_like(supporting, dtype=torch.float64)
        one[:, self.head] = torch.where(supporting[:, self.head], 1.0, torch.nan)
        return one, references.e0[self.head] - references.alignment[self.head]


def export(
    potential: Potential,
    path: str | Path,
    *,
    head: str | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
) -> Path:
    """Compile a model ahead of time into a ``.pt2`` file, which ``torch._inductor.aoti_load_package`` runs.

    The file answers for one structure with its neighbour list. What it expects and gives is in its metadata, as in
    :data:`INPUTS` and :data:`OUTPUTS`.

    Args:
        potential: what to export; it is not changed.
        path: file to write.
        head: the branch that answers; None blends them by composition.
        precision: ``fp32``, ``fp64`` or ``bf16``.
        device: what it will run on.

    Raises:
        ValueError: unknown head or precision, or a path that does not end in ``.pt2``.
        RuntimeError: no C++ compiler.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise ValueError(f"{path}: an exported model ends in .pt2, got {target.suffix!r}")
    mine = copy.deepcopy(potential).eval().requires_grad_(False).to(device, network_dtype(precision))
    program = _program(SingleStructure(mine, precision, head), example_graph(mine.cutoff).to(device))
    partial = target.with_name(f".{target.stem}.{os.getpid()}.pt2")
    try:
        configs = {"aot_inductor.metadata": _metadata(mine, precision, head)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the compiler's own code: nothing that a user could mend
            torch._inductor.aoti_compile_and_package(program, package_path=str(partial), inductor_configs=configs)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _program(model: SingleStructure, graph: AtomGraph) -> torch.export.ExportedProgram:
    inputs = (graph.atomic_numbers, graph.positions, graph.cell[0], graph.edge_index, graph.cell_shifts)
    examples = (*inputs, graph.charge[:1], graph.spin[:1])
    atoms, edges = torch.export.Dim("atoms", min=2), torch.export.Dim("edges", min=2)
    shapes = ({0: atoms}, {0: atoms}, None, {1: edges}, {0: edges}, None, None)
    return torch.export.export(traced(model, examples), examples, dynamic_shapes=shapes, strict=False)


def _metadata(potential: Potential, precision: str, head: str | None) -> dict[str, str]:
    facts: dict[str, Any] = {
        "gfmpot": __version__,
        "model": potential.metadata.get("name", "in-memory"),
        "sha256": fingerprint(potential),
        "cutoff": potential.cutoff,
        "max_neighbours": potential.config.max_neighbours,
        "precision": precision,
        "head": head or "blend",
        "branches": potential.branch_names,
        "inputs": INPUTS,
        "outputs": OUTPUTS,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
