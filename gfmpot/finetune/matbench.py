"""Matbench's official folds: five models of a task, each measured on structures that its training never looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gfmpot.data import FrameSet
from gfmpot.data.frame import Rejected
from gfmpot.data.split import draw_of_group
from gfmpot.finetune.examples import Examples, Floats, Ints, Sides
from gfmpot.finetune.matbench_package import Answers, Fold, Official
from gfmpot.finetune.properties import property_part, settings_of
from gfmpot.finetune.reader import Example, build_reader
from gfmpot.finetune.readers.matbench import UNITS
from gfmpot.finetune.recipe import load_task, packaged_recipes
from gfmpot.finetune.running import METRICS, PREDICTIONS, Outcome, run_task
from gfmpot.finetune.setting import Setting
from gfmpot.finetune.strategies import known_elements
from gfmpot.finetune.task import Measure, Paper, Strategy, Task
from gfmpot.models import Potential, Target
from gfmpot.models.target import Kind
from gfmpot.ranks.signals import EndOfJob

HELD_BACK = 0.1
"""Share of a fold's training structures by which weights are chosen and classes calibrated."""

KINDS: dict[str, Kind] = {"matbench_mp_is_metal": "class", "matbench_perovskites": "extensive"}
"""All others are intensive."""

DEVIATIONS: dict[str, dict[Strategy, float]] = {
    "matbench_jdft2d": {"scratch": 15.215, "frozen": 15.835, "unfrozen": 14.418},
    "matbench_mp_is_metal": {"scratch": 0.002, "frozen": 0.003, "unfrozen": 0.003},
}
"""Between folds, in the paper (Tables XIII and XIV): of the MAE, or of the ROC AUC. The means are in the recipes."""


@dataclass(frozen=True)
class FoldRun:
    """What became of one fold."""

    fold: int
    outcome: Outcome
    answers: Answers
    validated: int
    """Structures of the training side that weights were chosen by."""

    unknown: int
    """Structures of the training side that were left out, with elements that the pretrained model has never seen."""

    unseen: int
    """Test structures with elements that were not trained on, which count as average ones."""


def matbench_task(official: Official) -> Task:
    """A task of Matbench: that of its recipe, where there is one, with what is reported of folds."""
    name = official.name
    target = Target(official.column, UNITS[name][official.column], KINDS.get(name, "intensive"))
    base = Task(
        name=name,
        title=f"{name}, {official.column}",
        reader="matbench",
        target=target,
        measures=(),
        epochs=10 if name.startswith("matbench_mp_") else 100,  # as the paper has it of mp_is_metal (Table VII)
        citation="Dunn et al., npj Comput. Mater. 6, 138 (2020)",
    )
    if name in packaged_recipes():
        base = load_task(name)
    measures = _measures(target)
    return replace(base, measures=measures, paper=_paper(base, measures, DEVIATIONS.get(name, {})), notes=())


def _measures(target: Target) -> tuple[Measure, ...]:
    """What Matbench ranks by: means over folds, the standard deviation over folds, and the largest error of all."""
    if target.is_class:
        names = (("roc_auc", "ROC AUC"), ("std", "its std"), ("f1", "F1"), ("accuracy", "accuracy"))
    else:
        names = (("mae", "MAE"), ("std", "std of MAE"), ("rmse", "RMSE"), ("max_error", "max error"))
    return tuple(Measure(key, target.unit, title=title) for key, title in names)


def _paper(recipe: Task, measures: Sequence[Measure], deviations: Mapping[Strategy, float]) -> Paper | None:
    """What the paper says, in the order of ``measures``."""
    if recipe.paper is None:
        return None
    keys = [measure.key for measure in recipe.measures]
    known = {
        s: dict(zip(keys, row, strict=True)) | {"std": deviations.get(s)} for s, row in recipe.paper.results.items()
    }
    results = {s: tuple(row.get(measure.key) for measure in measures) for s, row in known.items()}
    return Paper(recipe.paper.table, results)


def read_all(
    task: Task, official: Official, path: Path, watch: Callable[[int, int], None] = lambda done, total: None
) -> Examples:
    """All structures of a task with their values, on no side yet.

    Args:
        task: whose target is read.
        official: whose structures there must be.
        path: the published file, or a folder with it.
        watch: is told how many of how many were read.

    Raises:
        FileNotFoundError: no file; says where it is to be had.
        ValueError: a structure that cannot be read, without a value, or missing.
    """
    file = path / f"{task.name}.json.gz" if path.is_dir() else path
    reader = build_reader(task.reader)
    total = reader.count(file)
    found: list[Example] = []
    for i, one in enumerate(reader.read(file, range(total))):
        found.append(_usable(one, task.target.name, file))
        watch(i + 1, total)
    keys = tuple(example.key for example in found)
    expected = {*official.folds[0].train, *official.folds[0].test}
    if set(keys) != expected:
        raise ValueError(
            f"{file}: expected the {len(expected)} structures of {task.name}.json.gz, {min(expected)} to "
            f"{max(expected)}, got {len(keys)}, {keys[0]} to {keys[-1]}; get the published file, and keep its name"
        )
    values = np.array([example.targets[task.target.name] for example in found])
    return Examples(FrameSet.from_frames([example.frame for example in found], task.name), values, keys, {}, {})


