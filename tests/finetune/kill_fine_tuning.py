"""Fine-tunes in a process of its own that is killed once a state has been written: ``DATA MODEL FOLDER``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from gfmpot.finetune.examples import read_examples
from gfmpot.finetune.reader import build_reader
from gfmpot.finetune.running import run_task
from gfmpot.finetune.setting import Setting
from gfmpot.models import load
from gfmpot.training.trainer import Trainer


def main(data: str, model: str, folder: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from fine_tuning import TASK

    torch.set_num_threads(1)
    train_on = Trainer._train_on

    def fatal(self: Trainer, *arguments: object, **options: object) -> tuple[bool, bool]:
        if self.step == 7:
            self.save_state()
        if self.step == 9:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_on(self, *arguments, **options)  # type: ignore[arg-type]

    Trainer._train_on = fatal  # type: ignore[method-assign,assignment]
    examples = read_examples(TASK, build_reader("structures"), Path(data))
    run_task(TASK, examples, [Setting("unfrozen")], load(model), Path(folder), device=torch.device("cpu"))


if __name__ == "__main__":
    main(*sys.argv[1:])
