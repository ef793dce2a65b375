"""Many simulations at once take the paths that each takes alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixBondLength
from ase.io import read
from ase.md.verlet import VelocityVerlet
from many import TWO_AT_A_TIME, crystals_and_molecules

from gfmpot import GFMCalculator
from gfmpot.calculators.batched import dynamics_many
from gfmpot.calculators.dynamics import MDConfig, draw_velocities, run_md
from gfmpot.graph import BatchBudget


@pytest.fixture(scope="module")
def calculator() -> GFMCalculator:
    return GFMCalculator(precision="fp64")


def moving(structures: Sequence[Atoms], temperature: float = 300.0) -> list[Atoms]:
    for seed, atoms in enumerate(structures):
        draw_velocities(atoms, temperature, np.random.default_rng(seed))
    return list(structures)


def test_nve_is_velocity_verlet_of_ase(calculator: GFMCalculator, tmp_path: Path) -> None:
    structures = moving(crystals_and_molecules())
    config = MDConfig(ensemble="nve", steps=100, interval=20, timestep=1.0)
    found = dynamics_many(structures, calculator, config, tmp_path)
    for one, atoms in zip(found, structures, strict=True):
        assert one.error is None
        frames: list[np.ndarray] = []
        copy = atoms.copy()
        copy.calc = calculator
        dynamics = VelocityVerlet(copy, 1.0 * units.fs)
        dynamics.attach(lambda copy=copy, frames=frames: frames.append(copy.positions.copy()), interval=20)
        dynamics.run(100)
        written = read(one.trajectory, ":")
        assert len(written) == 6
        for frame, positions in zip(written, frames, strict=True):
            assert frame.positions == pytest.approx(positions, abs=1e-9)
        assert written[-1].get_momenta() == pytest.approx(copy.get_momenta(), abs=1e-8)


@pytest.mark.parametrize("budget", [None, TWO_AT_A_TIME])
def test_runs_leave_what_run_md_leaves(calculator: GFMCalculator, tmp_path: Path, budget: BatchBudget | None) -> None:
    structures = crystals_and_molecules()
    config = MDConfig(steps=30, interval=7, friction=20.0, seed=5)
    found = dynamics_many(structures, calculator, config, tmp_path / "many", budget=budget)
    (tmp_path / "one").mkdir()
    for i, (one, atoms) in enumerate(zip(found, structures, strict=True)):
        atoms.calc = calculator
        files = {"trajectory": tmp_path / "one" / f"{i}.traj", "log": tmp_path / "one" / f"{i}.csv"}
        want = run_md(atoms, dataclasses.replace(config, seed=5 + i), **files)
        assert one.summary is not None
        for field in ("steps", "steps_run", "temperature_mean", "temperature_std", "max_force", "min_distance"):
            assert getattr(one.summary, field) == pytest.approx(getattr(want, field), abs=1e-6), field
        for frame, other in zip(read(one.trajectory, ":"), read(files["trajectory"], ":"), strict=True):
            assert frame.positions == pytest.approx(other.positions, abs=1e-8)
            assert frame.get_momenta() == pytest.approx(other.get_momenta(), abs=1e-7)
            assert frame.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-8)
            assert frame.info["md"]["step"] == other.info["md"]["step"]
        assert one.log.read_text().splitlines()[0] == files["log"].read_text().splitlines()[0]


def test_equal_structures_take_different_paths(calculator: GFMCalculator, tmp_path: Path) -> None:
    config = MDConfig(steps=3, interval=1)
    first, second = dynamics_many([molecule("H2O")] * 2, calculator, config, tmp_path)
    assert np.abs(read(first.trajectory).positions - read(second.trajectory).positions).max() > 1e-3


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin"])
def test_runs_go_on_where_they_were(calculator: GFMCalculator, tmp_path: Path, ensemble: Any) -> None:
    structures = [bulk("MgO", "rocksalt", 4.3, cubic=True), molecule("CH3OH"), molecule("H2O")]
    long = MDConfig(ensemble=ensemble, steps=20, interval=5)
    whole = dynamics_many(structures, calculator, long, tmp_path / "whole")
    folder = tmp_path / "parts"
    dynamics_many(structures[:2], calculator, dataclasses.replace(long, steps=10), folder)
    found = dynamics_many(structures, calculator, long, folder, resume=True)
    for one, other in zip(found, whole, strict=True):
        assert read(one.trajectory).positions == pytest.approx(read(other.trajectory).positions, abs=1e-9)
        assert len(read(one.trajectory, ":")) == 5
    assert [one.summary.steps_run for one in found if one.summary] == [10, 10, 20]
    again = dynamics_many(structures, calculator, long, folder, resume=True)
    assert [one.summary.steps_run for one in again if one.summary] == [0, 0, 0]


def test_run_md_goes_on_with_a_run_of_a_batch(calculator: GFMCalculator, tmp_path: Path) -> None:
    water, config = molecule("H2O"), MDConfig(steps=20, interval=5)
    (whole,) = dynamics_many([water], calculator, config, tmp_path / "whole")
    (half,) = dynamics_many([water], calculator, dataclasses.replace(config, steps=10), tmp_path / "half")
    water.calc = calculator
    run_md(water, config, trajectory=half.trajectory, log=half.log, resume=True)
    assert read(half.trajectory).positions == pytest.approx(read(whole.trajectory).positions, abs=1e-9)


def test_bad_runs_do_not_stop_the_others(calculator: GFMCalculator, tmp_path: Path) -> None:
    wild, clash, hinged = bulk("MgO", "rocksalt", 4.3, cubic=True), molecule("H2O"), molecule("H2O")
    clash.positions[1] = clash.positions[0]
    hinged.set_constraint(FixBondLength(0, 1))
    structures, names = [wild, Atoms("Mg"), clash, hinged, Atoms("O")], ["a", "b", "c", "d", "e"]
    (tmp_path / "e.traj").touch()
    config = MDConfig(ensemble="nve", steps=20, interval=2, timestep=150.0, temperature=3000.0)
    found = dynamics_many(structures, calculator, config, tmp_path, names=names)
    assert (found[0].error or "").startswith("the run exploded after step")
    assert f"{found[0].trajectory} keeps the frames up to step" in (found[0].error or "")
    assert "are 0 Å apart" in (found[2].error or "")
    assert "FixBondLengths is not known to batches" in (found[3].error or "")
    assert "e.traj exists; go on with that run (resume), or name another file" in (found[4].error or "")
    assert all(found[i].summary is None for i in (0, 2, 3, 4))
    assert len(read(found[0].trajectory, ":")) >= 1
    assert found[1].summary is not None
    assert found[1].summary.steps == 20


def test_another_potential_does_not_go_on(calculator: GFMCalculator, tmp_path: Path) -> None:
    config = MDConfig(ensemble="nve", steps=2, interval=1)
    dynamics_many([molecule("H2O")], calculator, config, tmp_path)
    other = GFMCalculator(head=calculator.potential.branch_names[0], precision="fp64")
    (found,) = dynamics_many([molecule("H2O")], other, dataclasses.replace(config, steps=4), tmp_path, resume=True)
    assert "go on with the model, head, precision, charge and spin that the run was made with" in (found.error or "")


def test_ensembles_that_batches_do_not_have(calculator: GFMCalculator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batches run nve and nvt-langevin, got npt; use run_md"):
        dynamics_many([bulk("Cu")], calculator, MDConfig(ensemble="npt"), tmp_path)
    with pytest.raises(ValueError, match="names: expected one for each of the 1 structures, got 0"):
        dynamics_many([bulk("Cu")], calculator, MDConfig(), tmp_path, names=[])


DAMAGES = {
    "cut after the last comma": lambda text: text[: text.rindex(",") + 1],
    "cut in the last number": lambda text: text[:-8],
    "nonsense in the last row": lambda text: text[: text.rindex(",")] + ",nonsense\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_row_is_written_again(calculator: GFMCalculator, tmp_path: Path, damage: str) -> None:
    config = MDConfig(ensemble="nve", steps=4, interval=2)
    (one,) = dynamics_many([molecule("H2O")], calculator, config, tmp_path)
    whole = one.log.read_text()
    one.log.write_text(DAMAGES[damage](whole))
    (again,) = dynamics_many([molecule("H2O")], calculator, config, tmp_path, resume=True)
    assert again.error is None
    found, want = (np.genfromtxt(text.splitlines(), delimiter=",") for text in (one.log.read_text(), whole))
    assert found[1:] == pytest.approx(want[1:], abs=1e-7)


def test_one_bad_table_does_not_stop_the_others(calculator: GFMCalculator, tmp_path: Path) -> None:
    config = MDConfig(ensemble="nve", steps=4, interval=2)
    structures = [molecule("H2O"), molecule("CH4"), molecule("NH3")]
    foreign, torn, _ = dynamics_many(structures, calculator, config, tmp_path)
    foreign.log.write_text("a,b\n1,2\n")
    torn.log.write_text(torn.log.read_text().replace("\n2,", "\nnonsense,"))
    longer = dataclasses.replace(config, steps=6)
    found = dynamics_many(structures, calculator, longer, tmp_path, resume=True)
    assert "is not the table of this run: it has the columns ['a', 'b']" in (found[0].error or "")
    assert "1.csv, line 3: expected" in (found[1].error or "")
    assert found[2].error is None
    assert found[2].summary is not None
    assert found[2].summary.steps_run == 2
    assert foreign.log.read_text() == "a,b\n1,2\n"
