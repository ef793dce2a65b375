"""Runs of a task: each trains a model in a folder of its own, and measures it on the test side."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfmpot.atomic import atomic
from gfmpot.config import to_mapping
from gfmpot.data import FrameSet
from gfmpot.data.split import SplitName
from gfmpot.finetune.energies import estimating, train_energies
from gfmpot.finetune.examples import Examples
from gfmpot.finetune.groups import less_group_means
from gfmpot.finetune.measures import energy_measures
from gfmpot.finetune.metrics import Metrics, classification, regression
from gfmpot.finetune.properties import property_part, train_properties
from gfmpot.finetune.property_training import predict_values
from gfmpot.finetune.setting import Setting
from gfmpot.finetune.task import Task
from gfmpot.inference import Predictor
from gfmpot.inference.comparison import Comparison, compare, element_energies
from gfmpot.models import Potential, PropertyModel, fingerprint, save
from gfmpot.ranks.signals import EndOfJob
from gfmpot.training.position import changed_settings

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

SIDES: tuple[SplitName, ...] = ("train", "valid", "test")

MODEL, METRICS, PREDICTIONS = "model.safetensors", "metrics.json", "predictions.npz"
"""Files of a run."""


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    setting: Setting
    folder: Path
    metrics: Metrics
    """On the test side."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    """How the model began, hours of training, structures."""


def run_task(
    task: Task,
    examples: Examples,
    settings: Sequence[Setting],
    model: Potential,
    folder: Path,
    *,
    device: torch.device,
    end: EndOfJob | None = None,
    told: Callable[[Setting], None] = lambda setting: None,
) -> list[Outcome]:
    """Train and measure a model for each setting; those that are done already are not repeated.

    Args:
        task: what is learnt.
        examples: of which data.
        settings: how.
        model: what is adapted; from scratch, its architecture is taken.
        folder: gets a folder for each setting.
        device: where to compute.
        end: a signal to it stops a training, which then goes on when all is called again.
        told: is called before each training.

    Raises:
        ValueError: a folder of another run.
        gfmpot.finetune.stopped.Stopped: by a signal.
    """
    for setting in settings:
        _check_size(task, examples, setting.train_size)
    outcomes, shared = [], {"task": to_mapping(task), "data": examples.sha256, "model": fingerprint(model)}
    for setting in settings:
        own = folder / setting.name
        identity = json.loads(json.dumps({**shared, "setting": to_mapping(setting)}, default=str))
        found = _finished(own, identity, setting)
        if found is None:
            told(setting)
            found = _run(task, setting, examples, model, own, device, end or EndOfJob())
            facts = {"identity": identity, "metrics": found.metrics, "facts": found.facts}
            with atomic(own / METRICS) as partial:
                partial.write_text(json.dumps(facts, indent=1))
        outcomes.append(found)
    return outcomes


def _check_size(task: Task, examples: Examples, size: int | None) -> None:
    """Refuse a part of the training side that there is not, or that lacks elements of the others."""
    most = len(examples.sides["train"])
    if (size or 0) > most:
        raise ValueError(f"cannot train on {size} structures: the training side has {most}")
    if task.target.kind != "energy":
        return  # a model of a property guesses
    trained, *others = (set(examples.part(side, size if side == "train" else None).numbers.tolist()) for side in SIDES)
    lacking = sorted(chemical_symbols[z] for z in set.union(*others) - trained)
    if lacking:
        raise ValueError(
            f"{size or most} training structures lack {', '.join(lacking)}, which those to validate or test have; "
            "train on more"
        )


def _run(
    task: Task,
    setting: Setting,
    examples: Examples,
    model: Potential,
    folder: Path,
    device: torch.device,
    end: EndOfJob,
) -> Outcome:
    trained: Potential | PropertyModel
    if task.target.kind == "energy":
        potential, facts = train_energies(task, setting, examples, model, folder, device, end)
        metrics, pairs = judge_potential(task, potential, examples, setting, device)
        trained = estimating(potential, examples, setting)
    else:
        trained, facts = train_properties(task, setting, examples, model, folder, device, end)
        metrics, pairs = judge_property(trained, examples, setting, device)
    about = {"name": f"{task.name}-{setting.strategy}", "description": f"{task.title}, by `gfmpot finetune`."}
    trained.metadata = {**trained.metadata, **about, "metrics": {"split": "test", task.name: metrics}}
    save(trained, folder / MODEL)
    keys = np.array(examples.keys)[examples.sides["test"]]
    np.savez(folder / PREDICTIONS, keys=keys, **pairs)  # type: ignore[arg-type]
    return Outcome(setting, folder, metrics, facts)


def judge_potential(
    task: Task, potential: Potential, examples: Examples, setting: Setting, device: torch.device
) -> tuple[Metrics, dict[str, Floats]]:
    """Errors on the test side, and predictions beside labels."""
    predictor = Predictor(potential, head=task.branch, precision=setting.precision, device=device)
    test = examples.part("test")
    outcome = compare(predictor, test, np.arange(len(test)))
    if outcome.comparison is None or len(outcome.comparison) < len(test):
        first = next(iter(outcome.failures.items()), "")
        raise ValueError(f"{task.name}: {len(test)} test structures, of which not all could be evaluated; {first}")
    found = outcome.comparison
    codes = np.unique(test.group, return_inverse=True)[1] if task.relative else None
    return energy_measures(found, codes), _pairs(task, _on_plain_zero(task, found, examples.part("train"), codes))


def judge_property(
    model: PropertyModel, examples: Examples, setting: Setting, device: torch.device
) -> tuple[Metrics, dict[str, Floats]]:
    """Errors on the test side, and predictions beside values; elements that only it has count as average ones."""
    data = property_part(examples, "test")
    predicted = predict_values(model, data, precision=setting.precision, device=device, allow_unsupported=True)
    measure = classification if model.target.is_class else regression
    return measure(predicted, data.values), {"value_reference": data.values, "value_predicted": predicted}


def _on_plain_zero(task: Task, found: Comparison, train: FrameSet, codes: NDArray[np.int64] | None) -> Comparison:
    """With energies as figures have them, since total ones hide the errors.

    Relative energies are less the mean of their group, labels and predictions each; energies given per atom stay; all
    others are less one energy per element, fitted to the training side.
    """
    label, predicted = found.energy, found.energy_predicted
    if codes is not None:
        label, predicted = less_group_means(label, codes), less_group_means(predicted, codes)
    elif task.target.unit != "eV/atom":
        known = found.composition @ element_energies(train.composition(), train.energy)
        label, predicted = label - known, predicted - known
    return replace(found, energy=label, energy_predicted=predicted)


def _pairs(task: Task, found: Comparison) -> dict[str, Floats]:
    """Predictions beside labels, as files of parity plots have them: eV/atom, or eV if energies are relative; eV/Å."""
    per = np.ones(len(found)) if task.relative else found.atoms
    return {
        "energy_reference": found.energy / per,
        "energy_predicted": found.energy_predicted / per,
        "forces_reference": found.forces,
        "forces_predicted": found.forces_predicted,
    }


def _finished(folder: Path, identity: dict[str, Any], setting: Setting) -> Outcome | None:
    """A run that was done before."""
    file = folder / METRICS
    if not file.is_file():
        return None
    written = json.loads(file.read_text())
    if changed := changed_settings(written["identity"], identity):
        raise ValueError(
            f"{folder} is a run with other data, settings or another model ({'; '.join(changed)}); use another --folder"
        )
    return Outcome(setting, folder, written["metrics"], written["facts"])
