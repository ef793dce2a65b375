"""Trains a property in a process of its own that is killed after some steps: ``FOLDER STEPS FROZEN``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from gfmpot.finetune import property_training


def main(folder: str, steps: int, frozen: bool) -> None:
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    from test_property_training import begun, settings, splits

    torch.set_num_threads(1)
    step = property_training._Training._step

    def fatal(self: Any, parts: Any) -> None:
        if self._optimizer.step == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, parts)

    property_training._Training._step = fatal  # type: ignore[method-assign]
    property_training.train_property(begun(), splits(), settings(frozen=frozen, checkpoint_seconds=0.0), Path(folder))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "frozen")
