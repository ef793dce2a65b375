"""What benchmarks/accuracy.py measures, with ASE's EMT and Lennard-Jones potentials as the models."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from gfmpot.data import split_of_group

QUICK = argparse.Namespace(quick=True, md_references=False, data=None, plots=None, model="emt")


@pytest.fixture(scope="module")
def emt(load: Callable[[str], ModuleType]) -> list[Any]:
    return [load("accuracy_models").Model("EMT", EMT())]


def test_lattice_constant_and_modulus_of_emt(load: Any, emt: Any, tmp_path: Path, capsys: Any) -> None:
    crystals = load("accuracy_crystals")
    found = crystals.run(emt, QUICK)
    aluminium = found["rows"]["EMT"]["Al"]
    assert aluminium["lattice constant (Å)"] == pytest.approx(3.994, abs=0.01)  # EMT's own
    assert aluminium["bulk modulus (GPa)"] == pytest.approx(39.3, abs=3.0)
    assert found["references"]["Al"]["lattice constant (Å)"] == pytest.approx(4.040, abs=0.001)
    assert found["summary"]["EMT"]["failed"] == 3  # EMT knows no Si, Mg, or MgO
    crystals.show(found)
    assert "EMT failed at Mg" in capsys.readouterr().out
    crystals.draw(found, tmp_path)
    assert (tmp_path / "accuracy_crystals.png").exists()


def test_what_squeezing_costs(load: Any, emt: Any, tmp_path: Path, capsys: Any) -> None:
    pressure = load("accuracy_pressure")
    found = pressure.run(emt, QUICK)
    assert found["summary"]["EMT"] == {"crystals": 3, "failed": 2, "hold": 0}
    aluminium = found["rows"]["EMT"]["Al"]
    assert aluminium["half the volume (eV/atom)"] == pytest.approx(aluminium["energies (eV/atom)"][20])
    assert aluminium["holds down to"] == 0.61  # EMT was not made for this
    assert found["expected"]["Al"] == pytest.approx(3.04, abs=0.05)
    pressure.show(found)
    assert "EMT 0 of 3" in capsys.readouterr().out
    pressure.draw(found, tmp_path)
    assert (tmp_path / "accuracy_pressure.png").exists()


def test_collapse_is_seen(load: Any) -> None:
    pressure = load("accuracy_pressure")
    rise = 10 * (1 - pressure.LENGTHS) ** 2
    assert pressure.measured(rise)["holds"]
    collapsed = np.where(pressure.LENGTHS < 0.645, -5.0, rise)
    found = pressure.measured(collapsed)
    assert (found["holds"], found["holds down to"]) == (False, 0.65)
    shifted = 10 * (0.97 - pressure.LENGTHS) ** 2  # a model whose own lattice constant is smaller
    assert pressure.measured(shifted)["holds"]


def test_phonons_of_emt(load: Any, emt: Any, tmp_path: Path) -> None:
    pytest.importorskip("phonopy")
    phonons = load("accuracy_phonons")
    crystal = next(one for one in load("accuracy_pbe").crystals() if one.name == "Cu")
    found = phonons._phonons(emt[0], crystal)
    assert found["stable"]
    assert 6.0 < found["highest (THz)"] < 9.0
    assert found["bands"]["labels"][0] == "Γ"
    part = {"rows": {"EMT": {"Cu": found}}, "summary": {"EMT": {"crystals": 1, "stable": 1}}}
    phonons.show(part)
    phonons.draw(part, tmp_path)


def test_torsions_turn_one_side_about_the_middle_bond(load: Any) -> None:
    inputs = load("accuracy_scan_inputs")
    for scan in inputs.torsions(inputs.ANGLES[:5]):
        kinds = {tuple(sorted(load("accuracy_bonds").bonded(frame))) for frame in scan.frames[1:]}
        assert len(kinds) == 1, scan.name  # no bond breaks or forms
    butane = next(scan for scan in inputs.torsions(np.array([40.0])) if scan.name == "butane")
    dihedral, side = inputs._about(butane.frames[0], "CC")
    assert butane.frames[0].symbols[dihedral].get_chemical_formula() == "C4"
    assert butane.frames[0].get_dihedral(*dihedral) == pytest.approx(40.0)
    assert sum(side) == 7


def test_waters_are_moved_along_their_oxygens(load: Any) -> None:
    inputs = load("accuracy_scan_inputs")
    scan = inputs.dimer(np.array([2.5, 6.0]))
    apart = [frame.get_distance(*np.flatnonzero(frame.numbers == 8)) for frame in scan.frames]
    assert apart == pytest.approx([2.5, 6.0])
    assert [len(one) for one in scan.alone] == [3, 3]


def test_scan_of_lennard_jones_atoms(load: Any) -> None:
    scans = load("accuracy_scans")
    pairs = [Atoms("Ar2", positions=[(0, 0, 0), (0, 0, r)]) for r in (1.0, 2 ** (1 / 6), 2.0)]
    scan = load("accuracy_scan_inputs").Scan("pair", [1.0, 1.12, 2.0], "Å", pairs, (Atoms("Ar"), Atoms("Ar")))
    model = load("accuracy_models").Model("LJ", LennardJones(rc=100.0))
    row = scans._energies(model, scan)
    assert row["energies (meV)"] == pytest.approx([0.0, -1000.0, 1000 * 4 * (2.0**-12 - 2.0**-6)], abs=0.01)
    assert scans._errors(row, row, "Å") == {"height (meV)": pytest.approx(-1000.0, abs=0.01), "rmse (meV)": 0.0}


def test_boxes_have_their_density(load: Any) -> None:
    systems = load("accuracy_md_systems").systems()
    assert {name: len(atoms) for name, atoms in systems.items()}["water"] == 96
    assert all(32 <= len(atoms) <= 108 for atoms in systems.values())
    for name, density in (("water", 0.997), ("ethanol", 0.789)):
        mass = systems[name].get_masses().sum() / systems[name].get_volume() / 0.602214
        assert mass == pytest.approx(density, rel=1e-3)
        assert len(set(load("accuracy_bonds").fragments(systems[name]))) == {"water": 32, "ethanol": 8}[name]


def test_atoms_that_collide_end_a_run(load: Any) -> None:
    models, md = load("accuracy_models"), load("accuracy_md")
    soft = models.Model("soft", LennardJones(sigma=0.3, epsilon=3.0, rc=3.0))
    row = md._simulated(soft, "ethanol", md.systems()["ethanol"], 1000, models.Progress("", 1000))
    assert not row["survived"]
    assert "Å" in row["end"]
    assert row["ps"] < 0.5
    row = md._simulated(models.Model("EMT", EMT()), "Cu", bulk("Cu", cubic=True) * 2, 50, models.Progress("", 50))
    assert row["end"] in ("survived", f"mean temperature of {row['mean temperature (K)']:.0f} K")
    row = md._simulated(models.Model("EMT", EMT()), "Fe", md.systems()["Fe"], 50, models.Progress("", 50))
    assert (row["ps"], row["survived"]) == (0.0, False)


def test_dynamics_go_on_after_a_kill(load: Any, emt: Any, monkeypatch: Any) -> None:
    md, simulated = load("accuracy_md"), []

    def row(model: Any, name: str, *_: Any) -> dict[str, Any]:
        simulated.append(name)
        return {"survived": name != "MgO", "end": ""}

    monkeypatch.setattr(md, "_simulated", row)
    kept: list[Any] = []
    md.run(emt, argparse.Namespace(**{**vars(QUICK), "systems": ["MgO", "Cu"]}), keep=kept.append)
    assert [list(part["rows"]["EMT"]) for part in kept] == [["Cu"], ["Cu", "MgO"]]
    given = argparse.Namespace(**{**vars(QUICK), "systems": ["Cu", "Fe", "MgO"]})
    found = md.run(emt, given, before=kept[0])
    assert simulated == ["Cu", "MgO", "Fe", "MgO"]
    assert found["survived"] == {"EMT": [2, 3]}
    md.run(emt, given, before=found)
    assert simulated[4:] == ["Cu", "Fe", "MgO"]


def test_fused_molecules_and_wrong_temperatures_are_no_survivors(load: Any) -> None:
    watch = load("accuracy_md_watch").Watch
    start = Atoms("O2", positions=[(0, 0, 0), (0, 0, 4)])
    end = watch(Atoms("O2", positions=[(0, 0, 0), (0, 0, 1.3)]))
    end.temperatures = [1000.0, 1100.0]
    assert end.end(start, molecular=True) == "1 bonds between molecules"
    assert end.end(start, molecular=False) is None
    end.temperatures = [1000.0, 1600.0]
    assert end.end(start, molecular=False) == "mean temperature of 1600 K"


def packed(path: Path, name: str, frames: list[tuple[str, Atoms, float, float]]) -> None:
    """A set of one-element crystals: group, structure, force and stress."""
    labels = [label for label, *_ in frames]
    np.savez(
        path / f"{name}.npz",
        natoms=[len(atoms) for _, atoms, *_ in frames],
        numbers=np.concatenate([atoms.numbers for _, atoms, *_ in frames]),
        positions=np.concatenate([atoms.positions for _, atoms, *_ in frames]),
        cell=[atoms.cell.array for _, atoms, *_ in frames],
        forces=np.concatenate([np.full((len(atoms), 3), force / 3**0.5) for _, atoms, force, _ in frames]),
        stress=[[stress] * 6 for *_, stress in frames],
        group=[sorted(set(labels)).index(label) for label in labels],
        group_labels=sorted(set(labels)),
    )


def test_unseen_crystals_are_calm_and_of_the_test_side(load: Any, emt: Any, tmp_path: Path, capsys: Any) -> None:
    tests = [name for name in map("group-{}".format, range(2000)) if split_of_group(name) == "test"]
    train = next(name for name in map("group-{}".format, range(100)) if split_of_group(name) == "train")
    copper, tight = bulk("Cu", a=3.6), bulk("Cu", a=3.3)
    packed(tmp_path, "alexandria", [(tests[0], copper, 0.01, 0.0), (train, copper, 0.0, 0.0)])
    packed(tmp_path, "mptrj_random", [(tests[1], copper, 0.1, 0.0), (tests[2], copper, 0.0, 0.1)])
    packed(tmp_path, "chgnet_pbe_u", [(tests[3], tight, 0.0, 0.2), (tests[3], copper, 0.1, 0.0)])
    begin = load("accuracy_unseen").starts(tmp_path, 5)
    assert [(one.name, one.source) for one in begin] == [(tests[0], "PBE"), (tests[3], "CHGNet")]
    assert begin[1].atoms.get_volume() == pytest.approx(copper.get_volume(), rel=1e-6)
    part = load("accuracy_relaxations")
    found = part.run(emt, argparse.Namespace(**{**vars(QUICK), "data": tmp_path}))
    summary = found["summary"]["EMT"]
    assert (summary["converged (%)"], summary["failed"]) == (100.0, 0)
    assert summary["volume MAPE (%)"]["PBE"] < 2.0
    part.show(found)
    part.draw(found, tmp_path)
    assert "EMT" in capsys.readouterr().out


def test_missing_data_is_said(load: Any, emt: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--data"):
        load("accuracy_relaxations").run(emt, QUICK)
    with pytest.raises(ValueError, match=r"no alexandria\.npz in"):
        load("accuracy_unseen").starts(tmp_path, 5)
    given = argparse.Namespace(model="default", heads=[], references=["chgnet"], envs=tmp_path, threads=1)
    with pytest.raises(ValueError, match=r"envs/README\.md"):
        load("accuracy_models")._reference("chgnet", given, None)


def test_calculator_of_another_environment(load: Any) -> None:
    remote = load("accuracy_remote")
    calculator = remote.Remote("emt", Path(sys.executable), 1)
    try:
        atoms, local = bulk("Cu", cubic=True), bulk("Cu", cubic=True)
        for each, calc in ((atoms, calculator), (local, EMT())):
            each.rattle(0.1, seed=0)
            each.calc = calc
        np.testing.assert_allclose(atoms.get_forces(), local.get_forces(), atol=1e-12)
        np.testing.assert_allclose(atoms.get_stress(), local.get_stress(), atol=1e-12)
        assert atoms.get_potential_energy() == pytest.approx(local.get_potential_energy())
        silicon = bulk("Si")
        silicon.calc = calculator
        with pytest.raises(remote.RemoteError, match="No EMT-potential for Si"):
            silicon.get_potential_energy()
        calculator.process.send_signal(signal.SIGSTOP)  # so that it ends while it is asked
        threading.Timer(0.5, calculator.process.kill).start()
        atoms.rattle(0.1, seed=1)
        with pytest.raises(remote.RemoteError, match="its process ended"):
            atoms.get_potential_energy()
        local.positions = atoms.positions
        assert atoms.get_potential_energy() == pytest.approx(local.get_potential_energy())
    finally:
        calculator.close()
    assert calculator.process.returncode == 0


def test_parts_that_are_not_run_again_are_kept(
    load: Any, emt: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    accuracy, file = load("accuracy"), tmp_path / "out.json"
    file.write_text(json.dumps({"parts": {"crystals": {"kept": 1}}}))
    monkeypatch.setattr(accuracy, "open_models", lambda given, stack: emt)
    arguments = ["--only", "relaxations", "scans", "--quick", "--threads", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["accuracy.py", *arguments])
    with pytest.raises(SystemExit, match="a part that was asked for was skipped"):
        accuracy.main()
    parts = json.loads(file.read_text())["parts"]
    assert parts["crystals"] == {"kept": 1}
    assert parts["scans"]["rows"]["EMT"]["ethane"]["height (meV)"] > 0
    assert "relaxations was skipped: it needs --data" in capsys.readouterr().err
