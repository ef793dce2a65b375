"""The package ``matbench``: the official folds, and the file of results that its leaderboard takes.

It states versions of 2022 for what it needs, which no current installation has, so that it cannot be a dependency. Only
this module calls it. It is not asked for data: what it needs of them to score predictions, it is given.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfmpot.atomic import atomic
from gfmpot.finetune.property_data import Floats
from gfmpot.finetune.readers.matbench import UNITS

Scores = dict[str, float]


@dataclass(frozen=True)
class Fold:
    """One of the splits of a task."""

    train: tuple[str, ...]
    """Names of the structures that may be learnt from, also to choose between models."""

    test: tuple[str, ...]
    """Names of those that are predicted, in the order of the record."""


@dataclass(frozen=True)
class Official:
    """What Matbench prescribes for a task."""

    name: str
    """E.g. ``matbench_jdft2d``."""

    column: str
    """Of the property in the published file."""

    is_class: bool
    folds: tuple[Fold, ...]
    sha256: str
    """Of the published file."""


@dataclass(frozen=True)
class Answers:
    """What is recorded of a fold."""

    predictions: Floats
    """Of the test structures, in the order of the fold; of classes probabilities."""

    parameters: Mapping[str, Any]
    """How they were made: texts, numbers, booleans."""


def full_name(name: str) -> str:
    """The name of a task on structures, also given without ``matbench_``.

    Raises:
        ValueError: no such task.
    """
    full = name if name.startswith("matbench_") else f"matbench_{name}"
    if full not in UNITS:
        raise ValueError(f"Matbench has no task {name!r} on structures; expected one of {', '.join(UNITS)}")
    return full


def official_task(name: str) -> Official:
    """Folds and published file of a task on structures.

    Raises:
        ValueError: no such task.
        ImportError: ``matbench`` is not installed; says how.
    """
    full = full_name(name)
    with _quietly():
        task = _benchmark(full).tasks_map[full]
        folds = tuple(
            Fold(tuple(task.validation[key].train), tuple(task.validation[key].test)) for key in task.folds_keys
        )
        is_class = task.metadata.task_type == "classification"
        return Official(full, str(task.metadata.target), is_class, folds, str(task.metadata.hash))


def write_record(
    official: Official, values: Mapping[str, Any], answers: Sequence[Answers], about: Mapping[str, Any], path: Path
) -> list[Scores]:
    """Write what ``MatbenchBenchmark.from_file`` reads, and read it again, by which it is validated.

    Args:
        official: the task.
        values: what is true, by name of the structure.
        answers: of all folds, in their order.
        about: metadata of the record: texts, numbers, booleans.
        path: the leaderboard expects ``results.json.gz``; in spite of that name it is plain JSON.

    Returns:
        Of each fold, the scores that ``matbench`` computes. Its ``rocauc`` is that of classes, not of probabilities.

    Raises:
        ValueError: not all folds, or predictions that Matbench does not accept.
    """
    import pandas as pd

    if len(answers) != len(official.folds):
        raise ValueError(f"a record has all {len(official.folds)} folds, got {len(answers)}")
    convert = bool if official.is_class else float
    with _quietly():
        benchmark = _benchmark(official.name)
        task = benchmark.tasks_map[official.name]
        true = {official.column: [convert(value) for value in values.values()]}
        task.df = pd.DataFrame({task.metadata.input_type: None, **true}, index=list(values))
        for number, own in enumerate(answers):
            task.record(number, own.predictions.tolist(), params=dict(own.parameters))
        benchmark.add_metadata(dict(about))
        with atomic(path) as partial:
            benchmark.to_file(str(partial))
            errors = type(benchmark).from_file(str(partial)).validate()
            if errors:
                raise ValueError(f"{path}: not a valid record of Matbench: {errors}")
        return [{key: float(x) for key, x in task.results[fold].scores.items()} for fold in task.folds_keys]


def _benchmark(name: str) -> Any:
    """A ``MatbenchBenchmark`` of one task, without its data."""
    try:
        from matbench.bench import MatbenchBenchmark
    except ImportError as error:
        raise ImportError(
            f"Matbench's folds are in its package, which cannot be imported ({error}): pip install --no-deps matbench "
            '&& pip install "gfmpot[matbench]"'
        ) from error
    logging.getLogger("matbench").setLevel(logging.CRITICAL)  # importing it has turned its messages on
    return MatbenchBenchmark(subset=[name], autoload=False)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the package's messages, which go to standard output, and warnings of its old calls."""
    logger = logging.getLogger("matbench")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(before)
