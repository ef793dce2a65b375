"""Initial features of atoms, from their element and from the total charge and multiplicity of the structure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfmpot.graph import UNSPECIFIED_SPIN, AtomGraph

N_ELEMENTS = 119
"""Rows of tables by atomic number; row 0 is not an element."""


class AtomEmbedding(nn.Module):
    """Element embedding plus a linear embedding of charge and spin.

    Neutral structures without a stated multiplicity get the element embedding alone, so that charge and spin cost
    neither locality nor size extensivity where they play no part. Charge and spin are spread evenly over the atoms:
    what they add to the energy is then a property of the whole, which does not grow with the number of atoms.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.elements = nn.Embedding(N_ELEMENTS, features)
        self.charge_and_spin = nn.Linear(4, features, bias=False)

    def forward(self, graph: AtomGraph) -> Tensor:
        """(N, F)."""
        conditions = self.charge_and_spin(self._conditions(graph))
        features: Tensor = self.elements(graph.atomic_numbers) + conditions.index_select(0, graph.structure_of_atom)
        return features

    def _conditions(self, graph: AtomGraph) -> Tensor:
        """(G, 4): charge, its square, whether the multiplicity is stated, unpaired electrons; per atom."""
        charge = graph.charge.to(self.charge_and_spin.weight.dtype)
        stated = (graph.spin != UNSPECIFIED_SPIN).to(charge.dtype)
        unpaired = (graph.spin - 1).to(charge.dtype) * stated
        conditions = torch.stack([charge, charge**2, stated, unpaired], dim=1)
        return conditions / graph.atoms_per_structure.unsqueeze(1)
