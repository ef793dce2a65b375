"""The distributed store on 2 and 4 real ranks."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_frames import frames, same

from gfmpot.data.formats.distributed import shard_bounds
from gfmpot.data.formats.rank_memory import load_mpi
from gfmpot.data.formats.ranks import available_memory
from gfmpot.data.formats.records import WORDS, decode, encode, pack, record_offsets, unpack

HERE = Path(__file__).parent
CHECKS = [
    line.removeprefix("def check_").partition("(")[0]
    for line in (HERE / "store_checks.py").read_text().splitlines()
    if line.startswith("def check_")
]
NEEDS_MPI = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")


@pytest.fixture(scope="module", params=[2, 4])
def outcomes(request: pytest.FixtureRequest, mpiexec: Any) -> dict[str, list[str]]:
    """What each check, run by so many ranks, found wrong."""
    done = mpiexec(request.param, "store_checks.py")
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.parametrize("check", CHECKS)
def test_on_ranks(outcomes: dict[str, list[str]], check: str) -> None:
    assert not outcomes[check], outcomes[check][0]


def test_serialised_mpi(mpiexec: Any) -> None:
    """Where MPI takes one call at a time, threads of a rank take turns."""
    done = mpiexec(2, "store_checks.py", "thread_level", "threads", env={"MPI4PY_RC_THREAD_LEVEL": "serialized"})
    assert json.loads(done.stdout.strip().splitlines()[-1]) == {"thread_level": [], "threads": []}, done.stderr


@NEEDS_MPI
def test_refuses_single_threaded_mpi() -> None:
    code = (
        "import mpi4py; mpi4py.rc.thread_level = 'funneled'\n"
        "from store_frames import frames\n"
        "from gfmpot.data.formats.distributed import DistributedStore\nDistributedStore(frames())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=False)
    assert "RuntimeError: MPI was started to take calls from one thread only" in done.stderr
    assert "MPI_THREAD_MULTIPLE" in done.stderr


@NEEDS_MPI
def test_under_torchrun(torchrun: Any) -> None:
    """Processes that MPI does not know of cannot share; each may hold everything."""
    done = torchrun(2, "torchrun_store.py")
    assert done.returncode == 0, done.stderr
    assert "MPI sees 1 rank, but WORLD_SIZE is 2" in done.stdout
    assert "mpiexec -n 2" in done.stdout


def test_without_mpi4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r'pip install "gfmpot\[mpi\]"'):
        load_mpi()


def test_available_memory_is_that_of_the_machine() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("no /proc/meminfo")
    available = available_memory()
    assert available is not None
    assert 2**20 < available < 2**50


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_shards_are_even_in_rows(shards: int) -> None:
    """Sorted by size, equal numbers of structures would be far from even."""
    offsets = record_offsets(np.arange(1, 200))
    bounds = shard_bounds(offsets, shards)
    assert bounds[0] == 0
    assert bounds[-1] == 199
    rows = np.diff(offsets[bounds])
    assert rows.max() - rows.min() <= 2 * 203


def test_records_keep_every_bit() -> None:
    data = frames()
    rows = pack(data)
    assert rows.shape == ((data.atoms_per_structure + 3).sum(), WORDS)
    words = encode(data.group).view(np.int64).reshape(len(data), -1)
    same(unpack("set", rows, record_offsets(data.atoms_per_structure), decode(words)), data)
