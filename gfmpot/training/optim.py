"""AdamW, its learning rate, gradient clipping, and the moving average of the weights that answers in the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from gfmpot.config import tunable
from gfmpot.training.parallelize import Parallel, local


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up, a schedule, gradient clipping and an exponential moving average of the weights."""

    learning_rate: float = tunable(2e-3, 1e-5, 3e-3, log=True)
    final_learning_rate: float = 1e-5
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """``cosine``: from the first to the final rate over the run. ``plateau``: lowered when validation stalls."""

    warmup_steps: int = 200
    weight_decay: float = 1e-4
    clip: float = 10.0
    """Largest norm of the gradient."""

    ema: float = 0.999
    plateau_factor: float = 0.5
    plateau_patience: int = 10
    """Validations without improvement before ``plateau`` acts (the paper's 0.5 and 10)."""

    def rate(self, step: int, done: float) -> float:
        """Learning rate at a step when a share of the run is done, before what ``plateau`` does to it."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule != "cosine":
            return warm * self.learning_rate
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return warm * (self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine)


@dataclass
class Plateau:
    """How long validation has not improved, and what that has done to the learning rate."""

    factor: float = 1.0
    best: float = math.inf
    waited: int = 0

    def see(self, loss: float, config: OptimConfig) -> None:
        """Take note of a validation loss."""
        if loss < self.best * (1 - 1e-4):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > config.plateau_patience:
            floor = config.final_learning_rate / config.learning_rate
            self.factor, self.waited = max(floor, self.factor * config.plateau_factor), 0


@dataclass
class Optimizer:
    """Steps of a :class:`~gfmpot.training.parallelize.Parallel`, on whatever part of the parameters a rank has."""

    parallel: Parallel
    config: OptimConfig
    step: int = 0
    plateau: Plateau = field(default_factory=Plateau)

    def __post_init__(self) -> None:
        parameters = self.parallel.parameters
        self.average = [p.detach().clone() for p in parameters]
        self._adam = torch.optim.AdamW(parameters, weight_decay=self.config.weight_decay, foreach=True)
        for p in parameters:  # what AdamW would make on its first step, there already for a checkpoint to be read into
            zeros = {name: torch.zeros_like(p, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            self._adam.state[p] = {"step": torch.zeros(()), **zeros}

    def rate(self, done: float) -> float:
        """The learning rate of the next step."""
        factor = self.plateau.factor if self.config.schedule == "plateau" else 1.0
        return factor * self.config.rate(self.step, done)

    def zero_grad(self) -> None:
        """Forget gradients."""
        self._adam.zero_grad()

    def advance(self, done: float) -> float:
        """One step with the gradients that there are, when a share of the run is done. Collective.

        Returns:
            The norm of the gradient before clipping.

        Raises:
            FloatingPointError: the gradient is not finite; nothing was changed.
        """
        norm = float(self.parallel.gradient_norm())
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"step {self.step}: the norm of the gradient is {norm}; lower the learning rate, or look for wrong "
                "labels with `gfmpot data describe`"
            )
        grads = [local(p.grad) for p in self.parallel.parameters if p.grad is not None]
        torch._foreach_mul_(grads, min(1.0, self.config.clip / (norm + 1e-12)))
        for group in self._adam.param_groups:
            group["lr"] = self.rate(done)
        self._adam.step()
        self.step += 1
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        current = [local(p.detach()) for p in self.parallel.parameters]
        torch._foreach_lerp_([local(a) for a in self.average], current, 1 - decay)
        return norm

    def tensors(self) -> dict[str, list[Tensor]]:
        """All that belongs to the parameters, in their order: they, their average and AdamW's two moments."""
        parameters = self.parallel.parameters
        moments = {name: [self._adam.state[p][name] for p in parameters] for name in ("exp_avg", "exp_avg_sq")}
        return {"model": [p.detach() for p in parameters], "average": self.average, **moments}

    def facts(self) -> dict[str, Any]:
        """The rest of the state, as plain types."""
        return {"step": self.step, "plateau": vars(self.plateau).copy()}

    def resume(self, facts: Mapping[str, Any]) -> None:
        """The inverse of :meth:`facts`."""
        self.step, self.plateau = int(facts["step"]), Plateau(**facts["plateau"])
        for p in self.parallel.parameters:
            self._adam.state[p]["step"].fill_(self.step)
