"""Real ranks started by torchrun and mpiexec: they find each other, and reduce a number."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, pathlib, sys
import torch, torch.distributed as dist
from gfmpot.ranks.launch import any_rank, detect, session

environ = dict(os.environ)
if "--as-two-nodes" in sys.argv:
    environ |= {"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}
with session("cpu", environ) as (launch, device):
    total = torch.tensor(float(launch.rank + 1), device=device)
    dist.all_reduce(total)
    some, none = any_rank(launch.rank == 1, device), any_rank(False, device)
    words = (launch.launcher, launch.rank, launch.world, launch.local_rank, launch.local_world, launch.master_port,
             total.item(), dist.get_backend(), some, none, "mpi4py.MPI" in sys.modules)
    pathlib.Path(__file__).with_name(f"rank{launch.rank}.txt").write_text(" ".join(map(str, words)))
assert not dist.is_initialized()
"""
VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "MASTER_",
    "SLURM_",
    "PMI",
    "MPI_",
    "OMPI_",
    "PALS_",
    "PBS_",
    "TORCHELASTIC",
)


def hydra() -> str:
    """Hydra's mpiexec of the mpich wheel, or of the system."""
    found = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip("needs mpiexec: pip install mpich")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    if "HYDRA" not in version:
        pytest.skip(f"{found} is not Hydra's")
    return found


def ranks(program: Path, *command: str) -> list[list[str]]:
    """Run it in an environment without other launchers' variables; the words written by each rank, by rank."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
    environ |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [path.read_text().split() for path in sorted(program.parent.glob("rank*.txt"))]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def check(launcher: str, found: list[list[str]], local: tuple[str, ...] = ("0", "1"), local_world: str = "2") -> None:
    assert [words[:5] for words in found] == [[launcher, str(rank), "2", local[rank], local_world] for rank in range(2)]
    assert found[0][5] == found[1][5], "one port for all"
    assert [words[6:10] for words in found] == [["3.0", "gloo", "True", "False"]] * 2


def torchrun(program: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(program))


def test_torchrun(program: Path) -> None:
    check("torchrun", ranks(program, *torchrun(program)))


def test_mpiexec(program: Path) -> None:
    found = ranks(program, hydra(), "-n", "2", sys.executable, str(program))
    check("Hydra", found)
    assert [words[10] for words in found] == ["False", "False"], "one node needs no MPI to agree"


def test_mpiexec_of_a_script_around_each_rank(program: Path) -> None:
    script = program.with_suffix(".sh")
    script.write_text(f"#!/bin/sh\n{sys.executable} {program}\nexit $?\n")
    check("Hydra", ranks(program, hydra(), "-n", "2", "sh", str(script)))


def test_torchrun_inside_mpiexec_is_the_inner_one(program: Path) -> None:
    check("torchrun", ranks(program, hydra(), "-n", "1", *torchrun(program)))


def test_mpiexec_over_nodes_agrees_through_mpi(program: Path) -> None:
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip('needs mpi4py: pip install "gfmpot[mpi]"')
    found = ranks(program, hydra(), "-n", "2", sys.executable, str(program), "--as-two-nodes")
    check("Hydra", found, local=("0", "0"), local_world="1")
    assert [words[10] for words in found] == ["True", "True"]
