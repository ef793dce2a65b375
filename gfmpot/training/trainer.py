"""The training loop: single process, resumable, reproducible."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfmpot.config import to_mapping, tunable
from gfmpot.graph import AtomGraph
from gfmpot.models import Potential, PotentialConfig, save
from gfmpot.training.corpus import (
    BranchCorpus,
    BranchData,
    SplitConfig,
    common_references,
    read_branch,
    without_spin,
)
from gfmpot.training.loss import LossConfig, LossTerms, loss_terms
from gfmpot.training.metrics import Metrics, evaluate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up, cosine decay, gradient clipping and an exponential moving average of the weights."""

    learning_rate: float = tunable(2e-3, 1e-5, 3e-3, log=True)
    final_learning_rate: float = 1e-5
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    clip: float = 10.0
    ema: float = 0.999

    def rate(self, step: int, steps: int) -> float:
        """Learning rate at a step."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine


@dataclass(frozen=True)
class TrainConfig:
    """A whole training run, as written in YAML."""

    model: Mapping[str, Any]
    """``backbone: {name: ..., ...}`` and ``head: {...}``, as :class:`gfmpot.models.PotentialConfig`."""

    branches: tuple[BranchData, ...]
    steps: int
    batch_structures: int = 32
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    unspecified_spin: float = 0.5
    """Share of neutral singlets trained without their multiplicity, so that leaving it out is a trained input."""

    validation_structures: int = 200
    """Per branch."""

    validate_every: int = 1000
    checkpoint_minutes: float = 5.0
    seed: int = 0


class Trainer:
    """Trains all branches together; ``folder`` keeps the state, the log and the model.

    The batch of a step depends on the seed and the step alone, so a resumed run sees what an uninterrupted one sees.
    """

    def __init__(self, config: TrainConfig, data: Path, folder: Path) -> None:
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.corpora = [read_branch(branch, data, config.split) for branch in config.branches]
        self.potential = self._fresh_potential()
        self._parameters = [p for name, p in self.potential.named_parameters() if not name.startswith("weights.")]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=config.optim.weight_decay)
        self._average = [parameter.detach().clone() for parameter in self._parameters]
        self.step = 0
        self._resume()

    def fit(self) -> Potential:
        """Train to the last step and return the averaged model, which is also in ``model.safetensors``."""
        saved = time.monotonic()
        with _progress() as progress:
            task = progress.add_task("training", total=self.config.steps, completed=self.step, note="")
            for graph in self._batches():
                terms = self._train_on(graph)
                progress.update(task, completed=self.step, note=_note(terms))
                if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                    self._save_state()
                    saved = time.monotonic()
                if self.step % self.config.validate_every == 0:
                    self._log(terms, self.validate())
        self._save_state()
        self._use_average()
        save(self.potential, self.folder / "model.safetensors")
        return self.potential

    def validate(self) -> dict[str, Metrics]:
        """Errors of the averaged weights on a fixed part of each branch's validation split."""
        current = [parameter.detach().clone() for parameter in self._parameters]
        self._use_average()
        graphs = [
            graph
            for b, corpus in enumerate(self.corpora)
            for graph in corpus.graphs("valid", self.potential.config, b, self.config.validation_structures)
        ]
        metrics = evaluate(self.potential, graphs)
        _copy(current, self._parameters)
        return metrics

    def hours(self) -> float:
        """Wall time from the first log entry to the last, interruptions included."""
        path = self.folder / "log.jsonl"
        times = [json.loads(line)["time"] for line in path.read_text().splitlines()] if path.is_file() else []
        return (times[-1] - times[0]) / 3600 * len(times) / max(1, len(times) - 1) if times else 0.0

    def _fresh_potential(self) -> Potential:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            branches = [corpus.info for corpus in self.corpora]
            model = PotentialConfig.from_mapping(self.config.model)
            return Potential(model, branches, common_references(branches))

    def _train_on(self, graph: AtomGraph) -> LossTerms:
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.optim.rate(self.step, self.config.steps)
        terms = loss_terms(self.potential.labelled(graph), graph)
        self._optimizer.zero_grad()
        terms.total(self.config.loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, self.config.optim.clip, error_if_nonfinite=True)
        self._optimizer.step()
        self.step += 1
        decay = min(self.config.optim.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1 - decay)
        return terms

    def _batches(self) -> Iterator[AtomGraph]:
        """Batches from the current step on, built ahead in a thread."""
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(self._batch, step) for step in range(self.step, min(self.step + 4, self.config.steps))]
            for step in range(self.step + len(ahead), self.config.steps + len(ahead)):
                ready = ahead.pop(0)
                if step < self.config.steps:
                    ahead.append(pool.submit(self._batch, step))
                yield ready.result()

    def _batch(self, step: int) -> AtomGraph:
        rng = np.random.default_rng((self.config.seed, step))
        shares = np.array([corpus.share for corpus in self.corpora])
        counts = rng.multinomial(self.config.batch_structures, shares / shares.sum())
        graphs = [self._sample(corpus, b, rng) for b, corpus in enumerate(self.corpora) for _ in range(int(counts[b]))]
        return AtomGraph.batch(graphs)

    def _sample(self, corpus: BranchCorpus, branch: int, rng: np.random.Generator) -> AtomGraph:
        frames = corpus.splits["train"]
        i = int(rng.integers(len(frames)))
        graph = corpus.graph("train", i, self.potential.config, branch)
        forget = frames.charge[i] == 0 and frames.spin[i] == 1 and rng.random() < self.config.unspecified_spin
        return without_spin(graph) if forget else graph

    def _use_average(self) -> None:
        _copy(self._average, self._parameters)

    def _log(self, terms: LossTerms, metrics: dict[str, Metrics]) -> None:
        entry = {"step": self.step, "time": time.time(), "energy": terms.energy.item(), "forces": terms.forces.item()}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({**entry, "valid": metrics}) + "\n")
        for name, m in metrics.items():
            forces = f"{1e3 * m['forces_mae']:.0f} meV/Å ({m['forces_relative']:.1%})"
            log.info("step %d %s: %.1f meV/atom, %s", self.step, name, 1e3 * m["energy_mae"], forces)

    def _save_state(self) -> None:
        """Write everything needed to go on, atomically. A PyTorch file: load only what you wrote yourself."""
        state = {
            "step": self.step,
            "config": json.dumps(to_mapping(self.config)),
            "model": self.potential.state_dict(),
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
        }
        partial = self.folder / "state.pt.partial"
        torch.save(state, partial)
        partial.replace(self.folder / "state.pt")

    def _resume(self) -> None:
        path = self.folder / "state.pt"
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        if state["config"] != json.dumps(to_mapping(self.config)):
            raise ValueError(f"{path} was written with other settings; use another folder, or delete it to start anew")
        self.potential.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._average, self.step = state["average"], state["step"]
        log.info("resumed at step %d", self.step)


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(target), list(source))


def _note(terms: LossTerms) -> str:
    return f"E {1e3 * terms.energy.item():.0f} meV/atom, F {1e3 * terms.forces.item():.0f} meV/Å"


def _progress() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    return Progress(*columns, TimeRemainingColumn())
