"""Run by any number of ranks: train as a JSON on the command line says, and stop after some steps if it says so."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from gfmpot.config import from_mapping
from gfmpot.ranks.launch import session
from gfmpot.ranks.signals import EndOfJob
from gfmpot.training.config import TrainConfig
from gfmpot.training.trainer import Trainer


class StopAfter(EndOfJob):
    """The scheduler's signal, after some steps, on the last rank only: the others must hear of it."""

    def __init__(self, steps: int | None, last: bool) -> None:
        super().__init__()
        self.left, self.last = steps, last

    @property
    def requested(self) -> bool:
        """Counts the steps."""
        if self.left is None or not self.last:
            return False
        self.left -= 1
        return self.left <= 0


def main() -> None:
    """Train."""
    torch.set_num_threads(1)
    job = json.loads(sys.argv[1])
    with session("cpu") as (launch, device):
        config = from_mapping(TrainConfig, job["config"])
        trainer = Trainer(config, Path(job["data"]), Path(job["folder"]), launch, device)
        begun = trainer.step
        complete = trainer.fit(end=StopAfter(job.get("stop"), launch.rank == launch.world - 1))
        if launch.is_main:
            print(json.dumps({"begun": begun, "step": trainer.step, "complete": complete, "epoch": trainer.epoch}))


if __name__ == "__main__":
    main()
