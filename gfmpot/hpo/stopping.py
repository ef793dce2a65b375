"""Stopping trials early by what others had reached after as many epochs, with DeepHyper's stoppers.

A trial writes its validations into a file; the campaign shows them to the trial's own copy of the stopper, and writes
another file if that wants it to stop. Copies know of each other through DeepHyper's storage, which is filled again from
the files when a campaign goes on.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, Literal

from gfmpot.hpo.records import STOP, read_progress
from gfmpot.hpo.surrogate import deephyper

Rule = Literal["none", "median", "halving"]


def stopper(rule: Rule, epochs: int) -> Any:
    """DeepHyper's stopper: ``median`` or ``halving`` (asynchronous successive halving, Li et al., arXiv:1810.05934).

    Both look at a trial after its first epoch: ``median`` after every epoch, once five others have come as far;
    ``halving`` after epochs 1, 3, 9, ..., where the best third goes on.
    """
    stoppers = deephyper("stopper")
    if rule == "median":
        return stoppers.MedianStopper(max_steps=epochs, min_steps=1, min_competing=5)
    return stoppers.SuccessiveHalvingStopper(max_steps=epochs, min_steps=1, reduction_factor=3)


class Stopping:
    """The stoppers of the trials of a campaign."""

    def __init__(self, rule: Rule, epochs: int) -> None:
        self._pattern = stopper(rule, epochs) if rule != "none" else None
        self._epochs = epochs
        self._jobs: dict[Path, Any] = {}
        self._seen: dict[Path, int] = {}
        if self._pattern is not None:
            self._storage = deephyper("evaluator.storage").MemoryStorage()
            self._storage.connect()
            self._search = self._storage.create_new_search()

    def look(self, folder: Path) -> bool:
        """Show a trial's new validations to its stopper; whether it should stop, which the trial then finds out."""
        if self._pattern is None:
            return False
        job = self._jobs[folder] if folder in self._jobs else self._job(folder)
        new = read_progress(folder)[self._seen[folder] :]
        for validation in new:
            self._seen[folder] += 1
            budget = round(validation.epoch)
            if budget < 1 or budget >= self._epochs or validation.loss is None or (folder / STOP).exists():
                continue
            job.record(budget, -validation.loss if math.isfinite(validation.loss) else "F")
            if job.stopped():
                (folder / STOP).touch()
        return (folder / STOP).exists()

    def _job(self, folder: Path) -> Any:
        own: Any = copy.deepcopy(self._pattern)
        job = deephyper("evaluator").RunningJob(self._storage.create_new_job(self._search), {}, self._storage, own)
        own.job = job
        self._jobs[folder], self._seen[folder] = job, 0
        return job
