"""Which branches answer for a composition: a small network of element fractions (paper §V-F, §VII-E)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gfmpot.graph.atom_graph import MAX_ATOMIC_NUMBER


class BranchWeightMLP(nn.Module):
    """Element fractions → 128 → 64 → one logit per branch.

    Fractions, not counts, so that a supercell has the weights of its cell. Weights depend on the composition alone:
    they are constant along a trajectory, and forces stay the exact gradient of the energy. Evaluated in float64
    whatever precision the rest runs in, so that precision does not change the blend.
    """

    def __init__(self, n_branches: int, hidden: tuple[int, ...] = (128, 64)) -> None:
        super().__init__()
        widths = (MAX_ATOMIC_NUMBER, *hidden, n_branches)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, fractions: Tensor) -> Tensor:
        """(G, 118) element fractions to (G, B) logits, float64."""
        x = fractions.double()
        for i, layer in enumerate(self.layers):
            x = F.linear(F.silu(x) if i else x, layer.weight.double(), layer.bias.double())  # type: ignore[arg-type]
        return x


def masked_softmax(logits: Tensor, supported: Tensor) -> Tensor:
    """(G, B) logits to weights over the supported branches (G, B) bool; each row must have one."""
    return torch.softmax(logits.masked_fill(~supported, -torch.inf), dim=1)
