"""What precision the network runs in; geometry and sums of energies are float64 in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from gfmpot.config import did_you_mean

Precision = Literal["bf16", "fp32", "fp64"]

NARROW = 8
"""Outputs: what has fewer is no matrix product to speed up. Above all it is the last layer of each branch, whose output
is the energy of an atom."""


def network_dtype(precision: str) -> torch.dtype:
    """The dtype of the weights; with bf16 they stay float32 and only dense layers are computed in bfloat16.

    Raises:
        ValueError: unknown precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"no precision {precision!r}{did_you_mean(str(precision), get_args(Precision))}")
    return torch.float64 if precision == "fp64" else torch.float32


def dense_layers_in(precision: str) -> AbstractContextManager[object]:
    """Where to run the network, forward and backward."""
    return _BFloat16Products() if precision == "bf16" else nullcontext()


class _BFloat16Products(TorchFunctionMode):
    """Products with weights take bfloat16 factors and give float32; nothing else sees bfloat16.

    ``torch.autocast`` would also round sums over neighbours that are matrix products, and leave activations, norms and
    scalar products in bfloat16. Gradients of a product are products of the same kind: the casts are differentiated.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        dense = _DENSE.get(func)
        return (dense or func)(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As ``F.linear``; weight (outputs, inputs)."""
    if weight.dtype != torch.float32 or weight.shape[0] < NARROW:
        return F.linear(x, weight, bias)
    return F.linear(x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16()).float()


def _stacked(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """As ``torch.baddbmm``, of which stacked layers are made; weight (stack, inputs, outputs)."""
    if weight.dtype != torch.float32 or weight.shape[2] < NARROW:
        return torch.baddbmm(bias, x, weight)
    return torch.baddbmm(bias.bfloat16(), x.bfloat16(), weight.bfloat16()).float()


_DENSE: Mapping[Callable[..., Any], Callable[..., Tensor]] = {F.linear: _linear, torch.baddbmm: _stacked}
