"""Which branches answer for a composition: a small network of element fractions (paper §V-F, §VII-E)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gfmpot.graph.atom_graph import MAX_ATOMIC_NUMBER

SILENT = -1e4
"""Logit of a branch that has no say: its weight is 0 to the last bit, unless nobody else can answer."""


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

    @property
    def silent(self) -> Tensor:
        """(B,) bool: branches that :meth:`silence` has silenced."""
        return self.layers[-1].bias <= SILENT / 2  # type: ignore[operator, return-value]

    @torch.no_grad()
    def silence(self, branches: Sequence[int]) -> None:
        """Branches that answer only where nobody else can."""
        self.layers[-1].bias[list(branches)] = SILENT  # type: ignore[operator]

    @torch.no_grad()
    def give_a_say(self, *, but: Sequence[int] = ()) -> None:
        """To all silent branches but some: they begin as likely as the others, since training would not come back
        from nothing."""
        bias: Tensor = self.layers[-1].bias  # type: ignore[assignment]
        silent = self.silent
        called = silent.clone()
        called[list(but)] = False
        bias[called] = 0.0 if silent.all() else bias[~silent].mean()


def masked_softmax(logits: Tensor, supported: Tensor) -> Tensor:
    """(G, B) logits to weights over the supported branches (G, B) bool; each row must have one."""
    return torch.softmax(logits.masked_fill(~supported, -torch.inf), dim=1)
