"""Muon in the precision of the weights.

:class:`torch.optim.Muon` orthogonalises in bfloat16, for which most processors have no arithmetic: on one of them its
step took longer than the gradient (benchmarks/RESULTS.md, "Muon"). The steps here are the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration (Jordan et al., 2024): singular values between 0 and 1 end between 0.7 and 1.2."""

ITERATIONS = 5


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix (m, n) with orthonormal rows, or columns, whichever are fewer; approximately."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Orthogonal steps of matrices along Nesterov's momentum, with decoupled weight decay.

    A step changes an element by 0.2 of the learning rate (root mean square), whatever the shape (Liu et al.,
    arXiv:2502.16982, section 2.2).
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step; ``closure`` is there for PyTorch's sake and must be None."""
        assert closure is None
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                average = state["momentum_buffer"].lerp_(p.grad, 1 - momentum)
                direction = orthogonal(p.grad.lerp(average, momentum))
                p.mul_(1 - rate * group["weight_decay"])
                p.add_(direction, alpha=-rate * 0.2 * max(p.shape) ** 0.5)
