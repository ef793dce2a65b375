r"""What a network sees of atoms that are too close: lengths that stop getting shorter.

No data reach there, so a network extrapolates, and explodes where it was trained without care. Lengths below
:math:`a`, a share of the sum of the covalent radii, are shown to it as :math:`s(r)`, with three continuous derivatives:

    :math:`s = r` for :math:`r \ge a`, and with :math:`u = (r / a - x) / (1 - x)`, :math:`x` = :data:`FLAT`,

    :math:`s / a = (1 + x) / 2 + (1 - x) (u^6 - 3 u^5 + \tfrac52 u^4)` for :math:`0 \le u \le 1`, the first term below.

The network's force along the pair is multiplied by :math:`s'`, and is zero from :math:`x a` on: there the repulsion of
nuclei rules alone (:mod:`gfmpot.models.repulsion`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gfmpot.graph import AtomGraph, in_plain_operations
from gfmpot.models.constants import Constants
from gfmpot.models.repulsion import known_radii

FLAT = 0.6
"""Of the length at which saturation begins."""


class SaturatedLengths(Constants):
    """Edge vectors as a network is to see them; no weights.

    Args:
        share: of the sum of the covalent radii, at which saturation begins.
    """

    begins: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.register_buffer("begins", share * known_radii(), persistent=False)

    def forward(self, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """Edge vectors (E, 3) Å to others of the same directions; the same tensor where no pair is that close."""
        begin = self.begins[graph.atomic_numbers]
        lengths = torch.linalg.vector_norm(vectors.detach(), dim=1)
        near = lengths < begin[graph.senders] + begin[graph.receivers]
        if not in_plain_operations():
            close = torch.nonzero(near).squeeze(1)
            if not len(close):
                return vectors
            begin = begin[graph.senders[close]] + begin[graph.receivers[close]]
            return vectors.index_copy(0, close, _shown(vectors[close], begin))
        begin = begin[graph.senders] + begin[graph.receivers]
        return torch.where(near.unsqueeze(1), _shown(vectors, begin), vectors)


def _shown(vectors: Tensor, begin: Tensor) -> Tensor:
    """Vectors as if all were shorter than ``begin``; a nonsense of finite size for longer ones."""
    lengths = torch.linalg.vector_norm(vectors, dim=1)
    begin = begin.to(vectors.dtype)
    u = ((lengths / begin - FLAT) / (1 - FLAT)).clamp(0.0, 1.0)
    seen = begin * ((1 + FLAT) / 2 + (1 - FLAT) * u**4 * (u * (u - 3) + 2.5))
    stretched: Tensor = vectors * (seen / lengths).unsqueeze(1)
    return stretched
