"""How far a run has come, and where it goes on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gfmpot.training.loader import Stream

log = logging.getLogger(__name__)


@dataclass
class Position:
    """How far a run has come."""

    stream: int = 0
    """Structures taken from this rank's stream."""

    structures: int = 0
    """Taken from all streams."""

    seconds: float = 0.0
    """Of training, restarts not counted."""


def stream_position(streams: Sequence[dict[str, Any]], own: Stream) -> int:
    """Where this rank's stream goes on: exactly where it was, if branches are grouped as they were."""
    for stream in streams:
        if stream["branches"] == list(own.branches) and stream["length"] == own.sampler.epoch_length:
            return int(stream["position"])
    mine = [s for s in streams if set(s["branches"]) & set(own.branches)]
    epochs = float(sum(s["position"] for s in mine) / sum(s["length"] for s in mine))
    log.warning("branches are grouped otherwise than before: epoch %.3f goes on in another order", epochs)
    return round(epochs * own.sampler.epoch_length)


def changed_settings(before: dict[str, Any], now: dict[str, Any], where: str = "") -> list[str]:
    """The settings that differ, nested ones with dots, and how."""
    names: list[str] = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            names += changed_settings(old, new, f"{where}{key}.")
        elif old != new:
            names.append(f"{where}{key}: {old} → {new}")
    return names
