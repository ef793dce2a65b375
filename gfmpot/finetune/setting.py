"""How a task is run: what the command line chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gfmpot.config import did_you_mean
from gfmpot.finetune.task import STRATEGIES, Strategy, Task
from gfmpot.training.optim import OptimConfig

WARM = 20
"""The warm-up is this part of a run, at most."""

HEAD_FIRST = 0.2
"""Of a run on energies or properties alone, in which a fresh head learns what the backbone knows before it changes it.
Forces say so much more of each structure that there is nothing to be gained."""


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

    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
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


def optim_of(task: Task, setting: Setting, steps: int) -> OptimConfig:
    """How a run of so many steps learns: rates of head and backbone, warm-up and average."""
    slower = {"frozen": 0.0, "unfrozen": task.backbone_learning_rate, "keep": task.backbone_learning_rate}
    return OptimConfig(
        learning_rate=task.learning_rate,
        backbone_learning_rate=slower.get(setting.strategy),
        head_first=HEAD_FIRST if setting.strategy == "unfrozen" and not task.forces else 0.0,
        warmup_steps=min(100, max(1, steps // WARM)),
        ema=min(0.999, 1 - 10 / max(100, steps)),
    )
