"""Muon or AdamW, the learning rate, gradient clipping, and the moving average of the weights that answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from gfmpot.config import tunable
from gfmpot.training.muon import Muon
from gfmpot.training.parallelize import local
from gfmpot.training.parameters import is_matrix, is_shared

AWAKENING = 0.05
"""Of a run, over which the rate of the backbone rises after heads have been trained alone."""


@dataclass(frozen=True)
class OptimConfig:
    """A method with linear warm-up, a schedule, gradient clipping and an exponential moving average of the weights."""

    method: Literal["adamw", "muon"] = tunable("adamw", choices=("adamw", "muon"))
    """``muon``: the backbone's matrices take orthogonal steps (Jordan et al., 2024; :mod:`gfmpot.training.muon`), all
    else takes AdamW's. Fewer steps to the same error; not with ``parallel: fsdp``, which has only parts of a matrix."""

    learning_rate: float = tunable(2e-3, 1e-5, 3e-3, log=True)
    """Of AdamW."""

    backbone_learning_rate: float | None = None
    """Of AdamW for the backbone and the embedding of elements, which follows the same schedule in proportion; as the
    others' if not given. 0 leaves them as they are, and their gradient is not computed."""

    head_first: float = 0.0
    """Share of the run during which the backbone and the embedding are left as they are, so that fresh heads do not
    spoil what these know (Kumar et al., arXiv:2202.10054); their rate rises over the next twentieth of the run."""

    matrix_learning_rate: float = tunable(8e-3, 1e-3, 2e-2, log=True)
    """Of Muon; it follows the same schedule in proportion. A step changes an element by 0.2 of it (root mean square),
    so that good values are a few times AdamW's."""

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

    def __post_init__(self) -> None:
        if (self.backbone_learning_rate or 0.0) < 0:
            raise ValueError(
                f"optim: backbone_learning_rate must not be negative, got {self.backbone_learning_rate}; 0 freezes"
            )

        if not 0 <= self.head_first < 1:
            raise ValueError(f"optim: head_first is a share of the run, 0 to below 1, got {self.head_first}")

    def awake(self, done: float) -> float:
        """What ``head_first`` leaves of the rate of the backbone when a share of the run is done."""
        return 1.0 if self.head_first == 0 else min(1.0, max(0.0, (done - self.head_first) / AWAKENING))

    @property
    def frozen(self) -> bool:
        """Whether the backbone and the embedding stay as they are."""
        return self.backbone_learning_rate == 0

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


class Trained(Protocol):
    """What is stepped: :class:`~gfmpot.training.parallelize.Parallel` is one."""

    names: list[str]
    parameters: list[torch.nn.Parameter]

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient; collective."""


P = TypeVar("P", bound=Trained)


@dataclass
class Optimizer(Generic[P]):
    """Steps of what is trained, on whatever part of its parameters a rank has."""

    parallel: P
    config: OptimConfig
    keep_best: bool = False
    """Keep a copy of the average that :meth:`see` was told the lowest loss of."""

    step: int = 0
    plateau: Plateau = field(default_factory=Plateau)
    best_loss: float = math.inf
    best_step: int = 0
    """After how many steps that was."""

    def __post_init__(self) -> None:
        parameters = self.parallel.parameters
        self.average = [p.detach().clone() for p in parameters]
        self.best = [p.detach().clone() for p in parameters] if self.keep_best else []
        matrices: list[torch.nn.Parameter] = []
        shared: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, p in zip(self.parallel.names, parameters, strict=True):
            if self.config.method == "muon" and is_matrix(name, p):
                matrices.append(p)
            else:
                (shared if is_shared(name) else others).append(p)
        decay, slower = self.config.weight_decay, self.config.backbone_learning_rate
        factor = 1.0 if slower is None else slower / self.config.learning_rate
        groups = [{"params": shared, "factor": factor, "shared": True}, {"params": others, "factor": 1.0}]
        self._adam = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=decay, foreach=True)
        self._muon = Muon(matrices, weight_decay=decay) if matrices else None
        # What they would make on their first step, there already for a checkpoint to be read into.
        for p in [*shared, *others]:
            zeros = {name: torch.zeros_like(p, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            self._adam.state[p] = {"step": torch.zeros(()), **zeros}
        for p in matrices:
            self._muon.state[p]["momentum_buffer"] = torch.zeros_like(p, requires_grad=False)  # type: ignore[union-attr]

    def rate(self, done: float) -> float:
        """The learning rate of AdamW's next step."""
        factor = self.plateau.factor if self.config.schedule == "plateau" else 1.0
        return factor * self.config.rate(self.step, done)

    def zero_grad(self) -> None:
        """Forget gradients."""
        for p in self.parallel.parameters:
            p.grad = None

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
        rate, awake = self.rate(done), self.config.awake(done)
        _step(self._adam, rate, awake)
        if self._muon is not None:
            _step(self._muon, awake * rate * self.config.matrix_learning_rate / self.config.learning_rate)
        self.step += 1
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        current = [local(p.detach()) for p in self.parallel.parameters]
        torch._foreach_lerp_([local(a) for a in self.average], current, 1 - decay)
        return norm

    def see(self, loss: float) -> None:
        """Take note of the validation loss of the average."""
        self.plateau.see(loss, self.config)
        if self.keep_best and loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            for kept, now in zip(self.best, self.average, strict=True):
                local(kept).copy_(local(now))

    def tensors(self) -> dict[str, list[Tensor]]:
        """All that belongs to the parameters, in their order: they, their average and the method's moments.

        Muon has no second moment; a number stands in its place.
        """
        parameters = self.parallel.parameters
        first, second = zip(*map(self._moments, parameters), strict=True)
        model = [p.detach() for p in parameters]
        best = {"best": self.best} if self.keep_best else {}
        return {"model": model, "average": self.average, "exp_avg": list(first), "exp_avg_sq": list(second), **best}

    def facts(self) -> dict[str, Any]:
        """The rest of the state, as plain types."""
        best = self.best_loss if math.isfinite(self.best_loss) else None
        facts = {"step": self.step, "plateau": vars(self.plateau).copy(), "best_loss": best}
        return {**facts, "best_step": self.best_step}

    def resume(self, facts: Mapping[str, Any]) -> None:
        """The inverse of :meth:`facts`."""
        self.step, self.plateau = int(facts["step"]), Plateau(**facts["plateau"])
        self.best_loss = math.inf if facts.get("best_loss") is None else float(facts["best_loss"])
        self.best_step = int(facts.get("best_step", 0))
        for state in self._adam.state.values():
            state["step"].fill_(self.step)

    def _moments(self, p: Tensor) -> tuple[Tensor, Tensor]:
        if p in self._adam.state:
            return self._adam.state[p]["exp_avg"], self._adam.state[p]["exp_avg_sq"]
        assert self._muon is not None
        return self._muon.state[p]["momentum_buffer"], p.new_zeros(())


def _step(optimizer: torch.optim.Optimizer, rate: float, awake: float = 1.0) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("factor", 1.0) * (awake if group.get("shared") else 1.0)
    optimizer.step()
