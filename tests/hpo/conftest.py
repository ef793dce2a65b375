"""Data that trials can learn from in seconds, and trials that only pretend to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packed import solids_and_molecules
from pretended import PRETENDED

from gfmpot.hpo.launching import Launcher
from gfmpot.hpo.protocol import Protocol, branches_of, opened
from gfmpot.hpo.space import build_space

SMALL = (
    *("backbone.hidden=16", "backbone.layers=2", "backbone.radial_basis=4", "backbone.cutoff=4"),
    *("head.*", "head.branch_width=16", "head.shared_layers=0", "loss.*", "optim.ema=0.9", "batch.structures=4"),
    *("split.valid=0.2", "split.test=0.2", "validation_structures=6", "reading.threads=1"),
)
"""Settings under which a trial takes seconds."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two packed files."""
    return solids_and_molecules(tmp_path_factory.mktemp("data"), 70)


@pytest.fixture(scope="session")
def protocol(data: list[Path]) -> Protocol:
    """Of small trials: the learning rate, its method and the width of the batch are searched."""
    space = build_space("painn", SMALL, ["optim.weight_decay=1e-6:1e-2:log"])
    branches, sizes = opened(branches_of(data), SPLIT)
    return Protocol(space, branches, sizes, fraction=0.3, epochs=2, device="cpu")


SPLIT = {"valid": 0.2, "test": 0.2}


@pytest.fixture
def pretending(tmp_path: Path) -> Callable[..., Launcher]:
    """A launcher of a program that takes the place of a trial; its lines know ``number``, ``loss()`` and ``write``."""

    def make(body: str, concurrent: int = 1, minutes: float | None = None, grace: float = 5.0) -> Launcher:
        script = tmp_path / "pretended_trial.py"
        script.write_text(PRETENDED.replace("BODY", body))
        return Launcher(f"{sys.executable} -I -S {script}", concurrent=concurrent, minutes=minutes, grace=grace)

    return make
