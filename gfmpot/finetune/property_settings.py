"""How a model of a property is trained, and the loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gfmpot.config import to_mapping, tunable
from gfmpot.telemetry import SinkConfig
from gfmpot.training.optim import OptimConfig

LossKind = Literal["mae", "huber", "mse"]


def _for_few_data() -> OptimConfig:
    return OptimConfig(learning_rate=1e-3, warmup_steps=50, ema=0.99)


@dataclass(frozen=True)
class PropertySettings:
    """A training run of a model of a property."""

    epochs: int = 100
    batch_size: int = tunable(32, 4, 256, log=True)
    """Structures."""

    loss: LossKind = "mae"
    """Of numbers; of errors in units of the mean one that composition alone makes, beyond which ``huber`` is linear.
    Classes have the binary cross-entropy."""

    optim: OptimConfig = field(default_factory=_for_few_data)
    """``backbone_learning_rate`` is that of backbone and embedding; 0 freezes them, and they are evaluated once."""

    precision: Literal["fp32", "fp64", "bf16"] = "fp32"
    """With ``bf16`` weights, their gradients and the optimizer stay float32, and products with dense layers take
    bfloat16 factors, in training as in inference. Losses need not be scaled: bfloat16 has the range of float32, other
    than float16, so that small gradients do not vanish."""

    keep_best: bool = True
    """Answer with the weights of the lowest validation loss rather than the last; needs a validation split."""

    seed: int = 0
    """Of the order of structures."""

    max_edges: int = 50_000
    """Larger batches are computed in parts, whose gradients add up."""

    kept_gigabytes: float = 4.0
    """Memory for graphs, so that neighbours are found once; graphs beyond are made anew each epoch."""

    threads: int = 2
    """That make graphs."""

    checkpoint_seconds: float = 30.0
    """Between states to go on from."""

    sinks: SinkConfig = field(default_factory=SinkConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_edges", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.kept_gigabytes < 0 or self.checkpoint_seconds < 0:
            raise ValueError(
                f"kept_gigabytes and checkpoint_seconds must not be negative, got {self.kept_gigabytes} and "
                f"{self.checkpoint_seconds}"
            )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return torch.float64 if self.precision == "fp64" else torch.float32

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed; how it is watched, and where graphs are kept, may change."""
        free = ("kept_gigabytes", "threads", "checkpoint_seconds", "sinks")
        return {key: value for key, value in to_mapping(self).items() if key not in free}


def losses(raw: Tensor, values: Tensor, kind: LossKind | Literal["class"], unit: float = 1.0) -> Tensor:
    """(S,) loss of each structure.

    Args:
        raw: (S,) what ``PropertyModel.raw`` gives.
        values: (S,) what it should have given; 0 or 1 for classes.
        kind: of loss, ``class`` for the binary cross-entropy.
        unit: of errors, in that of the values.
    """
    if kind == "class":
        return F.binary_cross_entropy_with_logits(raw, values, reduction="none")
    errors = (raw - values) / unit
    if kind == "mae":
        return errors.abs()
    return errors.square() if kind == "mse" else F.huber_loss(errors, torch.zeros_like(errors), reduction="none")
