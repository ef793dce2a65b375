"""Who this process is among the ranks of a job, which device it uses, and the process group the ranks share.

Ranks are read from the environment variables of whatever started the process. Where several launchers have left
theirs, the innermost one is right, so they are asked in this order:

1. ``torchrun`` and whatever else sets ``RANK``: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR,
   MASTER_PORT (https://docs.pytorch.org/docs/stable/elastic/run.html). It wins inside ``srun`` or ``mpiexec``.
2. Open MPI's ``mpiexec``: OMPI_COMM_WORLD_*. It starts its daemons by ``srun`` in a SLURM job, so it comes before that.
3. Hydra's ``mpiexec`` (MPICH, Intel MPI): PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS; the same applies.
4. ``srun``: SLURM_PROCID and so on, if SLURM_STEP_ID says that this is a job step: a batch script has SLURM_PROCID=0
   and the job's SLURM_NTASKS, too, but is one process (https://slurm.schedmd.com/srun.html). On Cray machines srun
   sets PALS_* as well (Slurm's ``mpi/cray_shasta`` plugin), so it comes before PALS.
5. Cray PALS ``mpiexec`` (Aurora): PALS_RANKID, PALS_LOCAL_RANKID, PALS_LOCAL_SIZE, and PMI_SIZE or MPI itself for the
   number of ranks (https://docs.alcf.anl.gov/aurora/running-jobs-aurora/).
6. None: a single process.

Where the ranks meet, if the launcher does not say, is :mod:`gfmpot.ranks.rendezvous`'s to find out.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from gfmpot.ranks.rendezvous import LOOPBACK, PORTS, Environ, communicator, meeting_point, number, tasks_on_node

BACKENDS = {"cuda": "nccl", "xpu": "xccl", "cpu": "gloo"}
"""Collectives by device type; PyTorch built for ROCm calls its devices cuda and RCCL nccl
(https://docs.pytorch.org/docs/stable/distributed.html, https://docs.pytorch.org/docs/stable/notes/hip.html)."""

TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Launch:
    """The place of this process in its job.

    Raises:
        ValueError: numbers that contradict each other, e.g. a rank that is not below the number of ranks.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Among the ranks of this node."""

    local_world: int = 1
    """Ranks on this node."""

    node: int = 0
    """Index of this node; counted from blocks of ``local_world`` ranks where the launcher does not say."""

    master_addr: str = LOOPBACK
    master_port: int = PORTS.start
    launcher: str = "single process"

    def __post_init__(self) -> None:
        sane = 0 <= self.rank < self.world and 0 <= self.local_rank < self.local_world <= self.world
        if not sane or self.local_rank > self.rank or self.node < 0:
            raise ValueError(
                f"{self.launcher} says rank {self.rank} of {self.world}, rank {self.local_rank} of {self.local_world} "
                f"on node {self.node}; ranks must be below their numbers. Unset the variables of launchers that did "
                "not start this process (gfmpot.ranks.launch lists them)"
            )
        if not 0 < self.master_port < 65_536:
            raise ValueError(f"MASTER_PORT={self.master_port} is no port; expected 1 to 65535")

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0


def detect(environ: Environ = os.environ) -> Launch:
    """Read this process's place from its environment, and where the ranks meet.

    Raises:
        ValueError: a variable that is missing, no whole number, or contradicts another.
        ImportError: only MPI knows the answer, and mpi4py is not installed.
    """
    launch = place(environ)
    if launch.world == 1:
        return launch
    address, port = meeting_point(launch, environ)
    return dataclasses.replace(launch, master_addr=address, master_port=port)


def place(environ: Environ = os.environ) -> Launch:
    """As :func:`detect`, for ranks that never meet: work that needs no communication needs no address."""
    found = (finder(environ) for finder in (_torchrun, _openmpi, _hydra, _srun, _pals))
    launch = next((launch for launch in found if launch is not None), None)
    if launch is None and "PMI_RANK" in environ:
        raise ValueError(
            "PMI_RANK is set, but no launcher that says which rank of its node a process is. Use torchrun, srun, or "
            "the mpiexec of MPICH (Hydra), Intel MPI, Open MPI or Cray PALS"
        )
    return launch or Launch()


def _torchrun(environ: Environ) -> Launch | None:
    if "RANK" not in environ:
        return None
    ranks = [number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    return _launch("torchrun", ranks, number(environ, "GROUP_RANK") if "GROUP_RANK" in environ else None)


def _openmpi(environ: Environ) -> Launch | None:
    if "OMPI_COMM_WORLD_RANK" not in environ:
        return None
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    return _launch("Open MPI", [number(environ, f"OMPI_COMM_WORLD_{name}") for name in names])


def _hydra(environ: Environ) -> Launch | None:
    if "PMI_RANK" not in environ or "MPI_LOCALRANKID" not in environ:
        return None
    names = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
    return _launch("Hydra", [number(environ, name) for name in names])


def _srun(environ: Environ) -> Launch | None:
    if "SLURM_STEP_ID" not in environ or "SLURM_PROCID" not in environ:
        return None
    # The step's own numbers first: those without STEP may be what the job was submitted with.
    world = number(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    node = number(environ, "SLURM_NODEID")
    if "SLURM_STEP_TASKS_PER_NODE" in environ:
        local_world = tasks_on_node(environ["SLURM_STEP_TASKS_PER_NODE"], node)
    else:
        local_world = number(environ, "SLURM_NTASKS_PER_NODE")
    rank, local_rank = number(environ, "SLURM_PROCID"), number(environ, "SLURM_LOCALID")
    return _launch("srun", [rank, world, local_rank, local_world], node)


def _pals(environ: Environ) -> Launch | None:
    if "PALS_RANKID" not in environ:
        return None
    if "PMI_SIZE" in environ:
        world = number(environ, "PMI_SIZE")
    else:  # Aurora's PALS does not tell ranks how many they are when PMIx wires up MPI.
        world = communicator("the number of ranks under PALS without PMI_SIZE").Get_size()
    rank, local_rank = number(environ, "PALS_RANKID"), number(environ, "PALS_LOCAL_RANKID")
    local_world = number(environ, "PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE")
    node = number(environ, "PALS_NODEID") if "PALS_NODEID" in environ else None
    return _launch("PALS", [rank, world, local_rank, local_world], node)


def _launch(launcher: str, ranks: list[int], node: int | None = None) -> Launch:
    rank, world, local_rank, local_world = ranks
    index = rank // max(local_world, 1) if node is None else node
    return Launch(rank, world, local_rank, local_world, index, launcher=launcher)


def own_cores(launch: Launch, allowed: int, environ: Environ = os.environ) -> int:
    """Cores of this rank, of those that its process is ``allowed`` to use.

    srun says how many it gives to a rank, or, where it binds ranks, allows each only its own, as the mpiexecs do. What
    is allowed to all ranks of the node is divided; ``torchrun`` never binds.
    """
    if launch.launcher == "srun" and "SLURM_CPUS_PER_TASK" in environ:
        return max(1, min(allowed, number(environ, "SLURM_CPUS_PER_TASK")))
    on_srun = launch.launcher == "srun" and "SLURM_CPUS_ON_NODE" in environ
    of_node = number(environ, "SLURM_CPUS_ON_NODE") if on_srun else os.cpu_count() or 1
    is_bound = launch.launcher != "torchrun" and allowed < of_node
    return allowed if is_bound else max(1, allowed // launch.local_world)


def device(launch: Launch, wanted: str | None = None) -> torch.device:
    """The device of this rank.

    Args:
        launch: its place.
        wanted: ``"cpu"``, ``"cuda"`` (ROCm's too), ``"xpu"``, or one of them with an index if the rank is alone on its
            node; the best that there is by default.

    Ranks take the visible devices in turn. Where a launcher shows each rank one device only (``srun
    --gpus-per-task=1``, ROCR_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES, ZE_AFFINITY_MASK), that is device 0 for each
    (https://docs.olcf.ornl.gov/software/analytics/pytorch_frontier.html).

    Raises:
        ValueError: an unknown device, or one that is not there.
    """
    kind, _, index = (wanted or _best_kind()).partition(":")
    if kind not in BACKENDS:
        raise ValueError(f"device {wanted!r}: expected one of {', '.join(BACKENDS)}, e.g. 'cuda' or 'cuda:1'")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if kind == "cuda" else torch.xpu.device_count()
    if count == 0:
        raise ValueError(f"device {wanted!r}: PyTorch {torch.__version__} sees no {kind} device here")
    if index and launch.local_world > 1:
        raise ValueError(f"device {wanted!r} for {launch.local_world} ranks on a node: leave out the index")
    if index and not (index.isdecimal() and int(index) < count):
        raise ValueError(f"device {wanted!r}: the visible ones are {kind}:0 to {kind}:{count - 1}")
    return torch.device(kind, int(index) if index else launch.local_rank % count)


def _best_kind() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "xpu" if torch.xpu.is_available() else "cpu"


def backend(device: torch.device) -> str:
    """The collectives for a device: nccl (which is RCCL under ROCm), xccl or gloo."""
    return BACKENDS[device.type]


def initialise(launch: Launch, device: torch.device, timeout: timedelta = TIMEOUT) -> None:
    """Make ``device`` the current one, and start the default process group if there is more than one rank.

    Raises:
        ValueError: PyTorch was built without the backend.
    """
    if device.type != "cpu":
        torch.accelerator.set_device_index(device)
    if launch.world == 1:
        return
    name = backend(device)
    if not dist.is_backend_available(name):
        raise ValueError(f"PyTorch {torch.__version__} has no {name} for {device}; install its build for this machine")
    host = f"[{launch.master_addr}]" if ":" in launch.master_addr else launch.master_addr
    dist.init_process_group(
        name,
        init_method=f"tcp://{host}:{launch.master_port}",
        rank=launch.rank,
        world_size=launch.world,
        timeout=timeout,
        device_id=None if device.type == "cpu" else device,
    )


@contextmanager
def session(
    wanted: str | None = None, environ: Environ = os.environ, timeout: timedelta = TIMEOUT
) -> Iterator[tuple[Launch, torch.device]]:
    """This process's place and device, with the process group up inside and gone afterwards."""
    launch = detect(environ)
    chosen = device(launch, wanted)
    initialise(launch, chosen, timeout)
    try:
        yield launch, chosen
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is set on any rank: what all must do together, e.g. stop, is decided by this. Collective."""
    if not dist.is_initialized():
        return flag
    agreed = torch.tensor(int(flag), device=device)
    dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
    return bool(agreed.item())


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, with the sum over all ranks in its place. Collective."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor
