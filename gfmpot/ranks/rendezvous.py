"""Where the ranks of a job meet: an address and a port that every rank finds without asking another.

MASTER_ADDR and MASTER_PORT hold where they are set. Otherwise the address is this node if all ranks are on it, or the
first host of the SLURM step or of PBS_NODEFILE; the port follows from the numbers of job and step, or from the process
that started the ranks on this node, so that two jobs on one node do not meet. Where nothing of the kind is known
(``mpiexec`` over several hosts without a scheduler), rank 0 tells the others through MPI.
"""

from __future__ import annotations

import os
import re
import socket
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfmpot.ranks.launch import Launch

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Derived ports: above the registered services in common use, below Linux's ephemeral ports (32768 and up)."""

Environ = Mapping[str, str]


def meeting_point(launch: Launch, environ: Environ) -> tuple[str, int]:
    """Address and port at which the ranks meet.

    Raises:
        ValueError: nothing to go by, or rank 0 is elsewhere than thought.
        ImportError: only MPI can tell, and mpi4py is not installed.
    """
    if launch.launcher == "torchrun" and not {"MASTER_ADDR", "MASTER_PORT"} <= environ.keys():
        raise ValueError("RANK is set, but not MASTER_ADDR and MASTER_PORT; start with torchrun, or set all three")
    address = environ.get("MASTER_ADDR") or _first_node(launch, environ)
    if address is None:
        return _agree_through_mpi(launch)
    port = number(environ, "MASTER_PORT") if "MASTER_PORT" in environ else _derived_port(launch, environ)
    return address, port


def _first_node(launch: Launch, environ: Environ) -> str | None:
    if launch.local_world == launch.world:
        return LOOPBACK
    nodelist = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST")
    if launch.launcher == "srun" and nodelist:
        return first_host(nodelist)
    if launch.launcher == "srun" or "PBS_NODEFILE" not in environ:
        return None
    host = Path(environ["PBS_NODEFILE"]).read_text().split()[0]
    here = socket.gethostname()
    if launch.is_main and host.partition(".")[0] != here.partition(".")[0]:
        # Only rank 0 can tell; it fails, and its launcher ends the others, which would wait for it in vain.
        raise ValueError(f"rank 0 is on {here}, not on the first host of PBS_NODEFILE, {host}; set MASTER_ADDR={here}")
    return host


def _derived_port(launch: Launch, environ: Environ) -> int:
    """A port that all ranks of this job step, and hardly any other, derive."""
    on_one_node = launch.local_world == launch.world
    if launch.launcher in ("Hydra", "Open MPI") and on_one_node:
        key = str(_starter("PMI_RANK" if launch.launcher == "Hydra" else "OMPI_COMM_WORLD_RANK"))
    else:
        step = {"srun": ("SLURM_JOB_ID", "SLURM_STEP_ID"), "PALS": ("PALS_APID",)}
        names = step.get(launch.launcher, ("PBS_JOBID", "SLURM_JOB_ID"))
        key = ".".join(environ[name] for name in names if environ.get(name))
    if not key:
        raise ValueError(f"{launch.launcher}: no job number from which all ranks could derive a port; set MASTER_PORT")
    return PORTS[zlib.crc32(key.encode()) % len(PORTS)]


def _starter(variable: str) -> int:
    """The nearest ancestor that is no rank itself: the launcher's process on this node, common to its ranks.

    The parent of a rank may be a script which the launcher started as that rank. Where processes cannot be read (no
    /proc), the parent is taken.
    """
    process = os.getppid()
    try:
        while variable.encode() in (part.partition(b"=")[0] for part in _proc(process, "environ").split(b"\0")):
            process = int(_proc(process, "stat").rpartition(b")")[2].split()[1])
    except OSError:  # another user's process: certainly no rank of this job
        return process
    return process


def _proc(process: int, name: str) -> bytes:
    return Path(f"/proc/{process}/{name}").read_bytes()


def _agree_through_mpi(launch: Launch) -> tuple[str, int]:
    """Rank 0's host and a free port of it."""
    ranks = communicator(f"the first host of {launch.launcher} on several nodes without MASTER_ADDR")
    if ranks.Get_size() != launch.world:
        raise ValueError(
            f"{launch.launcher} started {launch.world} ranks, but mpi4py sees {ranks.Get_size()}: it was built for "
            "another MPI. Build it for this one, or set MASTER_ADDR and MASTER_PORT"
        )
    offer: tuple[str, int] | None = None
    if launch.is_main:
        with socket.socket() as free:
            free.bind(("", 0))
            offer = socket.gethostname(), free.getsockname()[1]
    address, port = ranks.bcast(offer, root=0)
    return address, port


def communicator(what: str) -> Any:
    """All ranks' MPI communicator; importing it starts MPI.

    Args:
        what: what only MPI can tell, for the message.

    Raises:
        ImportError: mpi4py is not installed; says what to set instead.
    """
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError(
            f'only MPI can tell {what}: pip install "gfmpot[mpi]", or set MASTER_ADDR and MASTER_PORT (and PMI_SIZE '
            "under PALS)"
        ) from error
    return MPI.COMM_WORLD


def number(environ: Environ, *names: str) -> int:
    """The first of the variables that is set, as a whole number.

    Raises:
        ValueError: none is set, or it is no whole number.
    """
    name = next((name for name in names if name in environ), None)
    if name is None:
        raise ValueError(f"expected the environment variable {' or '.join(names)} beside the launcher's others")
    try:
        return int(environ[name])
    except ValueError:
        raise ValueError(f"{name}={environ[name]!r} is no whole number") from None


def first_host(nodelist: str) -> str:
    """The first host of a SLURM node list: ``"nid[001-003,7],login1"`` gives ``"nid001"``.

    Raises:
        ValueError: an empty list.
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodelist.strip())
    if first is None:
        raise ValueError(f"expected a list of hosts such as 'nid[001-003],nid007', got {nodelist!r}")
    return re.sub(r"\[([^,\-\]]+)[^\]]*\]", r"\1", first.group())


def tasks_on_node(counts: str, node: int) -> int:
    """Tasks on a node by SLURM's run-length notation: ``"8(x2),4"`` means 8, 8, 4.

    Raises:
        ValueError: another notation, or a node that is not in it.
    """
    tasks: list[int] = []
    for part in counts.split(","):
        run = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if run is None:
            raise ValueError(f"expected tasks per node such as '8(x2),4', got {counts!r}")
        tasks += [int(run[1])] * int(run[2] or 1)
    if not 0 <= node < len(tasks):
        raise ValueError(f"node {node} is none of the {len(tasks)} in SLURM_STEP_TASKS_PER_NODE={counts!r}")
    return tasks[node]