def _usable(one: Example | Rejected, target: str, file: Path) -> Example:
    if isinstance(one, Rejected):
        raise ValueError(f"{one.where} cannot be read: {one.reason}. A record needs all structures")
    if not np.isfinite(one.targets.get(target, np.nan)):
        raise ValueError(f"{file}: {one.key} has no {target!r}; a record needs all values")
    return one


def is_published(official: Official, path: Path) -> bool:
    """Whether a file, or the one in a folder, is the published one, bit for bit."""
    file = path / f"{official.name}.json.gz" if path.is_dir() else path
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == official.sha256


def fold_examples(examples: Examples, fold: Fold, known: NDArray[np.bool_] | None = None) -> Examples:
    """Structures on the sides of a fold.

    Of those to learn from, a tenth, drawn by hashes of their names, validates. Those with an element that no other has
    are trained on, and those with one that a pretrained model has never seen are left out.

    Args:
        examples: all of a task.
        fold: official.
        known: (118,) elements that a pretrained model has seen; all from scratch.
    """
    places = {key: i for i, key in enumerate(examples.keys)}
    learnt, test = (np.array([places[key] for key in keys], dtype=np.int64) for keys in (fold.train, fold.test))
    present = examples.frames.composition() > 0
    usable = learnt if known is None else learnt[~present[learnt][:, ~known].any(axis=1)]
    draws = np.array([draw_of_group(examples.keys[i]) for i in usable])
    order = usable[np.argsort(draws, kind="stable")]
    held = max(1, round(HELD_BACK * len(order)))
    valid, train = order[:held], order[held:]
    rare = _with_others(present, valid, train)
    sides: Sides = {"train": np.concatenate([train, valid[rare]]), "valid": valid[~rare], "test": test}
    left_out = {"elements that the model has never seen": len(learnt) - len(usable)}
    return replace(examples, sides=sides, left_out=left_out)


def _with_others(present: NDArray[np.bool_], chosen: Ints, others: Ints) -> NDArray[np.bool_]:
    """Which of the chosen structures have elements that no other has."""
    return np.asarray((present[chosen] & ~present[others].any(axis=0)).any(axis=1))


def run_folds(
    task: Task,
    official: Official,
    examples: Examples,
    setting: Setting,
    model: Potential,
    folder: Path,
    *,
    wanted: Collection[int],
    device: torch.device,
    end: EndOfJob | None = None,
    told: Callable[[int, Setting], None] = lambda fold, setting: None,
) -> list[FoldRun]:
    """Train and measure a model for each fold; done ones are not repeated, and a killed one goes on.

    Args:
        task: as :func:`matbench_task` makes it.
        official: folds.
        examples: all structures.
        setting: of training.
        model: what is adapted; from scratch, its architecture is taken.
        folder: gets ``fold-0`` to ``fold-4``, with a folder for each setting.
        wanted: folds that are run.
        device: where to compute.
        end: a signal to it stops a training, which then goes on when all is called again.
        told: is called before each training.

    Returns:
        The folds that were wanted, and those that had been done before.

    Raises:
        ValueError: no such fold, or a folder of another run.
    """
    if not set(wanted) <= set(range(len(official.folds))):
        raise ValueError(f"folds are 0 to {len(official.folds) - 1}, got {', '.join(map(str, sorted(wanted)))}")
    known = None if setting.strategy == "scratch" else known_elements(model)
    runs = []
    for number, fold in enumerate(official.folds):
        own = folder / f"fold-{number}"
        if number in wanted or (own / setting.name / METRICS).is_file():
            part = fold_examples(examples, fold, known)
            [outcome] = run_task(task, part, [setting], model, own, device=device, end=end, told=partial(told, number))
            runs.append(_fold_run(task, setting, part, number, outcome))
    return runs


def _fold_run(task: Task, setting: Setting, part: Examples, number: int, outcome: Outcome) -> FoldRun:
    train, valid, test = (property_part(part, side) for side in ("train", "valid", "test"))
    present = part.frames.composition() > 0
    unseen = int(_with_others(present, part.sides["test"], part.sides["train"]).sum())
    answers = Answers(_predictions(outcome, test.keys), _parameters(task, setting, len(train), outcome))
    return FoldRun(number, outcome, answers, len(valid), sum(part.left_out.values()), unseen)


def _predictions(outcome: Outcome, keys: Collection[str]) -> Floats:
    with np.load(outcome.folder / PREDICTIONS) as file:
        if file["keys"].tolist() != list(keys):
            raise ValueError(f"{outcome.folder / PREDICTIONS} is of other structures; remove {outcome.folder}")
        return np.asarray(file["value_predicted"], dtype=np.float64)


def _parameters(task: Task, setting: Setting, train: int, outcome: Outcome) -> Mapping[str, Any]:
    """Of a record, in plain types."""
    settings = settings_of(task, setting, train)
    return {
        "strategy": setting.strategy,
        "begun_with": str(outcome.facts["begun with"]),
        "precision": setting.precision,
        "seed": setting.seed,
        "epochs": settings.epochs,
        "batch": settings.batch_size,
        "learning_rate": settings.optim.learning_rate,
        "backbone_learning_rate": settings.optim.backbone_learning_rate,
        "trained_on": train,
    }
