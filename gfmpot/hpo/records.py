"""What passes between a campaign and its trials, as files of JSON: specification, progress, result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from gfmpot.atomic import atomic
from gfmpot.config import from_mapping, to_mapping

T = TypeVar("T")

Status = Literal["completed", "stopped", "timeout", "out_of_memory", "failed"]
"""``completed`` all epochs; ``stopped`` early by the stopper; the others are failures."""

SPEC, RESULT, PROGRESS, STOP, END, OUTPUT = (
    *("spec.json", "result.json", "progress.jsonl"),
    *("stop", "end", "output.log"),
)
"""Files of a trial. The last but two are made for the trial to see that the stopper wants it to stop, and for its
supervisor to see that the campaign wants it to end."""


@dataclass(frozen=True)
class TrialSpec:
    """All that a trial needs to know."""

    trial: int
    values: Mapping[str, Any]
    """What the search chose, by name."""

    run: Mapping[str, Any]
    """The training run that it makes, as in YAML."""

    fraction: float = 0.1
    """Of each training split; which structures depends on ``seed`` alone."""

    seed: int = 0
    weights: tuple[float, ...] = (4.0, 1.0, 50.0)
    """Of the errors of energies (eV/atom), forces (eV/Å) and stresses (eV/Å³) in the validation loss. They are the same
    for all trials, whatever the weights that a trial trains with."""

    minutes: float | None = None
    """Of training, after which it has failed."""

    device: str | None = None
    submitted: float = 0.0
    """s of searching before."""


@dataclass(frozen=True)
class TrialResult:
    """What became of a trial."""

    trial: int
    status: Status
    reason: str = ""
    """Of anything but ``completed``."""

    validation_loss: float | None = None
    """Of the last validation."""

    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By branch, as in :func:`gfmpot.training.metrics.evaluate`."""

    epochs: float = 0.0
    """Completed."""

    seconds_per_epoch: float | None = None
    """Of training; validations not counted."""

    structures_per_second: float | None = None
    peak_memory_gib: float | None = None
    """Of the rank that needed most."""

    peak_gpu_memory_gib: float | None = None
    parameters: int | None = None
    joules: float | None = None
    """Of processors and GPUs, if their counters can be read: of the whole node, trials beside this one included."""

    core_seconds: float | None = None
    """Processor time of all ranks; of a trial that was killed, extrapolated from what came after."""

    ranks: int = 1
    device: str = ""
    gathered: float | None = None
    """s of searching until the campaign took note."""

    @property
    def has_failed(self) -> bool:
        """Whether there is no loss that could be compared with others."""
        return self.status not in ("completed", "stopped")

    @property
    def objective(self) -> float | str:
        """As DeepHyper wants it: larger is better, and a text that begins with F is a failure."""
        return f"F_{self.status}" if self.has_failed or self.validation_loss is None else -self.validation_loss


def write_json(path: Path, value: Any) -> None:
    """A file that is there whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def write_record(path: Path, record: TrialSpec | TrialResult) -> None:
    """A specification or a result; numbers that are not finite are unknown."""
    write_json(path, {key: _finite(value) for key, value in to_mapping(record).items()})


def read_record(cls: type[T], path: Path) -> T:
    """The inverse of :func:`write_record`.

    Raises:
        ValueError: the file is damaged, or of another version.
    """
    try:
        return from_mapping(cls, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove it to have the trial repeated") from error


@dataclass(frozen=True)
class Validation:
    """One line of ``progress.jsonl``."""

    epoch: float
    loss: float | None
    seconds: float
    errors: Mapping[str, Mapping[str, float]]


def add_progress(folder: Path, validation: Validation) -> None:
    """Append a validation."""
    line = {key: _finite(value) for key, value in to_mapping(validation).items()}
    with (folder / PROGRESS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def read_progress(folder: Path) -> list[Validation]:
    """The validations of a trial by epoch; of those that were repeated after a restart, the later ones."""
    path = folder / PROGRESS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found: dict[float, Validation] = {}
    for line in lines:
        try:
            record = from_mapping(Validation, json.loads(line))
        except ValueError:  # torn by a kill
            continue
        found[record.epoch] = record
    return [found[epoch] for epoch in sorted(found)]


def last_known(spec: TrialSpec, folder: Path, status: Status, reason: str) -> TrialResult:
    """What a trial's file of validations says, under a status."""
    done = read_progress(folder)
    if not done:
        return TrialResult(spec.trial, status, reason)
    last = done[-1]
    per_epoch = last.seconds / last.epoch if last.epoch else None
    return TrialResult(spec.trial, status, reason, last.loss, last.errors, last.epoch, per_epoch)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
