"""A potential as one graph of tensor operations, forces included, for compilers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from ase.build import bulk, molecule
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from gfmpot.graph import AtomGraph, graph_from_atoms, plain_operations
from gfmpot.inference.precision import dense_layers_in
from gfmpot.models import Potential


def traced(function: Callable[..., tuple[Tensor, ...]], examples: Sequence[Tensor]) -> fx.GraphModule:
    """The operations of ``function``, gradients that it asks for included, for tensors of any number of rows.

    Compilers cannot look through ``torch.autograd.grad``; of a trace they see its operations alone. Sizes that differ
    in the examples are kept apart, so these should be as unlike each other as possible.
    """
    bare = lambda *tensors: function(*tensors)  # noqa: E731, annotations as strings would end up in the trace
    with plain_operations():
        module: fx.GraphModule = make_fx(bare, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*examples)
    return module


def lifted(module: fx.GraphModule, owner: nn.Module) -> list[str]:
    """Make parameters and buffers of ``owner`` inputs of the traced module, before all others.

    What is compiled then serves every model of the same shape, and weights stay where they are.

    Returns:
        Their names, in the order of the inputs.
    """
    named = {id(tensor): name for name, tensor in [*owner.named_parameters(), *owner.named_buffers()]}
    first = next(iter(module.graph.nodes))
    mode = first.meta["val"].fake_mode
    inputs: dict[str, fx.Node] = {}
    for node in [node for node in module.graph.nodes if node.op == "get_attr"]:
        tensor = getattr(module, str(node.target))
        name = named[id(tensor)]
        if name not in inputs:
            with module.graph.inserting_before(first):
                inputs[name] = module.graph.placeholder(name.replace(".", "_"))
            inputs[name].meta["val"] = mode.from_tensor(tensor, static_shapes=True)
        node.replace_all_uses_with(inputs[name])
        module.graph.erase_node(node)
    module.recompile()
    module.delete_all_unused_submodules()
    for name in [*module._parameters, *module._buffers]:  # what is left of them would be compiled in
        delattr(module, name)
    return list(inputs)


def bare_graph(
    atomic_numbers: Tensor, edge_index: Tensor, cell_shifts: Tensor, structure_of_atom: Tensor, n_structures: int
) -> AtomGraph:
    """Elements and topology alone: what messages and sums need to know of a graph."""
    cell = torch.zeros(n_structures, 3, 3, dtype=torch.float64, device=edge_index.device)
    positions = cell.new_zeros(atomic_numbers.shape[0], 3)
    pbc = torch.zeros_like(cell[:, 0], dtype=torch.bool)
    charge = spin = torch.zeros_like(cell[:, 0, 0], dtype=torch.int64)
    return AtomGraph(positions, atomic_numbers, cell, pbc, edge_index, cell_shifts, structure_of_atom, charge, spin)


def inputs_of(initial: Tensor, vectors: Tensor, graph: AtomGraph, weights: Tensor) -> tuple[Tensor, ...]:
    """What the function that :func:`network` makes takes, in this order."""
    topology = (graph.atomic_numbers, graph.edge_index, graph.cell_shifts, graph.structure_of_atom)
    return initial, vectors, *topology, weights


def network(potential: Potential, precision: str) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """What is worth compiling, as a function of tensors.

    It takes initial features (N, F), edge vectors (E, 3), atomic numbers (N,), senders and receivers (2, E), cell
    shifts (E, 3), the structure of each atom (N,) and weights (G, B); it gives features (N, F), the output of all
    branches, eV, (N, B) or (G, B), and the gradient of their weighted sum with respect to the vectors (E, 3).
    """

    def evaluate(
        initial: Tensor,
        vectors: Tensor,
        atomic_numbers: Tensor,
        edge_index: Tensor,
        cell_shifts: Tensor,
        structure_of_atom: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad(), dense_layers_in(precision):
            moving = vectors.detach().requires_grad_()
            graph = bare_graph(atomic_numbers, edge_index, cell_shifts, structure_of_atom, weights.shape[0])
            features = potential.atom_features(initial, moving, graph)
            eps = potential.contributions(features, graph)
            of_row = weights[structure_of_atom] if potential.atomwise else weights
            (gradient,) = torch.autograd.grad((eps * of_row).sum(), moving)
        return features.detach(), eps.detach(), gradient

    return evaluate


def example_graph(cutoff: float) -> AtomGraph:
    """Structures with as many atoms, edges and structures as nothing else in a model has."""
    names = ("CH3COOH", "C6H6", "CH3CH2OH", "C2H6", "CO2", "CH4", "H2O", "NH3", "HCN", "N2", "CO")
    structures = [bulk("MgO", "rocksalt", 4.21, cubic=True) * (2, 1, 1), *map(molecule, names)]
    return AtomGraph.batch([graph_from_atoms(atoms, cutoff=cutoff) for atoms in structures])
