"""How a task is run: what the command line chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gfmpot.finetune.task import STRATEGIES, Strategy


@dataclass(frozen=True)
class Setting:
    """One model of a task."""

    strategy: Strategy = "unfrozen"
    seed: int = 0
    """Of new weights and of the order of structures; the split does not depend on it."""

    precision: Literal["fp32", "fp64", "bf16"] = "fp32"
    train_size: int | None = None
    """Structures of the training side that are used; all if not given."""

    low_rank: int = 8
    """Of ``lora``."""

    differences: bool = True
    """Gradients of losses on forces by differences, where there are kernels (:mod:`gfmpot.training.differences`)."""

    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            from gfmpot.config import did_you_mean

            raise ValueError(f"no strategy {self.strategy!r}{did_you_mean(self.strategy, STRATEGIES)}")
        if self.train_size is not None and self.train_size < 1:
            raise ValueError(f"train_size must be at least 1, got {self.train_size}")

    @property
    def family(self) -> str:
        """What runs with other seeds have in common."""
        size = "" if self.train_size is None else f"-{self.train_size}"
        precision = "" if self.precision == "fp32" else f"-{self.precision}"
        return f"{self.strategy}{precision}{size}"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.family}-seed{self.seed}"
