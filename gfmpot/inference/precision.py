"""What precision the network runs in; geometry and sums of energies are float64 in all of them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch

from gfmpot.config import did_you_mean

Precision = Literal["fp32", "fp64", "bf16"]


def network_dtype(precision: str) -> torch.dtype:
    """The dtype of the weights; with bf16 they stay float32 and only dense layers are computed in bfloat16.

    Raises:
        ValueError: unknown precision.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"no precision {precision!r}{did_you_mean(str(precision), get_args(Precision))}")
    return torch.float64 if precision == "fp64" else torch.float32


def dense_layers_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Where to run the network."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
