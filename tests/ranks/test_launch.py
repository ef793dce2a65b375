"""Ranks from every launcher's environment variables, devices, and what must not pass."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from gfmpot.ranks import launch as module
from gfmpot.ranks.launch import Launch, any_rank, backend, detect, device, initialise, session
from gfmpot.ranks.rendezvous import PORTS, first_host, tasks_on_node

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node-a",
    "MASTER_PORT": "29500",
}
# As srun sets them on a Cray machine for the second of two nodes; its cray_shasta plugin adds PALS_* and PMI_*.
SRUN = {
    "SLURM_JOB_ID": "3141592",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "11",
    "SLURM_NTASKS": "16",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "frontier[00123-00124]",
    "PALS_RANKID": "11",
    "PALS_LOCAL_RANKID": "3",
    "PALS_NODEID": "1",
    "PALS_APID": "3141592.2",
    "PMI_RANK": "11",
    "PMI_SIZE": "16",
    "PMI_LOCAL_RANK": "3",
    "PMI_LOCAL_SIZE": "8",
}
# A batch script on its first node, before it calls srun.
BATCH = {
    "SLURM_JOB_ID": "3141592",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "16",
}
PALS = {
    "PALS_RANKID": "14",
    "PALS_LOCAL_RANKID": "2",
    "PALS_LOCAL_SIZE": "12",
    "PALS_NODEID": "1",
    "PALS_APID": "5e2f",
    "PMI_SIZE": "24",
    "PBS_JOBID": "271828.aurora-pbs",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2", "PMI_FD": "9"}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "PBS_JOBID": "271828.server",
}


def nodefile(folder: Path, *hosts: str) -> dict[str, str]:
    path = folder / "nodefile"
    path.write_text("\n".join(hosts) + "\n")
    return {"PBS_NODEFILE": str(path)}


def place(found: Launch) -> tuple[int, ...]:
    return found.rank, found.world, found.local_rank, found.local_world, found.node


def test_nothing_set_is_one_process() -> None:
    assert detect({}) == Launch()
    assert detect(BATCH) == Launch(), "a batch script is one process, whatever its job's SLURM_NTASKS"
    assert Launch().is_main


def test_torchrun_inside_srun() -> None:
    found = detect({**SRUN, **TORCHRUN})
    assert place(found) == (5, 8, 1, 4, 1)
    assert (found.launcher, found.master_addr, found.master_port) == ("torchrun", "node-a", 29500)
    assert not found.is_main


def test_srun() -> None:
    found = detect(SRUN)
    assert place(found) == (11, 16, 3, 8, 1)
    assert (found.launcher, found.master_addr) == ("srun", "frontier00123")
    assert found.master_port in PORTS
    assert detect({**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}).master_port == (
        found.master_port
    )


def test_srun_step_of_other_size_than_its_job() -> None:
    step = {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}
    assert place(detect({**SRUN, **step})) == (2, 3, 0, 1, 1)
    without = {name: value for name, value in SRUN.items() if not name.startswith("SLURM_STEP_TASKS")}
    assert detect(without).local_world == 8


def test_steps_of_one_job_get_ports_of_their_own() -> None:
    assert detect(SRUN).master_port != detect({**SRUN, "SLURM_STEP_ID": "3"}).master_port
    assert detect({**SRUN, "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "3442"}).master_port == 3442


def test_pals(tmp_path: Path) -> None:
    found = detect({**PALS, **nodefile(tmp_path, "x4407c6s2b0n0.hsn.cm", "x4407c6s7b0n0.hsn.cm")})
    assert place(found) == (14, 24, 2, 12, 1)
    assert (found.launcher, found.master_addr) == ("PALS", "x4407c6s2b0n0.hsn.cm")
    assert found.master_port in PORTS


def test_pals_asks_mpi_for_the_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    class World:
        def Get_size(self) -> int:  # noqa: N802
            return 24

    monkeypatch.setattr(module, "communicator", lambda what: World())
    known = {name: value for name, value in PALS.items() if name != "PMI_SIZE"}
    assert detect({**known, "MASTER_ADDR": "x"}).world == 24


def test_rank_0_notices_that_it_is_not_where_others_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "x4407c6s7b0n0")
    first = {"PALS_RANKID": "0", "PALS_LOCAL_RANKID": "0", "PALS_NODEID": "0"}
    hosts = nodefile(tmp_path, "x4407c6s2b0n0.hsn.cm", "x4407c6s7b0n0.hsn.cm")
    with pytest.raises(ValueError, match=r"not on the first host of PBS_NODEFILE.*set MASTER_ADDR=x4407c6s7b0n0"):
        detect({**PALS, **first, **hosts})
    monkeypatch.setattr(socket, "gethostname", lambda: "x4407c6s2b0n0")
    assert detect({**PALS, **first, **hosts}).is_main


def test_hydra_on_one_node() -> None:
    found = detect(HYDRA)
    assert place(found) == (1, 2, 1, 2, 0)
    assert (found.launcher, found.master_addr) == ("Hydra", "127.0.0.1")
    assert found.master_port in PORTS


def test_hydra_started_by_srun_is_not_mistaken_for_it() -> None:
    proxy = {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}  # the step runs Hydra's proxy, not the ranks
    assert detect({**proxy, **HYDRA}).launcher == "Hydra"
    assert detect({**proxy, **OPENMPI, "MASTER_ADDR": "x"}).launcher == "Open MPI"


def test_open_mpi_in_a_pbs_job(tmp_path: Path) -> None:
    found = detect({**OPENMPI, **nodefile(tmp_path, "node7", "node9")})
    assert place(found) == (3, 4, 1, 2, 1)
    assert (found.launcher, found.master_addr) == ("Open MPI", "node7")
    assert detect({**OPENMPI, "PBS_JOBID": "1.server", "MASTER_ADDR": "x"}).master_port != found.master_port


def test_several_nodes_of_which_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"gfmpot\[mpi\].*MASTER_ADDR and MASTER_PORT"):
        detect({**HYDRA, "MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0"})
    with pytest.raises(ValueError, match="set MASTER_PORT"):
        detect({**HYDRA, "MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0", "MASTER_ADDR": "x"})


@pytest.mark.parametrize(
    ("environ", "changes", "message"),
    [
        (TORCHRUN, {"RANK": "8"}, "rank 8 of 8.*Unset the variables of launchers"),
        (TORCHRUN, {"LOCAL_RANK": "4"}, "rank 4 of 4 on node"),
        (TORCHRUN, {"LOCAL_WORLD_SIZE": "9"}, "rank 1 of 9"),
        (TORCHRUN, {"WORLD_SIZE": None}, "expected the environment variable WORLD_SIZE"),
        (TORCHRUN, {"MASTER_PORT": None}, "not MASTER_ADDR and MASTER_PORT"),
        (TORCHRUN, {"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is no port"),
        (TORCHRUN, {"RANK": "first"}, "RANK='first' is no whole number"),
        (SRUN, {"SLURM_STEP_TASKS_PER_NODE": "eight"}, "expected tasks per node such as"),
        (SRUN, {"SLURM_STEP_TASKS_PER_NODE": "16"}, "node 1 is none of the 1"),
        (SRUN, {"SLURM_LOCALID": None}, "expected the environment variable SLURM_LOCALID"),
        (HYDRA, {"MPI_LOCALNRANKS": None}, "expected the environment variable MPI_LOCALNRANKS"),
        (HYDRA, {"MPI_LOCALRANKID": None, "MPI_LOCALNRANKS": None}, "no launcher that says which rank of its node"),
        (PALS, {"PALS_LOCAL_SIZE": None}, "PALS_LOCAL_SIZE or PMI_LOCAL_SIZE"),
        (OPENMPI, {"OMPI_COMM_WORLD_RANK": "-1"}, "rank -1 of 4"),
    ],
)
def test_contradictions(environ: dict[str, str], changes: dict[str, str | None], message: str) -> None:
    changed = {**environ, **changes}
    with pytest.raises(ValueError, match=message):
        detect({name: value for name, value in changed.items() if value is not None})


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("nid001", "nid001"),
        ("nid[001-003,007]", "nid001"),
        ("frontier[00123,00200-00210]", "frontier00123"),
        ("login1,nid[001-003]", "login1"),
        ("rack[2-4]node[07-09],x", "rack2node07"),
        ("n[5].cluster,n6", "n5.cluster"),
    ],
)
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


def test_node_lists_that_are_none() -> None:
    with pytest.raises(ValueError, match="expected a list of hosts"):
        first_host(" ")
    assert [tasks_on_node("8(x2),4", node) for node in range(3)] == [8, 8, 4]


def devices(monkeypatch: pytest.MonkeyPatch, kind: str, count: int) -> None:
    for name in ("cuda", "xpu"):
        seen = count if name == kind else 0
        monkeypatch.setattr(getattr(torch, name), "device_count", lambda seen=seen: seen)
        monkeypatch.setattr(getattr(torch, name), "is_available", lambda seen=seen: seen > 0)


def test_each_rank_gets_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    third = Launch(rank=3, world=8, local_rank=3, local_world=4)
    devices(monkeypatch, "cuda", 4)
    assert device(third) == torch.device("cuda:3")
    assert device(third, "cpu") == torch.device("cpu")
    devices(monkeypatch, "cuda", 1)
    assert device(third) == torch.device("cuda:0"), "the launcher shows each rank one device"
    devices(monkeypatch, "xpu", 12)
    assert device(third) == torch.device("xpu:3")
    assert device(Launch(), "xpu:7") == torch.device("xpu:7")
    devices(monkeypatch, "", 0)
    assert device(third) == torch.device("cpu")


@pytest.mark.parametrize(
    ("ranks", "wanted", "message"),
    [
        (1, "gpu", "expected one of cuda, xpu, cpu"),
        (1, "xpu", "sees no xpu device"),
        (1, "cuda:2", "visible ones are cuda:0 to cuda:1"),
        (1, "cuda:x", "visible ones are cuda:0 to cuda:1"),
        (2, "cuda:0", "leave out the index"),
    ],
)
def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch, ranks: int, wanted: str, message: str) -> None:
    devices(monkeypatch, "cuda", 2)
    with pytest.raises(ValueError, match=message):
        device(Launch(world=ranks, local_world=ranks), wanted)


def test_backend_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [backend(torch.device(kind)) for kind in ("cuda:0", "xpu:1", "cpu")] == ["nccl", "xccl", "gloo"]
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)
    monkeypatch.setattr(dist, "is_backend_available", lambda name: False)
    with pytest.raises(ValueError, match="has no xccl for xpu:0"):
        initialise(Launch(world=2, local_world=2), torch.device("xpu:0"))


def test_process_group_is_asked_for_as_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    current: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
    monkeypatch.setattr(dist, "is_backend_available", lambda name: True)
    monkeypatch.setattr(dist, "init_process_group", lambda name, **options: calls.append((name, options)))
    place = Launch(rank=1, world=2, local_rank=1, local_world=2, master_addr="fe80::1", master_port=3442)
    initialise(place, torch.device("cuda:1"), timedelta(seconds=9))
    ((name, options),) = calls
    assert name == "nccl"
    assert options["init_method"] == "tcp://[fe80::1]:3442"
    assert (options["rank"], options["world_size"], options["timeout"]) == (1, 2, timedelta(seconds=9))
    assert options["device_id"] == torch.device("cuda:1")
    assert current == [torch.device("cuda:1")]


def test_one_process_needs_no_group() -> None:
    with session("cpu", {}) as (found, chosen):
        assert (found, chosen) == (Launch(), torch.device("cpu"))
        assert not dist.is_initialized()
        assert any_rank(True, chosen)
        assert not any_rank(False, chosen)


def test_import_changes_nothing() -> None:
    """In a process of its own: DeepHyper, which other tests use, imports MPI."""
    code = (
        "import sys, gfmpot.ranks.launch, torch.distributed as dist\n"
        "assert not dist.is_initialized() and 'mpi4py.MPI' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("launch", "allowed", "environ", "expected"),
    [
        (Launch(), 12, {}, 12),
        (Launch(0, 4, 0, 4, launcher="torchrun"), 64, {}, 16),
        (Launch(0, 4, 0, 4, launcher="torchrun"), 32, {}, 8),  # a container's share of the node, which all share
        (Launch(0, 4, 0, 4, launcher="Open MPI"), 64, {}, 16),
        (Launch(0, 4, 0, 4, launcher="Open MPI"), 16, {}, 16),  # bound
        (Launch(0, 4, 0, 4, launcher="srun"), 8, {"SLURM_CPUS_PER_TASK": "8"}, 8),
        (Launch(0, 4, 0, 4, launcher="srun"), 64, {"SLURM_CPUS_PER_TASK": "8"}, 8),
        (Launch(0, 4, 0, 4, launcher="srun"), 8, {"SLURM_CPUS_ON_NODE": "32"}, 8),
        (Launch(0, 4, 0, 4, launcher="srun"), 32, {"SLURM_CPUS_ON_NODE": "32"}, 8),  # of a part of the node, not bound
        (Launch(0, 4, 0, 4, launcher="srun"), 2, {"SLURM_CPUS_ON_NODE": "2"}, 1),
    ],
)
def test_cores_are_divided_once(
    launch: Launch, allowed: int, environ: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert module.own_cores(launch, allowed, environ) == expected
