"""For all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Structures here are small: threads cost more than they give, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def reference() -> Callable[[str], Path]:
    """A file of the reference data, in ``$GFMPOT_REFERENCE_DATA`` or beside the repository; skips without it."""
    folder = Path(os.environ.get("GFMPOT_REFERENCE_DATA", BESIDE))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"no reference data {folder / name}; set GFMPOT_REFERENCE_DATA to their folder")
        return folder / name

    return find
