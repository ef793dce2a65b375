"""The branches: one small network per dataset on the shared features, evaluated together."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gfmpot.config import tunable


@dataclass(frozen=True)
class BranchInfo:
    """Whose theory a branch answers with, and what is known about it."""

    name: str
    """``<dataset>-<theory>``, e.g. ``oc20-rpbe``; ``<dataset>-<theory>@<labeller>`` when distilled."""

    theory: str = ""
    e0: Mapping[str, float] = field(default_factory=dict)
    """Reference energy (eV) of every supported element; the others are unsupported, not zero."""

    alignment: Mapping[str, float] = field(default_factory=dict)
    """Shift (eV) per element that puts the branch on the common scale of the blend."""

    scale: float = 1.0
    """eV, the unit in which the branch's network speaks."""

    licence: str = ""
    citation: str = ""
    n_structures: int = 0
    states: tuple[tuple[int, int], ...] = ((0, 0),)
    """Total charge and multiplicity 2S+1 of structures in the training data, 0 where no multiplicity is stated."""

    periodic: float | None = None
    """Share of these structures that are periodic in some direction; None if nobody has counted them."""


@dataclass(frozen=True)
class HeadConfig:
    """Layers of each branch: narrow ones first ("shared" in the paper, Table V), then wide ones."""

    shared_layers: int = tunable(1, 1, 4)
    shared_width: int = tunable(64, 16, 256)
    branch_layers: int = tunable(1, 2, 4)
    branch_width: int = tunable(64, 300, 2000)
    readout: Literal["atomwise", "graph"] = "atomwise"
    """``atomwise`` sums energies of atoms; ``graph`` (the paper) applies the branches to summed features: its energies
    are not size-extensive and have no share per atom."""

    def widths(self, features: int) -> list[int]:
        """Widths of all layers, from the features to the energy."""
        return [features, *[self.shared_width] * self.shared_layers, *[self.branch_width] * self.branch_layers, 1]


class StackedLinear(nn.Module):
    """B linear maps of one shape, applied in one product; initialised as ``torch.nn.Linear`` is."""

    def __init__(self, stack: int, inner: int, outer: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inner)
        self.weight = nn.Parameter(torch.empty(stack, outer, inner).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(stack, outer).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, inner), or (1, M, inner) for the same input to all, to (B, M, outer)."""
        x = x.expand(len(self.weight), -1, -1)
        return torch.baddbmm(self.bias.unsqueeze(1), x, self.weight.transpose(1, 2))

    def unbound(self) -> list[tuple[Tensor, Tensor]]:
        """Weight (outer, inner) and bias (outer,) of each map.

        Their gradients come back as one stack; indexing would make a whole one, mostly zeros, for each index.
        """
        return list(zip(self.weight.unbind(), self.bias.unbind(), strict=True))


class BranchHeads(nn.Module):
    """B networks from features (of atoms or of structures) to energies in each branch's own unit."""

    def __init__(self, n_branches: int, features: int, config: HeadConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(StackedLinear(n_branches, a, b) for a, b in pairwise(config.widths(features)))

    @property
    def n_branches(self) -> int:
        """B."""
        return len(self.layers[0].weight)  # type: ignore[arg-type]

    def restricted(self, branches: Sequence[int]) -> BranchHeads:
        """A copy with some of the branches only."""
        heads = copy.deepcopy(self)
        for layer in heads.layers:
            layer.weight = nn.Parameter(layer.weight.detach()[list(branches)].clone())  # type: ignore[operator]
            layer.bias = nn.Parameter(layer.bias.detach()[list(branches)].clone())  # type: ignore[operator]
        return heads

    def forward(self, x: Tensor) -> Tensor:
        """(M, F) to (M, B): all branches."""
        y = x.unsqueeze(0)
        for layer in self.layers[:-1]:
            y = F.silu(layer(y))
        return self.layers[-1](y).squeeze(2).T  # type: ignore[no-any-return]

    def some(self, x: Tensor, wanted: Tensor) -> Tensor:
        """(M, F) to (M, B): the branches that are wanted (M, B) in each row, and 0 elsewhere."""
        maps = [layer.unbound() for layer in self.layers]  # type: ignore[operator]
        columns = []
        for index in range(self.n_branches):
            rows = torch.nonzero(wanted[:, index]).squeeze(1)
            one = self._one(x.index_select(0, rows), [layer[index] for layer in maps])
            columns.append(one.new_zeros(len(x)).index_add(0, rows, one))
        return torch.stack(columns, dim=1)

    def select(self, x: Tensor, branch: Tensor) -> Tensor:
        """(M, F) and the branch (M,) of each row to (M,): each row by its own branch only."""
        maps = [layer.unbound() for layer in self.layers]  # type: ignore[operator]
        out = x.new_zeros(len(x))
        for index in torch.unique(branch).tolist():
            rows = torch.nonzero(branch == index).squeeze(1)
            one = self._one(x.index_select(0, rows), [layer[index] for layer in maps])
            out = out.index_add(0, rows, one.to(out.dtype))
        return out

    @staticmethod
    def _one(x: Tensor, maps: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """(M, F) to (M,) by the maps of one branch."""
        for weight, bias in maps[:-1]:
            x = F.silu(F.linear(x, weight, bias))
        return F.linear(x, *maps[-1]).squeeze(1)
