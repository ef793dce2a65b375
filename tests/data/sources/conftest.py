"""For tests of the sources: real files, where there are any."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

BESIDE = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def reference() -> Callable[[str], Path]:
    """A file of the reference data, in ``$GFMPOT_REFERENCE_DATA`` or beside the repository; skips without it."""
    folder = Path(os.environ.get("GFMPOT_REFERENCE_DATA", BESIDE))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"no reference data {folder / name}; set GFMPOT_REFERENCE_DATA to their folder")
        return folder / name

    return find
