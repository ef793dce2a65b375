r"""Changes of low rank: matrices of a trained network move within few directions (LoRA).

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv:2106.09685: :math:`W = W_0 + B A`, of which A
(r, in) and B (out, r) are trained, and B begins with zero. The network has W itself, so that kernels and compilers see
nothing of it: what is trained gets its gradient from that of W, :math:`dB = dW A^T` and :math:`dA = B^T dW`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class LowRankChange:
    """A change of one matrix (out, in) of a network."""

    def __init__(self, matrix: nn.Parameter, rank: int, generator: torch.Generator) -> None:
        outer, inner = matrix.shape
        draw = torch.randn(rank, inner, generator=generator) / math.sqrt(inner)
        self.down = nn.Parameter(draw.to(matrix.device, matrix.dtype))
        self.up = nn.Parameter(matrix.detach().new_zeros(outer, rank))
        self._matrix, self._start = matrix, matrix.detach().clone()

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """What is trained, by names that are made of the matrix's."""
        return {f"{name}.down": self.down, f"{name}.up": self.up}

    def merged(self, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """(out, in) the matrix with the change that ``tensors`` has of it."""
        return self._start + tensors[f"{name}.up"] @ tensors[f"{name}.down"]

    @torch.no_grad()
    def put(self) -> None:
        """Give the network the matrix as it is now."""
        self._matrix.copy_(self._start + self.up @ self.down)

    @torch.no_grad()
    def take_gradient(self) -> None:
        """What the gradient of the matrix, which is then forgotten, says of the change."""
        gradient, self._matrix.grad = self._matrix.grad, None
        if gradient is None:
            gradient = torch.zeros_like(self._start)
        self.up.grad, self.down.grad = gradient @ self.down.T, self.up.T @ gradient
