"""Training of a model of a property: reproducible, resumable, with the weights of the best validation."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor

from gfmpot.data.split import SplitName
from gfmpot.finetune.metrics import Metrics, classification, regression
from gfmpot.finetune.property_data import Floats, Part, PropertyData
from gfmpot.finetune.property_network import PropertyNetwork
from gfmpot.finetune.property_settings import PropertySettings, losses
from gfmpot.finetune.stopped import Stopped
from gfmpot.finetune.temperature import fit_temperature
from gfmpot.inference import PropertyPredictor
from gfmpot.models import PropertyModel, fingerprint, save
from gfmpot.telemetry import Sinks, open_sinks
from gfmpot.training.optim import Optimizer
from gfmpot.training.parameters import is_shared
from gfmpot.training.position import changed_settings
from gfmpot.training.progress import Show, progress_bar
from gfmpot.training.state import StateFolder


def train_property(
    model: PropertyModel,
    data: Mapping[SplitName, PropertyData],
    settings: PropertySettings,
    folder: Path,
    *,
    device: torch.device | None = None,
    progress: bool = True,
    ending: Callable[[], bool] = lambda: False,
) -> PropertyModel:
    """Train a copy of ``model``; a run that was killed goes on where its last state was, to the identical result.

    On CPUs the same settings and number of threads give the same bits. The test split is not looked at. ``folder`` gets
    the states, ``log.jsonl`` and ``model.safetensors``.

    Args:
        model: begun with (:meth:`PropertyModel.begun_with`), its scaling fitted to the training split.
        data: ``train``, and ``valid`` to choose weights by and to calibrate classes on.
        settings: of the run.
        folder: of the run; of a complete one, its model is returned.
        device: where to compute; where the model is if not given.
        progress: show a bar, on a terminal.
        ending: asked after each step whether to stop, with a state to go on from.

    Returns:
        The trained model, of a class with calibrated probabilities, with a summary of its training in ``metadata``.

    Raises:
        ValueError: data that do not fit model or settings, or a folder of another run.
        FloatingPointError: the loss is not finite.
        Stopped: ``ending`` has said so.
    """
    return _Training(model, data, settings, folder, device or model.device, ending).fit(progress=progress)


def predict_values(model: PropertyModel, data: PropertyData, **options: Any) -> Floats:
    """(S,) answers for all structures; ``options`` are those of :class:`~gfmpot.inference.PropertyPredictor`."""
    predictor = PropertyPredictor(model, **options)
    cutoff, cap = model.cutoff, model.config.max_neighbours
    graphs = (data.frames.graph(i, cutoff, max_neighbours=cap) for i in range(len(data)))
    return np.fromiter(predictor.many(graphs), dtype=np.float64, count=len(data))


def evaluate_property(model: PropertyModel, data: PropertyData, **options: Any) -> Metrics:
    """Metrics of ``model`` on labelled structures; ``options`` as for :func:`predict_values`."""
    return _score(model, predict_values(model, data, **options), data)


@dataclass
class _Position:
    """How far a run has come."""

    epoch: int = 0
    place: int = 0
    """Structures of the epoch."""

    loss: float = 0.0
    """Summed over them."""

    seconds: float = 0.0
    """Of training, restarts not counted."""


class _Trained:
    """What :class:`Optimizer` needs of what it steps."""

    def __init__(self, model: PropertyModel) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names, self.parameters = [name for name, _ in named], [p for _, p in named]

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient."""
        return torch.stack([p.grad.double().square().sum() for p in self.parameters if p.grad is not None]).sum().sqrt()

    @torch.no_grad()
    def put(self, tensors: Sequence[Tensor]) -> None:
        """Copy into the parameters."""
        for p, tensor in zip(self.parameters, tensors, strict=True):
            p.copy_(tensor)


