"""What the ranks of an MPI job must settle together: groups, room in memory, and whose reading failed."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.formats.rank_memory import load_mpi
from gfmpot.data.formats.records import HEAD

if TYPE_CHECKING:
    from mpi4py import MPI

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]

GIB = 2**30


def launched_world(width: int | None = None) -> MPI.Intracomm:
    """All ranks.

    Raises:
        OSError: several processes run, but MPI does not know of each other's: they were not started by its launcher.
    """
    world: MPI.Intracomm = load_mpi().COMM_WORLD
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # torchrun's
    if world.size == 1 and processes > 1 and width != 1:
        raise OSError(
            f"MPI sees 1 rank, but WORLD_SIZE is {processes}: the in-memory store shares data between processes that "
            f"an MPI launcher started. Start with mpiexec -n {processes} or srun instead of torchrun, or give width=1 "
            "(every process then holds the whole dataset)"
        )
    return world


def available_memory() -> int | None:
    """Bytes that new data may take on this node: MemAvailable in ``/proc/meminfo``; None without that file."""
    table = Path("/proc/meminfo")
    if not table.exists():
        return None
    fields = dict(line.split(":", 1) for line in table.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def check_memory(comm: MPI.Intracomm, needed: int) -> None:
    """Whether every node can hold its ranks' shards, of which this rank's takes ``needed`` bytes; collective.

    Raises:
        MemoryError: on every rank, if one node cannot.
    """
    node = node_of(comm)
    on_node, ranks, available = node.allreduce(needed), node.size, available_memory()
    node.Free()
    excess = -1 if available is None else on_node - available
    excess, on_node, ranks, free = comm.allreduce((excess, on_node, ranks, available or 0), load_mpi().MAX)
    if excess > 0:
        raise MemoryError(
            f"the shards of a node's {ranks} ranks take {on_node / GIB:.2f} GiB ({on_node / ranks / GIB:.2f} GiB a "
            f"rank), but only {free / GIB:.2f} GiB are available; use a larger width, more nodes, or read the dataset "
            "from its file"
        )


def shared_room() -> int | None:
    """Bytes free in ``/dev/shm``, where MPI libraries put memory that processes share; None without that folder."""
    folder = Path("/dev/shm")
    return shutil.disk_usage(folder).free if folder.is_dir() else None


def warn_of_little_shared_memory(node: MPI.Intracomm, needed: int) -> None:
    """Say so beforehand if sharing may end in a bus error, which explains nothing; collective on the node."""
    on_node, room = node.allreduce(needed), shared_room()
    if node.rank == 0 and node.size > 1 and room is not None and on_node > room:
        log.warning(
            "a node's shards take %.2f GiB, but /dev/shm has room for %.2f: if the processes die of a bus error, "
            "enlarge it (docker run --shm-size, mount -o remount,size=...) or use backend 'windows'",
            on_node / GIB,
            room / GIB,
        )


def node_of(comm: MPI.Intracomm) -> MPI.Intracomm:
    """The ranks of ``comm`` whose memory this rank can address; collective."""
    return cast("MPI.Intracomm", comm.Split_type(load_mpi().COMM_TYPE_SHARED, comm.rank))


def split(comm: MPI.Intracomm, colour: int) -> MPI.Intracomm:
    """The ranks of ``comm`` that give the same ``colour``, in the same order; collective."""
    return cast("MPI.Intracomm", comm.Split(colour, comm.rank))


def check_same(comm: MPI.Intracomm, offsets: Ints) -> None:
    """Whether all ranks see the same dataset, as far as its size tells; collective.

    Args:
        comm: the ranks.
        offsets: (S + 1,) first row of each record.

    Raises:
        ValueError: on every rank, if not.
    """
    structures = len(offsets) - 1
    sizes = set(comm.allgather((structures, int(offsets[-1]) - HEAD * structures)))
    if len(sizes) > 1:
        got = "; ".join(f"{s} structures with {n} atoms" for s, n in sorted(sizes))
        raise ValueError(f"the ranks were given different datasets: {got}; give all of them the same")


def group_of(comm: MPI.Intracomm, width: int | None) -> MPI.Intracomm:
    """The group of this rank: ``width`` consecutive ranks of ``comm``, all of them if None; collective.

    Raises:
        ValueError: ``width`` does not divide the number of ranks.
    """
    width = comm.size if width is None else width
    if width < 1 or comm.size % width:
        fitting = [w for w in range(1, comm.size + 1) if comm.size % w == 0]
        raise ValueError(
            f"a group of {width} ranks does not divide the {comm.size} ranks; expected a width of "
            f"{', '.join(map(str, fitting))}"
        )
    return split(comm, comm.rank // width)


def failure_of_any(comm: MPI.Intracomm, error: Exception | None) -> Exception | None:
    """This rank's error, or one that tells of another rank's, or None if no rank has one; collective.

    A rank that failed alone would leave the others waiting for ever.
    """
    texts = comm.allgather(None if error is None else f"{type(error).__name__}: {error}")
    others = [f"rank {rank}: {text}" for rank, text in enumerate(texts) if text is not None]
    if error is None and others:
        return OSError(f"another rank could not read its shard; {'; '.join(others)}")
    return error
