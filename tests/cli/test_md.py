"""``gfmpot md``: numbers, progress, resumption after kill -9, mistakes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.io import read, write

from gfmpot import GFMCalculator
from gfmpot.calculators.dynamics import MDConfig, run_md
from gfmpot.cli import md as module
from gfmpot.cli.options import supercell


@pytest.fixture
def md(call, tiny_model: Path):
    def run(*arguments: object, code: int = 0):
        return call("md", *arguments, "--model", tiny_model, "--precision", "fp64", code=code)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Path:
    atoms = bulk("MgO", "rocksalt", 4.2)
    atoms.rattle(0.02, seed=1)
    write(tmp_path / "a.extxyz", atoms)
    return tmp_path / "a.extxyz"


def steps(path: str | Path) -> list[int]:
    return [frame.info["md"]["step"] for frame in read(path, ":")]


def test_a_run_is_that_of_run_md(md, start: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = md(start, "--ensemble", "nve", "-T", "30", "--steps", "20", "--interval", "5", "--seed", "4")
    atoms = read(start)
    atoms.calc = GFMCalculator(tiny_model, precision="fp64")
    config = MDConfig("nve", temperature=30.0, steps=20, interval=5, seed=4)
    want = run_md(atoms, config, trajectory=tmp_path / "w.traj", log=tmp_path / "w.csv")
    assert read("md.traj").positions == pytest.approx(want.atoms.positions, abs=1e-9)
    assert steps("md.traj") == [0, 5, 10, 15, 20]
    assert (tmp_path / "md.csv").read_text() == (tmp_path / "w.csv").read_text()
    assert f"{want.temperature_mean:.1f} ± {want.temperature_std:.1f} K" in result.stdout
    assert f"{want.drift:+.3g} meV/atom/ps" in result.stdout
    assert f"{want.max_force:.3f} eV/Å" in result.stdout
    assert f"{want.min_distance:.3f} Å" in result.stdout
    assert "20 (20 now, " in result.stdout


def test_progress_in_a_pipe_is_plain_lines(md, start: Path) -> None:
    lines = md(start, "-T", "30", "--steps", "20").stderr.strip().splitlines()
    assert [line.split()[0] for line in lines] == [f"{2 * n}/20" for n in range(1, 11)]
    assert all(" steps/s, " in line and " ns/day, " in line and line.endswith(" s left") for line in lines)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("ensemble", ["nvt-langevin", "nvt-nose-hoover", "npt"])
def test_resume_takes_the_same_path(md, start: Path, ensemble: str) -> None:
    options = (start, "--ensemble", ensemble, "-T", "30", "--interval", "4", "--timestep", "0.5")
    md(*options, "--steps", "20", "--trajectory", "whole.traj")
    md(*options, "--steps", "9", "--trajectory", "parts.traj")
    md(*options, "--steps", "20", "--trajectory", "parts.traj", "--resume")
    assert steps("parts.traj") == [0, 4, 8, 9, 12, 16, 20]
    assert read("parts.traj").positions == pytest.approx(read("whole.traj").positions, abs=1e-9)
    assert read("parts.traj").get_momenta() == pytest.approx(read("whole.traj").get_momenta(), abs=1e-8)


def test_resume_after_kill_9(start: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = ["-T", "20", "--timestep", "0.2", "--interval", "2", "--model", str(tiny_model), "--log", "l.csv"]
    command = [sys.executable, "-c", "from gfmpot.cli import main; main()", "md", str(start), *options, "--resume"]
    settings = {"cwd": tmp_path, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    first = subprocess.Popen([*command, "--steps", "100000"], stderr=subprocess.DEVNULL, **settings)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "l.csv").exists():
        time.sleep(0.05)
    while time.monotonic() < deadline and (tmp_path / "l.csv").read_text().count("\n") < 8:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = len(read(tmp_path / "md.traj", ":"))
    assert done >= 6
    total = 2 * done + 10
    again = subprocess.run([*command, "--steps", str(total)], capture_output=True, text=True, check=False, **settings)
    assert again.returncode == 0, again.stderr
    assert steps(tmp_path / "md.traj") == list(range(0, total + 1, 2))
    rows = np.genfromtxt(tmp_path / "l.csv", delimiter=",", names=True)
    assert rows["step"].tolist() == list(range(0, total + 1, 2))


def test_ctrl_c_says_how_to_go_on(md, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object, step: int) -> None:
        if step == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(module._Steps, "__call__", interrupted)
    result = md(start, "-T", "30", "--steps", "20", "--interval", "5", code=130)
    assert "--resume goes on from the last frame of md.traj" in result.stderr
    assert steps("md.traj") == [0, 5]


def test_an_explosion_is_exit_code_1(md) -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    atoms.set_velocities(np.array([[0, 0, 0.01], [0, 0, -0.01]]) / units.fs)  # they meet: nothing repels them
    write("a.traj", atoms)
    result = md("a.traj", "--ensemble", "nve", "--steps", "50", code=1)
    found = re.search(r"error: the run exploded after step (\d+) \(.* ps\): atoms 0 .* and 1 .* Å apart", result.stderr)
    assert found is not None
    kept = int(found[1]) // 10 * 10
    assert 20 <= kept <= 30
    assert f"md.traj keeps the frames up to step {kept}. Try a time step below 1 fs" in result.stderr
    assert steps("md.traj") == list(range(0, kept + 1, 10))


def test_supercells() -> None:
    atoms = bulk("NaCl", "rocksalt", 5.64)
    atoms.info["charge"] = 1
    atoms.set_momenta(np.ones((2, 3)))
    for text in ("2 2 2", "2x2x2", "2,2,2", "2"):
        repeated = supercell(atoms, text)
        assert len(repeated) == 16
        assert repeated.info["charge"] == 8
        assert not repeated.get_momenta().any()
    assert supercell(atoms, "1").get_momenta().any()
    assert supercell(atoms, "1").info["charge"] == 1
    assert len(supercell(atoms, "1 1 3")) == 6
    with pytest.raises(ValueError, match="cannot repeat along a cell vector of zero length"):
        supercell(molecule("H2O"), "2")
    atoms.info["spin"] = 2
    with pytest.raises(ValueError, match="multiplicity of a repeated structure"):
        supercell(atoms, "2")


def test_the_last_frame_starts_and_its_velocities_are_kept(md) -> None:
    first, last = molecule("H2O"), molecule("CH4")
    last.set_momenta(np.arange(15.0).reshape(5, 3) * 1e-2)
    write("a.traj", [first, last])
    md("a.traj", "--ensemble", "nve", "--steps", "2", "--trajectory", "b.traj", "--timestep", "0.1")
    began: Atoms = read("b.traj", 0)
    assert began.get_chemical_formula() == "CH4"
    assert began.get_momenta() == pytest.approx(last.get_momenta())
    md("b.traj", "--ensemble", "nve", "--steps", "2", "--trajectory", "c.traj", "--timestep", "0.1")
    assert np.array_equal(read("c.traj", 0).get_momenta(), read("b.traj", -1).get_momenta())
    assert steps("c.traj") == [0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ensemble", "nvt-langvin"], "error: no ensemble 'nvt-langvin'; did you mean 'nvt-langevin'?"),
        (["--supercell", "2 2"], "expected one or three positive whole numbers such as '2 2 2', got '2 2'"),
        (["--pressure", "1"], "only npt has a pressure to set, got 1 GPa with nvt-langevin"),
        (["--interval", "0"], "interval must be positive"),
        (["--trajectory", "nowhere/a.traj"], "there is no folder nowhere"),
        (["--head", "solids"], "did you mean 'solids-pbe'?"),
        (["--trajectory", "a.extxyz"], "a.extxyz exists; go on with that run (resume), or name another file"),
    ],
)
def test_mistakes(md, start: Path, arguments: list[str], message: str) -> None:
    result = md("a.extxyz", *arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_start_that_cannot_be_read(md, tmp_path: Path) -> None:
    assert "error: gone.cif: no such file" in md("gone.cif", code=2).stderr
    assert "error: .: is a folder; give files of structures" in md(".", code=2).stderr
    (tmp_path / "POSCAR2").write_text("nonsense")
    (tmp_path / "empty.xyz").write_text("")
    assert "error: POSCAR2: " in md("POSCAR2", code=2).stderr
    assert "error: empty.xyz: " in md("empty.xyz", code=2).stderr
