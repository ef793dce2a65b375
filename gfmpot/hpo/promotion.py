"""The best configurations of campaigns, trained on all data for the same time each and ranked (paper, VII-B)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from gfmpot.config import from_mapping, to_mapping
from gfmpot.hpo.folder import CampaignFolder
from gfmpot.hpo.protocol import Protocol
from gfmpot.hpo.records import read_record, write_json
from gfmpot.hpo.training import weighted_loss
from gfmpot.ranks.launch import Launch, any_rank
from gfmpot.ranks.signals import Deadline, EndOfJob
from gfmpot.training.config import TrainConfig
from gfmpot.training.trainer import Trainer

log = logging.getLogger(__name__)

BASELINE = "default"
PROMOTED = "promoted.json"


@dataclass(frozen=True)
class Candidate:
    """A configuration to be trained."""

    name: str
    """``<campaign>-<trial>``, or ``<campaign>-default``; its folder is called so, too."""

    run: Mapping[str, Any]
    """The training run, as in YAML."""

    weights: tuple[float, ...]
    searched_loss: float | None = None
    """The validation loss of the trial."""

    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranked:
    """What became of a candidate."""

    name: str
    validation_loss: float | None
    epochs: float
    """Completed."""

    hours: float
    """Of training."""

    complete: bool
    """All its epochs, or all its time."""

    searched_loss: float | None
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    reason: str = ""
    """Why there is no loss."""

    budget: float = 0.0
    """Hours that it had."""


def candidates(
    campaigns: Sequence[Path],
    top: int,
    epochs: int,
    adapt: Callable[[Protocol], Protocol] = lambda protocol: protocol,
    *,
    baseline: bool = False,
    ranks: int = 1,
) -> list[Candidate]:
    """The configurations of the lowest validation losses of each campaign.

    Args:
        campaigns: their folders.
        top: how many of each.
        epochs: length of the runs; a schedule of the learning rate ends there.
        adapt: puts other data or settings into the protocol of a campaign.
        baseline: whether the defaults of what was searched are trained beside them.
        ranks: that train.

    Raises:
        ValueError: no campaign, or one without a successful trial.
    """
    found: list[Candidate] = []
    for path in campaigns:
        folder = CampaignFolder(path)
        protocol = replace(adapt(folder.protocol()), fraction=1.0, epochs=epochs)
        done = [t for t in folder.trials() if t.result is not None and t.result.validation_loss is not None]
        good = sorted(
            ((t.result.validation_loss, t.spec) for t in done if t.result is not None and not t.result.has_failed),
            key=lambda pair: pair[0] or 0.0,
        )
        if not good:
            raise ValueError(f"{path}: no trial has come to a validation loss, so there is nothing to promote")
        name = path.resolve().name
        settings = [(f"{name}-{spec.trial:04d}", spec.values, loss) for loss, spec in good[:top]]
        settings += [(f"{name}-{BASELINE}", protocol.space.defaults, None)] if baseline else []
        for each, values, loss in settings:
            chosen = {key: value for key, value in values.items() if key not in protocol.space.fixed}
            found.append(Candidate(each, protocol.run(chosen, ranks), protocol.weights, loss, chosen))
    names = [candidate.name for candidate in found]
    if len(set(names)) < len(names):
        raise ValueError(f"campaigns must have folders of different names, got {', '.join(map(str, campaigns))}")
    if len({candidate.weights for candidate in found}) > 1:
        raise ValueError("campaigns with different weights in their validation losses cannot be ranked together")
    return found


def promote(
    chosen: Sequence[Candidate],
    hours: float,
    folder: Path,
    launch: Launch,
    device: torch.device,
    watch: Callable[[str], None] = lambda name: None,
) -> list[Ranked] | None:
    """Train candidates one after the other, each for up to ``hours`` of training in all, and rank them.

    All ranks of a job call it. A signal stops it; the same call goes on. ``ranking.json`` and ``winner.yaml`` are
    written when all are done.

    Args:
        chosen: what to train.
        hours: of each; restarts do not count anew.
        folder: for the runs, the ranking and the winner.
        launch: this rank's place.
        device: where to compute.
        watch: called with the name of each candidate before it is trained.

    Returns:
        From the best on; None if a signal has stopped it.
    """
    ranked: list[Ranked] = []
    with EndOfJob() as end:
        for candidate in chosen:
            watch(candidate.name)
            one = _train(candidate, hours, folder / candidate.name, launch, device, end)
            if not one.complete:
                return None
            ranked.append(one)
    order = sorted(ranked, key=_rank)
    if launch.is_main:
        write_json(folder / "ranking.json", [to_mapping(each) for each in order])
        best = next(candidate for candidate in chosen if candidate.name == order[0].name)
        (folder / "winner.yaml").write_text(_yaml(best, order[0]), encoding="utf-8")
    return order


def _train(
    candidate: Candidate, hours: float, folder: Path, launch: Launch, device: torch.device, end: EndOfJob
) -> Ranked:
    config = from_mapping(TrainConfig, candidate.run, where=candidate.name)
    with Trainer(config, Path(), folder, launch, device) as trainer:
        file = folder / PROMOTED
        before = _of_first_rank(read_record(Ranked, file) if launch.is_main and file.is_file() else None)
        if before is not None and (before.budget >= hours or trainer.done >= 1.0):
            return before
        reason = _fit(trainer, hours, end)
        complete = trainer.done >= 1.0 or bool(reason) or not any_rank(end.requested, device)
        metrics = trainer.validate() if complete else {}
        loss = weighted_loss(metrics, candidate.weights)
        known = loss if math.isfinite(loss) and not reason else None
        progress = (trainer.epoch, trainer.hours, complete, candidate.searched_loss)
        ranked = Ranked(candidate.name, known, *progress, metrics, reason, hours)
        if complete and launch.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(file, to_mapping(ranked))
        return ranked


def _of_first_rank(value: Ranked | None) -> Ranked | None:
    """Ranks must not differ in what they have seen on a file system that is late; collective."""
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def _fit(trainer: Trainer, hours: float, end: EndOfJob) -> str:
    """Train for what is left of the hours; why that is impossible, if it is."""
    left = hours - trainer.hours
    if trainer.done >= 1.0 or left <= 0:
        return ""
    try:
        trainer.fit(deadline=Deadline(left), end=end)
    except FloatingPointError as error:  # on all ranks: the norm of the gradient is agreed upon
        return str(error)
    return ""


def _rank(one: Ranked) -> tuple[float, float]:
    """The lowest validation loss first; of equal ones, that which has come further."""
    return float("inf") if one.validation_loss is None else one.validation_loss, -one.epochs


def _yaml(candidate: Candidate, ranked: Ranked) -> str:
    loss = (
        "no finite validation loss"
        if ranked.validation_loss is None
        else f"validation loss {ranked.validation_loss:.5g}"
    )
    head = (
        f"# {ranked.name}: {loss} after {ranked.epochs:.2f} epochs, "
        f"{ranked.hours:.2f} h of training.\n# `gfmpot pretrain --config winner.yaml --folder {ranked.name}` goes on "
        "with that run; with another folder, it begins anew.\n"
    )
    return head + yaml.safe_dump(_changed(candidate.run), sort_keys=False, allow_unicode=True)


def _changed(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run without what is the default anyway."""
    usual = to_mapping(TrainConfig(model={}, branches=(), epochs=1.0))
    branch = {key: value for key, value in run.items() if key not in usual or value != usual[key]}
    return {key: _pruned(value, usual.get(key)) for key, value in branch.items()}


def _pruned(value: Any, usual: Any) -> Any:
    if not isinstance(value, Mapping) or not isinstance(usual, Mapping) or not usual:
        return value
    return {key: _pruned(item, usual.get(key)) for key, item in value.items() if usual.get(key) != item}
