"""``gfmpot predict``: numbers, files of all kinds, and bad ones among good ones."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write
from pymatgen.core import Lattice, Molecule, Structure

from gfmpot import GFMCalculator
from gfmpot.cli import output
from gfmpot.cli import predict as module
from gfmpot.graph import AtomGraph
from gfmpot.models import Potential

COLUMNS = [
    *["file", "frame", "formula", "natoms", "energy", "energy_per_atom", "max_force", "energy_std", "branch_weights"],
]


@pytest.fixture(scope="module")
def calculator(tiny_model: Path) -> GFMCalculator:
    return GFMCalculator(tiny_model, precision="fp64", device="cpu")


@pytest.fixture
def predict(call, tiny_model: Path):
    def run(*arguments: object, code: int = 0):
        return call("predict", *arguments, "--model", tiny_model, "--precision", "fp64", code=code)

    return run


def structures() -> list[Atoms]:
    solid = bulk("MgO", "rocksalt", 4.2)
    solid.rattle(0.05, seed=1)
    return [molecule("CH4"), solid, molecule("H2O")]


def records(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def test_what_does_not_fit_into_memory_is_told(
    predict, calculator: GFMCalculator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Potential.forward

    def call(self: Potential, graph: AtomGraph, **options: Any) -> Any:
        if graph.n_atoms > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, graph, **options)

    write("a.extxyz", [*structures(), bulk("Cu", cubic=True) * (2, 2, 1)])
    monkeypatch.setattr(Potential, "forward", call)
    result = predict("a.extxyz", "-o", "a.json", code=1)
    assert "do not fit into the memory of cpu" in " ".join(result.output.split())
    assert [found["formula"] for found in records(tmp_path / "a.json")] == ["CH4", "MgO", "H2O"]


def test_values_are_the_calculators(predict, calculator: GFMCalculator, tmp_path: Path) -> None:
    write("a.extxyz", structures())
    predict("a.extxyz", "-o", "a.json")
    for i, (found, atoms) in enumerate(zip(records(tmp_path / "a.json"), read("a.extxyz", ":"), strict=True)):
        atoms.calc = calculator
        assert list(found) == COLUMNS
        assert (found["file"], found["frame"], found["natoms"]) == ("a.extxyz", i, len(atoms))
        assert found["formula"] == atoms.get_chemical_formula()
        assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        assert found["energy_per_atom"] == pytest.approx(found["energy"] / len(atoms))
        assert found["max_force"] == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=1e-9)
        assert found["branch_weights"] == pytest.approx(calculator.results["branch_weights"])
    assert records(tmp_path / "a.json")[1]["energy_std"] is None  # a single branch knows Mg
    assert records(tmp_path / "a.json")[0]["energy_std"] > 0


def test_the_table_is_printed(predict) -> None:
    write("a.extxyz", structures())
    result = predict("a.extxyz")
    for header in ("(eV)", "(eV/atom)", "(eV/Å)", "branch weights"):
        assert header in result.stdout
    lines = [line.split() for line in result.stdout.splitlines() if line.strip().startswith("a.extxyz")]
    assert [line[:4] for line in lines] == [
        ["a.extxyz", "0", "CH4", "5"],
        ["a.extxyz", "1", "MgO", "2"],
        ["a.extxyz", "2", "H2O", "3"],
    ]
    assert lines[1][7:] == ["–", "solids-pbe", "1.00"]


def test_novelty_tells_which_structures_are_foreign(call, tmp_path: Path) -> None:
    crystal = bulk("MgO", "rocksalt", 4.2)
    squeezed = crystal.copy()
    squeezed.set_cell(0.55 * crystal.cell.array, scale_atoms=True)
    write("a.extxyz", [crystal, squeezed])
    result = call("predict", "a.extxyz", "-o", "a.json")
    assert "novelty" in result.stdout
    usual, foreign = (record["novelty"] for record in records(tmp_path / "a.json"))
    assert usual < 1.0 < foreign
    call("predict", "a.extxyz", "-o", "b.extxyz")
    assert read("b.extxyz", 1).arrays["novelty"].max() == pytest.approx(foreign, rel=1e-5)


def test_csv_and_parquet_agree_with_json(predict, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write("a.extxyz", structures())
    for suffix in ("json", "csv", "parquet"):
        predict("a.extxyz", "-o", f"a.{suffix}")
    expected = records(tmp_path / "a.json")
    assert parquet.read_table("a.parquet").to_pylist() == expected
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [float(row["energy"]) for row in rows] == [entry["energy"] for entry in expected]
    assert rows[1]["energy_std"] == ""
    assert json.loads(rows[0]["branch_weights"]) == expected[0]["branch_weights"]


def test_extxyz_carries_forces_and_stress(predict, calculator: GFMCalculator) -> None:
    write("a.cif", structures()[1])
    write("b.xyz", structures()[0])
    predict("a.cif", "b.xyz", "-o", "out.extxyz")
    solid, gas = read("out.extxyz", ":")
    start = read("a.cif")
    start.calc = calculator
    assert solid.get_potential_energy() == pytest.approx(start.get_potential_energy(), abs=1e-6)
    assert solid.get_forces() == pytest.approx(start.get_forces(), abs=1e-6)
    assert solid.get_stress() == pytest.approx(start.get_stress(), abs=1e-8)
    assert "stress" not in gas.calc.results
    assert gas.info["file"] == "b.xyz"


def test_bad_frames_and_files_lose_nothing_else(predict, tmp_path: Path) -> None:
    good, clash = molecule("H2O"), molecule("H2O")
    clash.positions[1] = clash.positions[0]
    write("mixed.extxyz", [good, clash, molecule("CH4"), bulk("Rn", "fcc", 5.0)])
    (tmp_path / "broken.xyz").write_text(
        "2\n\nH 0 0 0\nH 0 0 0.7\n2\n\nH 0 0 0\nH 0 0 oops\n2\n\nH 0 0 0\nH 0 0 0.8\n2\n\nH 0 0 0\n"
    )
    (tmp_path / "note.txt").write_text("no structure\n")
    result = predict("mixed.extxyz", "broken.xyz", "note.txt", "gone.cif", "-o", "o.json", code=1)
    found = [(entry["file"], entry["frame"]) for entry in records(tmp_path / "o.json")]
    assert found == [("mixed.extxyz", 0), ("mixed.extxyz", 2), ("broken.xyz", 0), ("broken.xyz", 2)]
    assert "6 failed:" in result.stderr
    assert "mixed.extxyz frame 1 (H2O): atoms 0 (Z=8) and 1 (Z=1) are 0 Å apart" in result.stderr
    assert "mixed.extxyz frame 3 (Rn): no branch supports all of Rn" in result.stderr
    assert "broken.xyz frame 1: could not convert string to float: 'oops'" in result.stderr
    assert "broken.xyz frame 3: " in result.stderr
    assert "note.txt: ASE cannot read it" in result.stderr
    assert "gone.cif: no such file" in result.stderr
    assert result.stdout.count("mixed.extxyz") == 2


def test_a_torn_trajectory_keeps_its_whole_frames(predict, tmp_path: Path) -> None:
    write("a.traj", [molecule("H2O")] * 3)
    (tmp_path / "a.traj").write_bytes((tmp_path / "a.traj").read_bytes()[:-30])
    result = predict("a.traj", "-o", "o.json", code=1)
    assert [entry["frame"] for entry in records(tmp_path / "o.json")] == [0, 1]
    assert "a.traj frame 2: " in result.stderr


def test_pymatgen_files(predict, calculator: GFMCalculator, tmp_path: Path) -> None:
    water = molecule("H2O")
    ion = Molecule(["O", "H", "H"], water.positions, charge=1, spin_multiplicity=2)
    cell = Structure(Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    (tmp_path / "both.json").write_text(json.dumps([ion.as_dict(), cell.as_dict()]))
    cell.to(filename="POSCAR")
    predict("both.json", "POSCAR", "-o", "o.json")
    ionic, first, second = (entry["energy"] for entry in records(tmp_path / "o.json"))
    assert first == pytest.approx(second, abs=1e-6)
    water.info |= {"charge": 1, "spin": 2}
    water.calc = calculator
    assert ionic == pytest.approx(water.get_potential_energy(), abs=1e-9)
    (tmp_path / "other.json").write_text('{"a": 1}')
    assert "neither ASE nor pymatgen can read it" in predict("other.json", code=1).stderr


def test_empty_files_are_not_passed_over(predict, tmp_path: Path) -> None:
    for name in ("a.xyz", "a.extxyz", "a.traj", "POSCAR"):
        (tmp_path / name).write_text("")
    result = predict("a.xyz", "a.extxyz", "a.traj", "POSCAR", code=1)
    assert "4 failed:" in result.stderr


@pytest.mark.filterwarnings("ignore:Wrong number")
def test_a_file_that_ase_finds_nothing_in_is_told(predict, tmp_path: Path) -> None:
    write(tmp_path / "good.cif", bulk("MgO", "rocksalt", 4.2))
    (tmp_path / "bad.cif").write_text("data_x\n_cell_length_a 4\nloop_\ngarbage\n")
    assert "bad.cif: holds no structure" in predict("bad.cif", "good.cif", code=1).stderr


@pytest.mark.parametrize("species", [{"Mg": 0.5, "Fe": 0.5}, {"Mg": 0.5}])
def test_disorder_is_refused(predict, species: dict[str, float], tmp_path: Path) -> None:
    Structure(Lattice.cubic(4.2), [species, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(filename="d.cif")
    assert "d.cif frame 0: disordered, one site holds" in predict("d.cif", code=1).stderr
    text = json.dumps(Structure(Lattice.cubic(4.2), [species, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]).as_dict())
    (tmp_path / "d.json").write_text(text)
    assert "disordered" in predict("d.json", code=1).stderr


def test_head_charge_and_spin_reach_the_model(predict, tiny_model: Path, tmp_path: Path) -> None:
    write("a.xyz", molecule("H2O"))
    predict("a.xyz", "--head", "molecules-pbe0", "--charge", "-1", "--spin", "2", "-o", "o.json")
    calculator = GFMCalculator(tiny_model, precision="fp64", head="molecules-pbe0", charge=-1, spin=2)
    atoms = read("a.xyz")
    atoms.calc = calculator
    assert records(tmp_path / "o.json")[0]["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert records(tmp_path / "o.json")[0]["branch_weights"]["molecules-pbe0"] == 1.0


def test_chunks_change_nothing(predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.extxyz", structures() * 3)
    predict("a.extxyz", "-o", "one.json")
    monkeypatch.setattr(module, "CHUNK", 2)
    predict("a.extxyz", "-o", "two.json")
    one, two = ([entry["energy"] for entry in records(tmp_path / f"{n}.json")] for n in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "fp23"], "error: no precision 'fp23'; did you mean 'fp32'?"),
        (["--head", "solids-pbf"], "error: no head 'solids-pbf'; did you mean 'solids-pbe'?"),
        (["--device", "cdua"], "did you mean 'cuda'?"),
        (["-o", "a.cvs"], "error: a.cvs: unknown suffix '.cvs'; did you mean '.csv'?"),
        (["-o", "results"], "results: unknown suffix ''; known: .csv, .extxyz, .json, .parquet"),
        (["-o", "nowhere/a.csv"], "there is no folder nowhere"),
    ],
)
def test_mistakes(call, tiny_model: Path, arguments: list[str], message: str) -> None:
    write("a.xyz", molecule("H2O"))
    result = call("predict", "a.xyz", "--model", tiny_model, *arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


def test_an_unknown_model_is_one_line(call) -> None:
    write("a.xyz", molecule("H2O"))
    result = call("predict", "a.xyz", "--model", "nosuchmodel", code=2)
    assert "error: no model or file 'nosuchmodel'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_parquet_without_pyarrow(call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write("a.xyz", molecule("H2O"))
    assert 'pip install "gfmpot[parquet]"' in call("predict", "a.xyz", "-o", "a.parquet", code=2).stderr


def test_files_are_replaced_whole_or_not_at_all(predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(path: Path, found: object) -> None:
        path.write_text("half")
        raise OSError("no space left on device")

    write("a.xyz", molecule("H2O"))
    (tmp_path / "o.json").write_text("old")
    monkeypatch.setitem(output.TABLES, ".json", torn)
    assert "error: no space left" in predict("a.xyz", "-o", "o.json", code=2).stderr
    assert (tmp_path / "o.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.xyz", "o.json"]
