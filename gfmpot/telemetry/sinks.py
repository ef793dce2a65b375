"""Where the records of a run go: a JSONL file, and on request TensorBoard, Weights & Biases, Prometheus."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gfmpot.telemetry.records import JsonLines, Record, plain


class Sink(Protocol):
    """Takes records."""

    def write(self, record: Record) -> None:
        """Take one."""

    def close(self) -> None:
        """Write what is left; nothing comes after."""


@dataclass(frozen=True)
class SinkConfig:
    """What is kept of a run besides its JSONL log."""

    tensorboard: bool = False
    wandb: str | None = None
    """Project of Weights & Biases; ``WANDB_MODE=offline`` keeps the run on this machine."""

    prometheus: int | None = None
    """Port of the endpoint; rank r of a node serves at port + r. 0 takes any that is free."""

    def __post_init__(self) -> None:
        if self.prometheus is not None and not 0 <= self.prometheus < 65536:
            raise ValueError(f"prometheus: got port {self.prometheus}, expected 0 to 65535")


class Sinks:
    """Several sinks as one."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = tuple(sinks)

    def write(self, record: Record) -> None:
        """Hand it to all in plain types, with the time added where it lacks one."""
        timed = plain({"time": time.time(), **record})
        for sink in self.sinks:
            sink.write(timed)

    def close(self) -> None:
        """Close all."""
        for sink in self.sinks:
            sink.close()


def open_sinks(config: SinkConfig, folder: Path, *, rank: int = 0, local_rank: int = 0, job: str = "") -> Sinks:
    """The sinks of one rank of a run: rank 0 keeps files in ``folder``, every rank serves its own endpoint.

    Args:
        config: what is wanted.
        folder: of the run; the log is ``log.jsonl`` there.
        rank: among all, a label of the endpoint.
        local_rank: on this node, added to the endpoint's port.
        job: a label of the endpoint; the scheduler's job by default.

    Raises:
        ValueError: a package is not installed; says which extra has it.
        OSError: the folder cannot be written, or the port is taken.
    """
    sinks: list[Sink] = []
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        sinks.append(JsonLines(folder / "log.jsonl"))
        if config.tensorboard:
            from gfmpot.telemetry.boards import TensorBoard

            sinks.append(TensorBoard(folder / "tensorboard"))
        if config.wandb is not None:
            from gfmpot.telemetry.boards import WandB

            sinks.append(WandB(folder, config.wandb))
    if config.prometheus is not None:
        from gfmpot.telemetry.prometheus import Endpoint

        port = config.prometheus + local_rank if config.prometheus else 0
        sinks.append(Endpoint(port, rank=rank, job=job))
    return Sinks(sinks)
