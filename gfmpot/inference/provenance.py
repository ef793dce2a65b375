"""What a number came from: model, software, hardware."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import ase
import numpy as np
import torch

import gfmpot
from gfmpot.models import Potential
from gfmpot.models.checkpoint import find, fingerprint

SHORT = 12
"""Characters of a hash that are enough to tell versions apart."""


@dataclass(frozen=True)
class Provenance:
    """Everything that a result depends on beside its inputs."""

    model: str
    model_sha256: str
    """Of header and weights, as ``gfmpot info`` shows it."""

    answer: str
    """``blend``, ``head NAME`` or ``weights NAME VALUE, ...``."""

    settings: Mapping[str, Any]
    """The others that results depend on, as JSON has them."""

    gfmpot: str
    code_sha256: str
    """Of gfmpot's files, Python and compiled: a version number does not tell an edited installation."""

    torch: str
    numpy: str
    ase: str
    python: str
    system: str
    cpu: str
    gpu: str
    """Name, or ``none``."""

    device: str
    """Where the model ran."""

    threads: int
    date: str
    """UTC, ISO 8601."""

    @property
    def version(self) -> str:
        """A hash of model, settings and software, for citation: the same inputs on the same hardware repeat with it."""
        settings = json.dumps(self.settings, sort_keys=True)
        parts = (self.model_sha256, self.answer, settings, self.code_sha256, self.torch, self.numpy, self.ase)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:SHORT]

    @property
    def hardware(self) -> str:
        """In words."""
        if torch.device(self.device).type == "cpu":
            return f"{self.cpu}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.gpu} ({self.device})"


def provenance(
    model: str | Path | Potential,
    potential: Potential,
    *,
    head: str | None = None,
    weights: Mapping[str, float] | None = None,
    settings: Mapping[str, Any],
) -> Provenance:
    """Of a model as it was asked for, and of the potential that runs here and now."""
    device = potential.device
    return Provenance(
        model=str(potential.metadata.get("name") or (model if isinstance(model, str | Path) else "in memory")),
        model_sha256=fingerprint(model if isinstance(model, Potential) else find(model)),
        answer=_answer(head, weights),
        settings=settings,
        gfmpot=gfmpot.__version__,
        code_sha256=code_sha256(),
        torch=torch.__version__,
        numpy=np.__version__,
        ase=ase.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_name(),
        gpu=torch.cuda.get_device_name(device if device.type == "cuda" else None)
        if torch.cuda.is_available()
        else "none",
        device=str(device),
        threads=torch.get_num_threads(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def cpu_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@cache
def code_sha256() -> str:
    """Of all Python files and compiled modules of the package, by their names and contents."""
    root = Path(gfmpot.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(_code_files(root)):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _code_files(root: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(root, followlinks=True):  # in a checkout calculators and recipes are links
        yield from (Path(folder, name) for name in names if name.endswith((".py", ".so")))


def _answer(head: str | None, weights: Mapping[str, float] | None) -> str:
    if weights is not None:
        return "weights " + ", ".join(f"{name} {weight:g}" for name, weight in sorted(weights.items()))
    return "blend" if head is None else f"head {head}"