class _Training:
    """One run."""

    def __init__(
        self,
        model: PropertyModel,
        data: Mapping[SplitName, PropertyData],
        settings: PropertySettings,
        folder: Path,
        device: torch.device,
        ending: Callable[[], bool],
    ) -> None:
        _check(model, data, settings)
        self.settings, self.folder, self._ending = settings, folder, ending
        self.data = {str(split): data[split] for split in _SPLITS if split in data}
        self._identity = _identity(model, self.data, settings)
        self.model = copy.deepcopy(model).to(device, settings.dtype).eval()
        for name, p in self.model.named_parameters():
            p.requires_grad_(not (settings.optim.frozen and is_shared(name)))
        self._trained, self._network = _Trained(self.model), PropertyNetwork(self.model, self.data, settings)
        self._optimizer = Optimizer(self._trained, settings.optim, keep_best=settings.keep_best)
        self._position, self._states = _Position(), StateFolder(folder)
        self._kind = "class" if model.target.is_class else settings.loss
        self._unit = 1.0 if model.target.is_class else _unit(model, data["train"])
        self._resume()

    @property
    def done(self) -> float:
        """Share of the run."""
        return (self._position.epoch + self._position.place / len(self.data["train"])) / self.settings.epochs

    def fit(self, *, progress: bool) -> PropertyModel:
        """Train to the end, and take the weights to answer with."""
        if self._position.epoch < self.settings.epochs:
            sinks = open_sinks(self.settings.sinks, self.folder)
            try:
                with progress_bar(self.model.target.name, shown=progress) as bar:
                    self._loop(sinks, bar)
            finally:
                sinks.close()
        return self._finished()

    def _loop(self, sinks: Sinks, bar: Show) -> None:
        sizes = {split: len(own) for split, own in self.data.items()}
        run = {"run": self._identity, "structures": sizes, "torch": torch.__version__}
        sinks.write({"kind": "start", "step": self._optimizer.step, "epoch": self._position.epoch, **run})
        saved = time.monotonic()
        while self._position.epoch < self.settings.epochs:
            begun = time.perf_counter()
            for parts in self._network.epoch(self._position.epoch, self._position.place):
                self._step(parts)
                now = time.perf_counter()
                self._position.seconds, begun = self._position.seconds + now - begun, now
                bar(self.done, self._note())
                stop = self._ending()
                if stop or time.monotonic() - saved > self.settings.checkpoint_seconds:
                    self._save()
                    saved = time.monotonic()
                if stop:
                    raise Stopped(f"{self.folder}: stopped at {self.done:.0%}")
            self._end_epoch(sinks)
        self._save()

    def _step(self, parts: Sequence[Part]) -> None:
        self._optimizer.zero_grad()
        size, total = sum(len(values) for _, values in parts), 0.0
        for raw, values in self._network.trained(parts):
            loss = losses(raw, values, self._kind, self._unit).sum()
            (loss / size).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if not math.isfinite(total):
            raise FloatingPointError(
                f"step {self._optimizer.step}: the loss is {total}; lower the learning rate "
                f"({self._optimizer.rate(self.done):.2g} now) or optim.clip, or look for values far beyond all others"
            )
        self._optimizer.advance(self.done)
        self._position.place += size
        self._position.loss += total

    def _end_epoch(self, sinks: Sinks) -> None:
        """Log and validate; then the next epoch begins."""
        position = self._position
        where = {"step": self._optimizer.step, "epoch": position.epoch + 1}
        facts = {"learning_rate": self._optimizer.rate(self.done), "seconds": position.seconds}
        sinks.write({"kind": "train", **where, "loss": position.loss / position.place, **facts})
        if "valid" in self.data:
            own = [p.detach().clone() for p in self._trained.parameters]
            self._trained.put(self._optimizer.average)
            loss, metrics = self._validation()
            self._trained.put(own)
            self._optimizer.see(loss)
            sinks.write({"kind": "valid", **where, "loss": loss, "metrics": metrics})
        self._position = _Position(position.epoch + 1, seconds=position.seconds)

    def _validation(self) -> tuple[float, Metrics]:
        """Mean loss and metrics with the weights as they are."""
        raw, valid = self._network.raw("valid"), self.data["valid"]
        if not raw.isfinite().all():
            raise FloatingPointError(f"step {self._optimizer.step}: answers are not finite; lower the learning rate")
        loss = float(losses(raw, torch.from_numpy(valid.values), self._kind, self._unit).mean())
        return loss, _score(self.model, self.model.answers(raw).numpy(), valid)

    def _finished(self) -> PropertyModel:
        """With the best or the average weights, calibrated, written and described."""
        self._trained.put(self._optimizer.best or self._optimizer.average)
        self.model.metadata["training"] = {**self._identity, "steps": self._optimizer.step}
        if "valid" in self.data:
            if self.model.target.is_class:
                self.model.with_temperature(
                    fit_temperature(self._network.raw("valid").numpy(), self.data["valid"].values)
                )
            self.model.metadata["metrics"] = {"split": "valid", "property": self._validation()[1]}
        save(self.model, self.folder / "model.safetensors")
        return self.model.requires_grad_(True)

    def _note(self) -> str:
        position, best = self._position, self._optimizer.best_loss
        rate = (position.epoch * len(self.data["train"]) + position.place) / max(position.seconds, 1e-9)
        valid = f", best valid {best:.3g}" if math.isfinite(best) else ""
        epoch = f"epoch {position.epoch + 1}/{self.settings.epochs}"
        return f"{epoch}, {rate:.3g} structures/s, loss {position.loss / position.place:.3g}{valid}"

    def _save(self) -> None:
        facts = {"run": self._identity, "optimizer": self._optimizer.facts(), "position": vars(self._position)}
        self._states.save(self._optimizer.step, self._stored(), facts)

    def _stored(self) -> dict[str, Tensor]:
        head = {"centre": self.model.head.centre, "width": self.model.head.width}
        parts = {kind: dict(zip(self._trained.names, t, strict=True)) for kind, t in self._optimizer.tensors().items()}
        return {f"{kind}/{name}": t for kind, own in {**parts, "head": head}.items() for name, t in own.items()}

    def _resume(self) -> None:
        state = self._states.latest()
        if state is None:
            self._network.standardise()
            return
        facts = self._states.facts(state)
        changed = changed_settings(facts["run"], self._identity)
        if changed:
            raise ValueError(f"{self.folder} is another run ({'; '.join(changed)}); use another folder")
        self._states.load(state, self._stored())
        self._optimizer.resume(facts["optimizer"])
        self._position = _Position(**facts["position"])


