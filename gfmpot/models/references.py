"""Energies of many theories on known scales: reference energies per element, alignment, supported elements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from gfmpot.graph import AtomGraph
from gfmpot.models.branches import BranchInfo
from gfmpot.models.conditioning import N_ELEMENTS
from gfmpot.models.constants import Constants


class UnsupportedElementsError(ValueError):
    """No branch (or not the chosen one) has learnt every element of a structure."""


class References(Constants):
    """Tables by branch and element, and the unit of each branch, always in float64.

    ``E_b = Σ_i e0_b[Z_i] + ε_b`` on the branch's own scale, ``Σ_i e0_blend[Z_i] + Σ_b w_b (ε_b + Σ_i
    alignment_b[Z_i])`` on the common one.
    """

    e0: Tensor  # (B, 119) eV
    alignment: Tensor  # (B, 119) eV
    supported: Tensor  # (B, 119) bool
    e0_blend: Tensor  # (119,) eV
    scales: Tensor  # (B,) eV

    def __init__(self, branches: Sequence[BranchInfo], e0_blend: Mapping[str, float]) -> None:
        super().__init__()
        self.names = [branch.name for branch in branches]
        self.register_buffer("e0", torch.stack([_table(b.e0) for b in branches]), persistent=False)
        self.register_buffer("alignment", torch.stack([_table(b.alignment) for b in branches]), persistent=False)
        self.register_buffer("supported", torch.stack([_mask(b.e0) for b in branches]), persistent=False)
        self.register_buffer("e0_blend", _table(e0_blend), persistent=False)
        self.register_buffer("scales", torch.tensor([b.scale for b in branches], dtype=torch.float64), persistent=False)

    def own(self, branch: Tensor, atomic_numbers: Tensor) -> Tensor:
        """(N,) e0 on each atom's branch (N,)."""
        return self.e0[branch, atomic_numbers]

    def totals(self, graph: AtomGraph) -> Tensor:
        """(G, B) Σ e0 of each branch."""
        return graph.composition @ self.e0[:, 1:].T

    def shifts(self, graph: AtomGraph) -> Tensor:
        """(G, B) Σ alignment of each branch."""
        return graph.composition @ self.alignment[:, 1:].T

    def supporting(self, graph: AtomGraph) -> Tensor:
        """(G, B) bool: the branch supports every element of the structure."""
        present = graph.composition > 0
        return ~(present.unsqueeze(1) & ~self.supported[:, 1:]).any(dim=2)

    def closest(self, graph: AtomGraph) -> Tensor:
        """(G, B) bool: the branches that miss the fewest elements of the structure."""
        present = graph.composition > 0
        missing = (present.unsqueeze(1) & ~self.supported[:, 1:]).sum(dim=2)
        return missing == missing.min(dim=1, keepdim=True).values

    def require(self, graph: AtomGraph, supporting: Tensor, nobody: str = "no branch") -> None:
        """Raise unless every structure has a supporting branch (G, B); ``nobody`` begins the message.

        Raises:
            UnsupportedElementsError: names the elements and the branches that come nearest.
        """
        lost = torch.nonzero(~supporting.any(dim=1)).flatten()
        if len(lost) == 0:
            return
        present = set(graph.atomic_numbers[graph.structure_of_atom == lost[0]].tolist())
        raise UnsupportedElementsError(f"{nobody} {self._explain(present)}")

    def require_branch(self, graph: AtomGraph, index: int) -> None:
        """Raise unless the branch supports every structure.

        Raises:
            UnsupportedElementsError: names the elements that it lacks and the branches that have them.
        """
        lacking = ~self.supported[index, graph.atomic_numbers]
        if not lacking.any():
            return
        symbols = {chemical_symbols[z] for z in graph.atomic_numbers[lacking].tolist()}
        able = [name for b, name in enumerate(self.names) if self.supporting(graph)[:, b].all()]
        raise UnsupportedElementsError(
            f"head {self.names[index]!r} lacks {', '.join(sorted(symbols))}; "
            f"heads that support every element: {', '.join(able) or 'none'}"
        )

    def _explain(self, present: Iterable[int]) -> str:
        missing = {
            name: [chemical_symbols[z] for z in sorted(present) if not self.supported[b, z]]
            for b, name in enumerate(self.names)
        }
        nearest = sorted(missing.items(), key=lambda item: len(item[1]))[:3]
        listed = "; ".join(f"{name} lacks {', '.join(symbols) or 'none'}" for name, symbols in nearest)
        formula = ", ".join(chemical_symbols[z] for z in sorted(present))
        return (
            f"supports all of {formula}: {listed}. "
            "Use a model that covers them, or allow_unsupported=True for an untrained guess"
        )


def elements_of(table: Mapping[str, float]) -> list[str]:
    """Symbols in the order of the periodic table."""
    return sorted(table, key=lambda symbol: atomic_numbers[symbol])


def _table(values: Mapping[str, float]) -> Tensor:
    table = torch.zeros(N_ELEMENTS, dtype=torch.float64)
    for symbol, value in values.items():
        table[atomic_numbers[symbol]] = value
    return table


def _mask(values: Mapping[str, float]) -> Tensor:
    return torch.tensor([symbol in values for symbol in chemical_symbols[:N_ELEMENTS]])
