"""Fine-tuning of potentials: one branch of a new level of theory, by the training loop of pretraining."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfmpot import __version__
from gfmpot.config import to_mapping
from gfmpot.data import FrameSet, fit_reference_energies
from gfmpot.data.reference_energies import element_table
from gfmpot.data.sampler import BatchConfig
from gfmpot.finetune.examples import Examples
from gfmpot.finetune.groups import group_means, less_group_means
from gfmpot.finetune.setting import Setting, optim_of
from gfmpot.finetune.stopped import Stopped
from gfmpot.finetune.strategies import begun, closest_relative_energies, reference_energies
from gfmpot.finetune.task import Task
from gfmpot.models import BranchInfo, Potential, PotentialConfig, fingerprint
from gfmpot.models.potential import rebuilt
from gfmpot.ranks.signals import EndOfJob
from gfmpot.training.config import ReadConfig, TrainConfig
from gfmpot.training.corpus import BranchCorpus, BranchData, evenly, graphs_of
from gfmpot.training.error_estimate import with_error_estimate
from gfmpot.training.loss import LossConfig
from gfmpot.training.trainer import Trainer

VALIDATIONS = 25
"""Of a run, of which the best decides on the weights."""

VALIDATED = 1000
"""Structures, at most."""

ESTIMATED = 1000
"""Structures of a side, at most, from which errors are learnt."""

KEPT = 50_000
"""Training structures, at most, whose graphs are kept in memory."""


@dataclass(frozen=True)
class Prepared:
    """What a trainer is given."""

    corpus: BranchCorpus
    potential: Potential
    how: dict[str, Any]
    """How the potential began."""


def train_energies(
    task: Task,
    setting: Setting,
    examples: Examples,
    model: Potential,
    folder: Path,
    device: torch.device,
    end: EndOfJob,
) -> tuple[Potential, dict[str, Any]]:
    """A potential that has learnt the training side, and how it came about; a run that was stopped goes on.

    Raises:
        ValueError: elements that the model has never seen, or a folder of another run.
        Stopped: by a signal.
    """
    prepared = prepare(task, setting, examples, model)
    config = train_config(task, setting, prepared.potential.config, len(prepared.corpus.splits["train"]))
    data = [prepared.corpus]
    with Trainer(config, Path(), folder, None, device, corpora=data, potential=prepared.potential) as trainer:
        if not trainer.fit(end=end):
            raise Stopped(f"{folder}: stopped at {trainer.done:.0%}")
        facts = {
            **prepared.how,
            "valid_loss": trainer.best_loss,
            "hours": trainer.hours,
            "steps": trainer.step,
            "kept_step": trainer.best_step,
            "train": prepared.corpus.info.n_structures,
        }
        meta = {"gfmpot": __version__, "training": {**facts, "settings": to_mapping(config)}}
        return rebuilt(trainer.potential, metadata=meta), facts


def estimating(potential: Potential, examples: Examples, setting: Setting) -> Potential:
    """With an estimate of its errors, learnt on the validation side."""
    sides = [examples.part("train", setting.train_size), examples.part("valid")]
    seen, unseen = ((graphs_of(s, evenly(len(s), ESTIMATED), potential.config, 0)) for s in sides)
    return with_error_estimate(potential, seen, unseen)


def prepare(task: Task, setting: Setting, examples: Examples, model: Potential) -> Prepared:
    """The potential to begin with, and the data of its branch.

    Raises:
        ValueError: elements that the model has never seen.
    """
    if task.relative:
        known = model if setting.strategy == "keep" else None
        examples = dataclasses.replace(examples, frames=_gauged(examples.frames, known))
    train = examples.part("train", setting.train_size)
    info = branch_info(task, train, None if setting.strategy == "scratch" else model)
    config = shape(task, setting, model)
    potential, how = begun(setting.strategy, model, config, info, train, setting.seed)
    splits = {"train": train, "valid": examples.part("valid"), "test": examples.part("test")}
    manifest = {"examples": examples.sha256}
    if setting.strategy != "scratch":
        manifest["model"] = fingerprint(model)
    corpus = BranchCorpus(potential.branches[0], 1.0, splits, dict(examples.left_out), manifest)  # type: ignore[arg-type]
    return Prepared(corpus, potential, how)


def branch_info(task: Task, train: FrameSet, model: Potential | None) -> BranchInfo:
    """The branch of a task; its reference energies and its unit are of the training data, and of what a model knows."""
    e0 = reference_energies(model, train) if model else fit_reference_energies(train.composition(), train.energy)
    return BranchInfo(
        name=task.branch,
        theory=task.theory,
        e0=e0,
        scale=_scale(train, e0),
        licence=task.licence,
        citation=task.citation,
        n_structures=len(train),
        states=train.states(),
        periodic=train.periodic_share(),
    )


def shape(task: Task, setting: Setting, model: Potential) -> PotentialConfig:
    """Of the new potential: the model's, with the task's cutoff and neighbours if nothing else is taken from it."""
    config = dataclasses.replace(model.config, error_hidden=None)
    if setting.strategy != "scratch":
        return config
    backbone = dataclasses.replace(config.backbone, cutoff=task.cutoff or config.backbone.cutoff)
    return dataclasses.replace(config, backbone=backbone, max_neighbours=task.max_neighbours or config.max_neighbours)


def train_config(task: Task, setting: Setting, config: PotentialConfig, train: int) -> TrainConfig:
    """The training run of a task on so many structures."""
    per_epoch = max(1, -(-train // task.batch))
    steps = max(1, round(task.epochs * per_epoch))
    forces, stress = (task.force_weight, task.stress_weight) if task.forces else (0.0, 0.0)
    differences = task.forces and setting.precision != "bf16"
    return TrainConfig(
        model={k: v for k, v in config.to_mapping().items() if k != "error_hidden"},
        branches=(BranchData((), name=task.branch),),
        steps=steps,
        batch=BatchConfig(structures=task.batch),
        loss=LossConfig(energy=task.energy_weight, forces=forces, stress=stress),
        optim=optim_of(task, setting, steps),
        precision=setting.precision,
        gradients="differences" if differences else "exact",
        low_rank=setting.low_rank if setting.strategy == "lora" else None,
        keep="best",
        validation_structures=VALIDATED,
        validate_every=max(10, steps // VALIDATIONS),
        checkpoint_minutes=setting.checkpoint_minutes,
        reading=ReadConfig(kept_graphs=train if train < KEPT else 0, threads=1),
        seed=setting.seed,
    )


def _scale(train: FrameSet, e0: dict[str, float]) -> float:
    """eV: the size of forces, or, where they are not learnt, what composition leaves of energies per atom."""
    forces = train.forces[np.isfinite(train.forces)]
    if len(forces):
        return float(np.sqrt(np.mean(forces**2)))
    rest = (train.energy - train.composition() @ element_table(e0)) / train.atoms_per_structure
    return max(1e-3, float(np.sqrt(np.mean(rest**2))))


def _gauged(frames: FrameSet, model: Potential | None) -> FrameSet:
    """Relative energies with zeros of their groups: a mean of 0, or, with a model, that of its closest branch.

    With the latter, labels say what the branch cannot know: how energies differ within a group.
    """
    codes = np.unique(frames.group, return_inverse=True)[1]
    known = np.zeros(len(frames)) if model is None else closest_relative_energies(model, frames, codes)
    return dataclasses.replace(frames, energy=less_group_means(frames.energy, codes) + group_means(known, codes))
