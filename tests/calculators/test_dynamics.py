"""Molecular dynamics: ensembles, records, resumption after any death, explosions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read, write

from gfmpot.calculators import GFMCalculator
from gfmpot.calculators.dynamics import DynamicsError, Ensemble, MDConfig, MDSummary, draw_velocities, run_md
from gfmpot.calculators.md_record import shortest_distance
from gfmpot.graph import InvalidStructureError
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig
from gfmpot.models.backbones.painn import PaiNNConfig

ENSEMBLES = get_args(Ensemble)


def copper() -> Atoms:
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.calc = EMT()
    return atoms


def run(folder: Path, atoms: Atoms | None = None, name: str = "a", resume: bool = False, **settings: Any) -> MDSummary:
    config = MDConfig(**{"timestep": 2.0, "steps": 30, "interval": 5, **settings})
    files = {"trajectory": folder / f"{name}.traj", "log": folder / f"{name}.csv"}
    return run_md(atoms or copper(), config, resume=resume, **files)


def frames(folder: Path, name: str = "a") -> list[Atoms]:
    return read(folder / f"{name}.traj", ":")  # type: ignore[no-any-return]


def table(folder: Path, name: str = "a") -> np.ndarray:
    return np.genfromtxt(folder / f"{name}.csv", delimiter=",", names=True)


def test_nve_conserves_the_energy(tmp_path: Path) -> None:
    summary = run(tmp_path, ensemble="nve", steps=200)
    rows = table(tmp_path)
    assert np.ptp(rows["etot_eV"]) < 5e-3
    assert np.ptp(rows["ekin_eV"]) > 0.3  # there was something to conserve
    assert summary.drift is not None
    assert abs(summary.drift) < 0.2


def test_summary_and_table_tell_the_same(tmp_path: Path) -> None:
    summary = run(tmp_path, ensemble="nve")
    rows = table(tmp_path)
    assert rows["step"].tolist() == [0, 5, 10, 15, 20, 25, 30]
    assert rows["time_ps"][-1] == pytest.approx(0.06)
    assert summary.temperature_mean == pytest.approx(rows["temperature_K"].mean(), abs=0.01)
    assert summary.temperature_std == pytest.approx(rows["temperature_K"].std(), abs=0.01)
    assert summary.max_force == pytest.approx(rows["max_force_eV_per_A"].max())
    assert summary.min_distance == pytest.approx(rows["min_distance_A"].min())
    slope = np.polyfit(rows["time_ps"], rows["etot_eV"], 1)[0]
    assert summary.drift == pytest.approx(1000 * slope / 32, rel=1e-3)
    assert (summary.steps, summary.steps_run) == (30, 30)
    assert summary.ns_per_day == pytest.approx(30 * 2e-6 / summary.wall_time * 86400)


def test_frames_hold_what_the_table_says(tmp_path: Path) -> None:
    summary = run(tmp_path, ensemble="npt", pressure=1.0)
    rows = table(tmp_path)
    for frame, row in zip(frames(tmp_path), rows, strict=True):
        assert frame.get_potential_energy() == pytest.approx(row["epot_eV"], abs=1e-7)
        assert frame.get_kinetic_energy() == pytest.approx(row["ekin_eV"], abs=1e-7)
        assert np.linalg.norm(frame.get_forces(), axis=1).max() == pytest.approx(row["max_force_eV_per_A"], abs=1e-7)
        stress = frame.get_stress(include_ideal_gas=True) / units.GPa
        assert stress[3] == pytest.approx(row["stress_yz_GPa"], abs=1e-6)
        assert -stress[:3].mean() == pytest.approx(row["pressure_GPa"], abs=1e-6)
    assert frames(tmp_path)[-1].cell.array == pytest.approx(summary.atoms.cell.array)
    assert np.ptp([frame.get_volume() for frame in frames(tmp_path)]) > 0.1


def test_the_start_is_not_changed(tmp_path: Path) -> None:
    atoms = copper()
    before = atoms.copy()
    run(tmp_path, atoms)
    assert np.array_equal(atoms.positions, before.positions)
    assert not atoms.get_momenta().any()
    assert atoms.info == {}


@pytest.mark.parametrize("ensemble", ["nvt-langevin", "nvt-nose-hoover"])
def test_thermostats_reach_their_temperature(tmp_path: Path, ensemble: str) -> None:
    settings = {"ensemble": ensemble, "steps": 500, "temperature": 400.0, "timestep": 4.0, "friction": 20.0}
    run(tmp_path, **settings, ttime=50.0)
    assert table(tmp_path)["temperature_K"][40:].mean() == pytest.approx(400, abs=50)


def test_extended_energy_is_conserved_and_langevin_has_none(tmp_path: Path) -> None:
    for ensemble in ("nvt-nose-hoover", "npt"):
        run(tmp_path, name=ensemble, ensemble=ensemble, steps=100)
        rows = table(tmp_path, ensemble)
        assert np.ptp(rows["conserved_eV"]) < 5e-3
        assert np.ptp(rows["etot_eV"]) > 0.05
    assert run(tmp_path, name="l", ensemble="nvt-langevin").drift is None
    assert "conserved_eV" not in (table(tmp_path, "l").dtype.names or ())


def test_npt_follows_the_pressure(tmp_path: Path) -> None:
    settings = {"ensemble": "npt", "steps": 180, "ptime": 150.0, "timestep": 3.0, "temperature": 100.0}
    volume = {}
    for pressure in (0.0, 20.0):
        run(tmp_path, name=f"p{pressure}", pressure=pressure, **settings)
        volume[pressure] = np.mean([frame.get_volume() for frame in frames(tmp_path, f"p{pressure}")[12:]])
    assert volume[0.0] == pytest.approx(copper().get_volume(), rel=0.02)
    assert 0.87 < volume[20.0] / volume[0.0] < 0.90  # the bulk modulus is 140 GPa, and grows


def test_velocities_are_maxwell_boltzmann_without_motion_of_the_whole() -> None:
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True).repeat(5)
    state = np.random.get_state()[1].copy()  # noqa: NPY002 (the global generator must stay untouched)
    draw_velocities(atoms, 500.0, np.random.default_rng(1))
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert atoms.get_temperature() == pytest.approx(500, rel=0.05)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-10
    for symbol in ("Na", "Cl"):
        kinetic = atoms[atoms.symbols == symbol].get_velocities() ** 2 * atoms[atoms.symbols == symbol].get_masses()[0]
        assert kinetic.sum(axis=1).mean() / (3 * units.kB) == pytest.approx(500, rel=0.08)


@pytest.mark.parametrize("formula", ["CH4", "CO2", "N2"])
def test_molecules_do_not_start_to_turn(formula: str) -> None:
    atoms = molecule(formula)
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    assert np.isfinite(atoms.get_momenta()).all()
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-10
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-10
    assert atoms.get_kinetic_energy() > 0


def test_one_atom_keeps_its_velocity() -> None:
    atoms = Atoms("Cu")
    draw_velocities(atoms, 300.0, np.random.default_rng(0))
    assert atoms.get_kinetic_energy() > 0


def test_velocities_of_the_start_are_kept_and_seeds_matter(tmp_path: Path) -> None:
    moving = copper()
    moving.set_momenta(np.full((32, 3), 0.5))
    run(tmp_path, moving, "own", ensemble="nve", steps=1)
    assert np.array_equal(frames(tmp_path, "own")[0].get_momenta(), moving.get_momenta())
    first, again, other = (run(tmp_path, name=f"s{i}", steps=3, seed=s).atoms for i, s in enumerate((1, 1, 2)))
    assert np.array_equal(first.positions, again.positions)
    assert np.abs(first.positions - other.positions).max() > 1e-3


def test_constraints_hold(tmp_path: Path) -> None:
    atoms = copper()
    atoms.set_constraint(FixAtoms([0, 1]))
    final = run(tmp_path, atoms, ensemble="nvt-langevin").atoms
    assert np.array_equal(final.positions[:2], atoms.positions[:2])
    assert np.abs(final.positions[2:] - atoms.positions[2:]).max() > 0.01
    resumed = run(tmp_path, atoms, ensemble="nvt-langevin", steps=40, resume=True).atoms
    assert np.array_equal(resumed.positions[:2], atoms.positions[:2])
    with pytest.raises(ValueError, match="wrong temperature; use nvt-langevin or nve"):
        run(tmp_path, atoms, "b", ensemble="nvt-nose-hoover")


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_resumed_run_takes_the_same_path(tmp_path: Path, ensemble: str) -> None:
    whole = run(tmp_path, name="whole", ensemble=ensemble, steps=40)
    run(tmp_path, name="parts", ensemble=ensemble, steps=15)
    parts = run(tmp_path, name="parts", ensemble=ensemble, steps=40, resume=True)
    assert (parts.steps, parts.steps_run) == (40, 25)
    assert parts.atoms.positions == pytest.approx(whole.atoms.positions, abs=1e-9)
    assert parts.atoms.get_momenta() == pytest.approx(whole.atoms.get_momenta(), abs=1e-8)
    assert [frame.info["md"]["step"] for frame in frames(tmp_path, "parts")] == list(range(0, 41, 5))
    names = table(tmp_path, "whole").dtype.names or ()
    for column in names:
        assert table(tmp_path, "parts")[column] == pytest.approx(table(tmp_path, "whole")[column], abs=1e-6)
    assert parts.drift == whole.drift or parts.drift == pytest.approx(whole.drift, abs=1e-3)


@pytest.mark.parametrize("cut", [1, 40, 400, 1500])
def test_a_torn_last_frame_is_dropped(tmp_path: Path, cut: int) -> None:
    whole = run(tmp_path, name="whole", steps=40)
    run(tmp_path, name="torn", steps=20)
    file, log = tmp_path / "torn.traj", tmp_path / "torn.csv"
    file.write_bytes(file.read_bytes()[:-cut])
    log.write_text(log.read_text()[:-20])
    resumed = run(tmp_path, name="torn", steps=40, resume=True)
    assert resumed.steps_run == 25
    assert resumed.atoms.positions == pytest.approx(whole.atoms.positions, abs=1e-9)
    assert [frame.info["md"]["step"] for frame in frames(tmp_path, "torn")] == list(range(0, 41, 5))
    assert table(tmp_path, "torn")["step"].tolist() == list(range(0, 41, 5))
    assert not list(tmp_path.glob("*.partial"))


def test_half_a_frame_after_the_last_is_no_obstacle(tmp_path: Path) -> None:
    run(tmp_path, steps=20)
    with (tmp_path / "a.traj").open("ab") as file:
        file.write(b"x" * 777)
    run(tmp_path, steps=30, resume=True)
    assert [frame.info["md"]["step"] for frame in frames(tmp_path)] == list(range(0, 31, 5))
    assert np.isfinite([frame.get_potential_energy() for frame in frames(tmp_path)]).all()


def test_a_run_that_died_before_its_first_frame_begins(tmp_path: Path) -> None:
    (tmp_path / "a.traj").write_bytes(b"")
    assert run(tmp_path, steps=10, resume=True).steps_run == 10
    assert run(tmp_path, name="new", steps=10, resume=True).steps_run == 10


def test_nothing_left_to_do_and_odd_ends(tmp_path: Path) -> None:
    run(tmp_path, steps=12)
    again = run(tmp_path, steps=12, resume=True)
    assert again.steps_run == 0
    assert np.isnan(again.ns_per_day)
    run(tmp_path, steps=20, interval=10, resume=True)
    assert [frame.info["md"]["step"] for frame in frames(tmp_path)] == [0, 5, 10, 12, 20]


def test_a_lost_table_begins_where_the_run_goes_on(tmp_path: Path) -> None:
    run(tmp_path, steps=20)
    (tmp_path / "a.csv").unlink()
    run(tmp_path, steps=30, resume=True)
    assert table(tmp_path)["step"].tolist() == [20, 25, 30]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match="exists; go on with that run"):
        run(tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(temperature was 300.0, now 10.0\)"):
        run(tmp_path, temperature=10.0, resume=True)
    with pytest.raises(ValueError, match="holds Cu32, but the structure to go on with is Cu4"):
        run(tmp_path, with_emt(copper()[:4]), resume=True)
    write(tmp_path / "foreign.traj", copper())
    with pytest.raises(ValueError, match="not written by gfmpot's dynamics"):
        run(tmp_path, name="foreign", resume=True)
    (tmp_path / "text.traj").write_text("no trajectory")
    with pytest.raises(ValueError, match="no ASE trajectory"):
        run(tmp_path, name="text", resume=True)
    with pytest.raises(ValueError, match="attach a calculator first"):
        run(tmp_path, bulk("Cu"), "b")
    with pytest.raises(ValueError, match="periodic in three directions"):
        run(tmp_path, with_emt(molecule("N2")), "b", ensemble="npt")


def with_emt(atoms: Atoms) -> Atoms:
    atoms.calc = EMT()
    return atoms


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ensemble": "nvp"}, "no ensemble 'nvp'; did you mean"),
        ({"timestep": 0.0}, "timestep must be positive, got 0"),
        ({"interval": 0}, "interval must be positive"),
        ({"steps": -1}, "steps must not be negative"),
        ({"temperature": float("nan")}, "temperature must not be negative, got nan"),
        ({"temperature": 0.0}, "needs a temperature above 0 K"),
        ({"pressure": 1.0}, "only npt has a pressure"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MDConfig(**settings)


class Failing(Calculator):  # type: ignore[misc]
    """EMT for a while, then something else."""

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress"]

    def __init__(self, after: int, with_error: bool) -> None:
        super().__init__()
        self.after, self.with_error, self.calls, self.inner = after, with_error, 0, EMT()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, changes)
        self.calls += 1
        self.inner.calculate(self.atoms, ["energy", "forces", "stress"], changes)
        self.results = dict(self.inner.results)
        if self.calls > self.after and self.with_error:
            raise InvalidStructureError("atoms 3 and 4 are 0.01 Å apart")
        if self.calls > self.after:
            self.results["forces"] = np.full((len(self.atoms), 3), np.nan)


def test_a_start_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    atoms = molecule("CH4")
    atoms.positions[2, 0] = np.nan
    atoms.calc = GFMCalculator()
    with pytest.raises(InvalidStructureError, match="atom 2 has a position that is not finite"):
        run_md(atoms, MDConfig(steps=1), trajectory=tmp_path / "a.traj", log=tmp_path / "a.csv")


@pytest.mark.parametrize(("with_error", "reason"), [(True, "0.01 Å apart"), (False, "not finite")])
def test_a_breakdown_names_the_step_and_keeps_the_trajectory(tmp_path: Path, with_error: bool, reason: str) -> None:
    atoms = copper()
    atoms.calc = Failing(13, with_error)
    with pytest.raises(DynamicsError, match=reason) as caught:
        run(tmp_path, atoms, ensemble="nve")
    failed = 12 if with_error else 13
    assert f"after step {failed} " in str(caught.value)
    assert "keeps the frames up to step 10" in str(caught.value)
    assert [frame.info["md"]["step"] for frame in frames(tmp_path)] == [0, 5, 10]
    assert table(tmp_path)["step"].tolist() == [0, 5, 10]


def test_an_integrator_that_overflows_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(DynamicsError, match=r"after step \d+ .* not finite.*a ptime above 60 fs"):
        run(tmp_path, ensemble="npt", pressure=20.0, ptime=60.0, timestep=4.0)
    assert np.isfinite(frames(tmp_path)[-1].positions).all()


def test_an_explosion_is_stopped(tmp_path: Path) -> None:
    atoms = copper()
    atoms.rattle(0.1, seed=1)
    with pytest.raises(DynamicsError, match=r"the temperature reached .* K"):
        run(tmp_path, atoms, ensemble="nve", timestep=150.0, steps=500)
    assert len(frames(tmp_path)) >= 1


def test_molecules_have_no_stress_columns(tmp_path: Path) -> None:
    run(tmp_path, with_emt(molecule("N2")), ensemble="nve", timestep=0.5)
    assert "pressure_GPa" not in (table(tmp_path).dtype.names or ())
    assert "stress" not in frames(tmp_path)[0].calc.results


def test_shortest_distance() -> None:
    assert shortest_distance(bulk("Cu")) == pytest.approx(3.61 / np.sqrt(2))
    assert shortest_distance(Atoms("H2", [[0, 0, 0], [0, 0, 7.0]])) == pytest.approx(7.0)
    assert np.isnan(shortest_distance(Atoms("H")))


def tiny() -> Potential:
    config = PotentialConfig(PaiNNConfig(hidden=8, layers=2, cutoff=4.0), HeadConfig(shared_layers=0, branch_width=8))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Potential(config, [BranchInfo("a-pbe0", e0={"H": -1.0, "C": -9.0}, states=((0, 0), (1, 0)))])


def test_progress_and_charge_with_the_model(tmp_path: Path) -> None:
    atoms = molecule("CH4")
    atoms.info["charge"] = 1
    atoms.calc = GFMCalculator(tiny(), precision="fp64", device="cpu")
    seen: list[int] = []
    config = MDConfig("nve", temperature=50.0, timestep=0.5, steps=20)
    files = {"trajectory": tmp_path / "a.traj", "log": tmp_path / "a.csv"}
    whole = run_md(atoms, config, **files, on_step=seen.append)
    assert seen == list(range(1, 21))
    assert np.ptp(table(tmp_path)["etot_eV"]) < 1e-4
    assert frames(tmp_path)[-1].info["charge"] == 1
    longer = dataclasses.replace(config, steps=30)
    resumed = run_md(atoms, longer, **files, resume=True)
    straight = run_md(atoms, longer, trajectory=tmp_path / "b.traj", log=tmp_path / "b.csv")
    assert resumed.steps_run == 10
    assert resumed.atoms.positions == pytest.approx(straight.atoms.positions, abs=1e-9)
    assert whole.min_distance > 0.9


def test_another_potential_does_not_go_on(tmp_path: Path) -> None:
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.lj import LennardJones

    atoms = bulk("Cu", cubic=True)
    paths = {"trajectory": tmp_path / "x.traj", "log": tmp_path / "x.csv"}
    atoms.calc = EMT()
    run_md(atoms, MDConfig(ensemble="nve", steps=3), **paths)
    atoms.calc = LennardJones(sigma=2.3, epsilon=0.4)
    with pytest.raises(ValueError, match="with this calculator: go on with the model"):
        run_md(atoms, MDConfig(ensemble="nve", steps=6), resume=True, **paths)
    atoms.calc = EMT()
    assert run_md(atoms, MDConfig(ensemble="nve", steps=6), resume=True, **paths).steps == 6
