"""Fine-tuning of models of properties that are not energies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfmpot.data.split import SplitName
from gfmpot.finetune.examples import Examples
from gfmpot.finetune.property_data import PropertyData
from gfmpot.finetune.property_settings import PropertySettings
from gfmpot.finetune.property_training import train_property
from gfmpot.finetune.setting import Setting, optim_of
from gfmpot.finetune.strategies import require_known
from gfmpot.finetune.task import Task
from gfmpot.models import Potential, PropertyConfig, PropertyModel
from gfmpot.models.property_config import Scaling
from gfmpot.ranks.signals import EndOfJob
from gfmpot.telemetry import read_records


def property_part(examples: Examples, side: SplitName, most: int | None = None) -> PropertyData:
    """The structures and values of a side; at most so many."""
    chosen = examples.sides[side][:most]
    return PropertyData(examples.frames.subset(chosen), examples.values[chosen], [examples.keys[i] for i in chosen])


def train_properties(
    task: Task,
    setting: Setting,
    examples: Examples,
    model: Potential,
    folder: Path,
    device: torch.device,
    end: EndOfJob,
) -> tuple[PropertyModel, dict[str, Any]]:
    """A model that has learnt the training side, and how it came about; a run that was stopped goes on.

    Raises:
        ValueError: elements that the model has never seen, a strategy for energies, or a folder of another run.
        Stopped: by a signal.
    """
    if setting.strategy not in ("scratch", "frozen", "unfrozen"):
        raise ValueError(
            f"strategy {setting.strategy} is for energies, which {task.target.name} is not; use scratch, frozen or "
            "unfrozen"
        )
    scratch = setting.strategy == "scratch"
    train = property_part(examples, "train", setting.train_size)
    if not scratch:
        require_known(model, train.frames)
    scaling = Scaling.fitted(task.target, train.frames.composition(), train.values)
    begun = PropertyModel.begun_with(
        None if scratch else model, PropertyConfig.of(model), task.target, scaling, seed=setting.seed
    )
    data: dict[SplitName, PropertyData] = {"train": train, "valid": property_part(examples, "valid")}
    settings = settings_of(task, setting, len(train))
    trained = train_property(begun, data, settings, folder, device=device, ending=lambda: end.requested)
    name = "random weights" if scratch else model.metadata.get("name", "a model")
    records = read_records(folder / "log.jsonl")[0]
    seconds = [record["seconds"] for record in records if record.get("kind") == "train"][-1]
    best = min(record["loss"] for record in records if record.get("kind") == "valid")
    return trained, {"begun with": name, "valid_loss": best, "hours": seconds / 3600, "train": len(train)}


def settings_of(task: Task, setting: Setting, train: int) -> PropertySettings:
    """The training run of a task on so many structures."""
    steps = max(1, int(np.ceil(train / task.batch))) * max(1, round(task.epochs))
    return PropertySettings(
        epochs=max(1, round(task.epochs)),
        batch_size=task.batch,
        optim=optim_of(task, setting, steps),
        precision=setting.precision,
        seed=setting.seed,
        checkpoint_seconds=60 * setting.checkpoint_minutes,
    )
