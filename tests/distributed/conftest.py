"""Runs scripts on several real ranks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

SCRIPTS = Path(__file__).parent
REPOSITORY = SCRIPTS.parents[1]
BIN = Path(sys.executable).parent

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # ranks share the cores of the test machine
    "PYTHONPATH": str(REPOSITORY),
    "OMPI_ALLOW_RUN_AS_ROOT": "1",  # containers; Open MPI asks for both
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def _launcher(name: str) -> str | None:
    beside = BIN / name
    return str(beside) if beside.exists() else shutil.which(name)


def _run(command: list[str], timeout: float, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if key not in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=inherited | ENVIRONMENT | env)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # launchers end their ranks on this signal; killed, they would leave them behind
        out, err = process.communicate()
        pytest.fail(f"{' '.join(command)} took more than {timeout} s\n{out}\n{err}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture(scope="session")
def mpiexec() -> Run:
    """``mpiexec(ranks, script, *arguments, timeout=, env=)``: the finished process; an error on one rank ends all."""
    launcher = _launcher("mpiexec")
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed")
    if launcher is None:
        pytest.skip("no mpiexec: pip install mpich")

    def run(
        ranks: int, script: str, *arguments: str, timeout: float = 120, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        python = [sys.executable, "-m", "mpi4py", str(SCRIPTS / script), *arguments]
        return _run([launcher, "-n", str(ranks), *python], timeout, env or {})

    return run


@pytest.fixture(scope="session")
def torchrun() -> Run:
    """``torchrun(processes, script, *arguments, timeout=, env=)``: the finished process."""

    def run(
        processes: int, script: str, *arguments: str, timeout: float = 120, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        module = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        return _run([*module, str(SCRIPTS / script), *arguments], timeout, env or {})

    return run