_SPLITS: tuple[SplitName, ...] = ("train", "valid")


def _identity(model: PropertyModel, data: Mapping[str, PropertyData], settings: PropertySettings) -> dict[str, Any]:
    """What makes a run the same run, as plain types."""
    found = {
        "settings": settings.identity(),
        "begun_with": fingerprint(model),
        "data": {split: own.sha256 for split, own in data.items()},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _unit(model: PropertyModel, train: PropertyData) -> float:
    """The mean error of what composition alone says of the training data, in the target's unit."""
    table = model.elements.references[1:].cpu().numpy()
    errors = train.values - train.frames.composition() @ table - model.scaling.offset
    return float(np.abs(errors).mean()) or 1.0


def _score(model: PropertyModel, answers: Floats, data: PropertyData) -> Metrics:
    return (classification if model.target.is_class else regression)(answers, data.values)


def _check(model: PropertyModel, data: Mapping[SplitName, PropertyData], settings: PropertySettings) -> None:
    if "train" not in data or (settings.keep_best and "valid" not in data):
        needed = "train and valid" if settings.keep_best else "train"
        raise ValueError(
            f"expected the splits {needed}, got {', '.join(data) or 'none'}; without valid, keep_best must be false"
        )
    for split in _SPLITS:
        if split in data:
            data[split].check(model.target)
    present = {chemical_symbols[z] for z in np.unique(data["train"].frames.numbers)}
    if unknown := sorted(present - set(model.scaling.elements)):
        raise ValueError(
            f"the scaling of the model does not know {', '.join(unknown)} of the training data: fit it to them "
            "(Scaling.fitted)"
        )
