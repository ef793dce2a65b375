"""How many floating-point operations the fast path of PaiNN takes, counted from its shapes.

A multiplication and an addition are two. Matrix products and sums over neighbours are counted, forward and backward;
activations, norms and copies are not, so that what is said of a machine's rate is not flattered.
"""

from __future__ import annotations

from gfmpot.graph import AtomGraph
from gfmpot.models import Potential
from gfmpot.models.backbones._painn_fast import FastPaiNN
from gfmpot.models.backbones.painn import PaiNN


def flops(potential: Potential, graph: AtomGraph) -> float:
    """Of energy and forces of a batch, all branches evaluated."""
    backbone = potential.backbone
    assert isinstance(backbone, PaiNN)
    fast = backbone.kernels(potential.dtype)
    assert isinstance(fast, FastPaiNN)
    atoms, edges, features, functions = graph.n_atoms, graph.n_edges, fast.features, fast.functions
    total = 0.0
    for layer, message in enumerate(fast.messages):
        last = layer == len(fast.messages) - 1
        gates = 2 if last else 3
        if layer == 0 and message.prefers_kinds(graph):
            width = len(graph.kinds[0]) * functions
            total += 2 * 2 * atoms * width * features * (1 + 3 + 3 * 2)  # s, v, and U v and W v; and back
        else:
            total += _message(edges, features, functions, first=layer == 0)
            total += 2 * 2 * atoms * 3 * features * 2 * features  # U v and W v; and back
            total += 0 if layer == 0 else 2 * 2 * atoms * (features**2 + 3 * features**2)  # what senders say
        total += 2 * 2 * atoms * (2 * features**2 + gates * features**2)
    rows = atoms if potential.atomwise else graph.n_structures
    heads = sum(layer.weight.numel() for layer in potential.heads.layers)  # type: ignore[union-attr, misc]
    return total + 2 * 2 * rows * heads


def _message(edges: int, features: int, functions: int, *, first: bool) -> float:
    """Filters, their products with senders and directions, and the gradients of both."""
    gates = 2 if first else 3
    filters = 2 * gates * functions * features
    forward = filters + 2 * (4 if first else 7) * features
    backward = 2 * filters + 2 * (7 if first else 18) * features
    return float(edges * (forward + backward))
