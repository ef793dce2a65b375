"""Records to TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gfmpot.telemetry.records import Record, scalars

_PLACE = ("time", "step")
"""Where on the axes a record belongs: no values of their own."""


class TensorBoard:
    """Every number of a record as a scalar named ``<kind>/<path>``, in files for ``tensorboard --logdir FOLDER``."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError('TensorBoard is not installed: pip install "gfmpot[tensorboard]"') from error
        self._writer: Any = SummaryWriter(str(folder))
        self._step = 0

    def write(self, record: Record) -> None:
        """Add its numbers at its step, or at that of the record before."""
        self._step = record.get("step", self._step)
        for path, value in scalars(_values(record)):
            self._writer.add_scalar(f"{record.get('kind', 'run')}/{path}", value, self._step, record.get("time"))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandB:
    """Every number of a record under ``<kind>/<path>`` in a run of Weights & Biases.

    A folder is one run, also after a restart. The step is logged as a number and made the horizontal axis, because
    Weights & Biases drops what comes at an earlier step of its own, as after a restart.
    """

    def __init__(self, folder: Path, project: str) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ValueError('Weights & Biases is not installed: pip install "gfmpot[wandb]"') from error
        name = folder.resolve().name
        self._run: Any = wandb.init(project=project, dir=str(folder), id=_run_id(folder), name=name, resume="allow")
        self._run.define_metric("*", step_metric="step")
        self._step = 0

    def write(self, record: Record) -> None:
        """Log its numbers; the configuration of a start is the run's."""
        self._step = record.get("step", self._step)
        if isinstance(record.get("config"), Mapping):
            self._run.config.update(dict(record["config"]), allow_val_change=True)
        kind = record.get("kind", "run")
        values = {f"{kind}/{path}": value for path, value in scalars(_values(record))}
        if values:
            self._run.log({"step": self._step, **values})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _values(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in _PLACE and key != "config"}


def _run_id(folder: Path) -> str:
    """Of this folder, made at its first run."""
    file = folder / "wandb-id.txt"
    if not file.is_file():
        import uuid

        file.write_text(uuid.uuid4().hex[:12] + "\n")
    return file.read_text().strip()
