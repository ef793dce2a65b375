"""Training as trials do it: on a fixed part of the data, telling what each validation says, and ending on request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gfmpot.data.dataset import Dataset
from gfmpot.data.frames import FrameSet
from gfmpot.ranks.launch import Launch
from gfmpot.ranks.signals import EndOfJob
from gfmpot.training.config import TrainConfig
from gfmpot.training.metrics import Metrics
from gfmpot.training.trainer import Trainer

Ints = NDArray[np.int64]
Watch = Callable[["PartTrainer", dict[str, Metrics]], None]


class Part:
    """Some structures of a dataset, as a dataset."""

    def __init__(self, dataset: Dataset, chosen: Ints) -> None:
        self._dataset, self._chosen = dataset, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def atoms_per_structure(self) -> Ints:
        """(S,)."""
        return self._dataset.atoms_per_structure[self._chosen]

    def subset(self, indices: Sequence[int] | Ints) -> FrameSet:
        """The structures at ``indices``, in that order."""
        return self._dataset.subset(self._chosen[np.asarray(indices, dtype=np.int64)])


def part_size(size: int, fraction: float) -> int:
    """How many of ``size`` structures a fraction is; at least one."""
    return max(1, round(fraction * size))


def chosen(size: int, fraction: float, seed: int) -> Ints:
    """The structures of a fraction, in their order in the dataset: the same for all trials with the seed.

    ``sampling: {fraction: ...}`` of a run is another thing: it shortens epochs, but each of them has other structures.
    """
    return np.sort(np.random.default_rng((seed, size)).permutation(size)[: part_size(size, fraction)])


class PartTrainer(Trainer):
    """A trainer on a fixed part of each training split; validation is on the validation splits as usual.

    Args:
        config: the run.
        data: folder that the files of branches are relative to.
        folder: of the run; one that was stopped goes on.
        fraction: of each training split.
        seed: which structures these are.
        watch: called after each validation, on all ranks.
        launch: this rank's place.
        device: where to compute.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Path,
        folder: Path,
        fraction: float,
        seed: int,
        watch: Watch | None = None,
        launch: Launch | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._fraction, self._seed, self._watch = fraction, seed, watch
        super().__init__(config, data, folder, launch, device)

    def _held(self, dataset: Dataset) -> Dataset:
        return super()._held(Part(dataset, chosen(len(dataset), self._fraction, self._seed)))

    def validate(self) -> dict[str, Metrics]:
        """Errors of the averaged weights, of which ``watch`` is told."""
        metrics = super().validate()
        if self._watch is not None:
            self._watch(self, metrics)
        return metrics

    @property
    def structures(self) -> float:
        """Trained on so far."""
        return self.epoch * float(self._draws.sum())


class Ending(EndOfJob):
    """The end of a job, and of a run by a file: when one of that name appears.

    The file is looked for at most once a second; which ranks see it first does not matter, since they stop together.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file, self._looked = file, -math.inf
        self.stopped = False

    @property
    def requested(self) -> bool:
        """Whether a signal has come, or the file."""
        if not self.stopped and time.monotonic() - self._looked > 1.0:
            self.stopped, self._looked = self._file.exists(), time.monotonic()
        return self.stopped or super().requested

    @property
    def signalled(self) -> bool:
        """Whether a signal has come."""
        return super().requested

    @property
    def signal(self) -> str | None:
        """What is said of it in the log."""
        return super().signal or ("the campaign" if self.stopped else None)


def weighted_loss(metrics: Mapping[str, Mapping[str, float]], weights: Sequence[float]) -> float:
    """The mean over branches of weighted errors; NaN if a branch has no finite error of its energy.

    Errors that are not finite are left out of metrics, where a loss would count them as zero.
    """
    names = ("energy_mae", "forces_mae", "stress_mae")
    losses = [
        sum(weight * m.get(name, 0.0) for name, weight in zip(names, weights, strict=True)) for m in metrics.values()
    ]
    known = bool(losses) and all("energy_mae" in m for m in metrics.values())
    return sum(losses) / len(losses) if known else math.nan
