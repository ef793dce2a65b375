"""``gfmpot relax``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import read, write

from gfmpot import GFMCalculator
from gfmpot.calculators.relaxation import relax as relax_atoms


@pytest.fixture
def relax(call, tiny_model: Path):
    def run(*arguments: object, code: int = 0):
        return call("relax", *arguments, "--model", tiny_model, "--precision", "fp64", code=code)

    return run


def solid() -> Atoms:
    atoms = bulk("MgO", "rocksalt", 4.2, cubic=True)
    atoms.rattle(0.02, seed=1)
    return atoms


def expected(tiny_model: Path, atoms: Atoms, **settings: object):
    atoms.calc = GFMCalculator(tiny_model, precision="fp64")
    return relax_atoms(atoms, **settings)


def cells(text: str, start: str) -> list[str]:
    return next(words for words in map(str.split, text.splitlines()) if words[:1] == [start])


def test_numbers_are_those_of_relax(relax, tiny_model: Path, tmp_path: Path) -> None:
    write("a.extxyz", solid())
    out = relax("a.extxyz", "--fmax", "0.001", "--steps", "60", "-o", "b.extxyz", "--trajectory", "steps").stdout
    want = expected(tiny_model, read("a.extxyz"), fmax=0.001, steps=60)
    assert want.converged
    found = cells(out, "a.extxyz")
    assert found[1:3] == ["0", "Mg4O4"]
    assert float(found[3]) == pytest.approx(want.energies[0], abs=1e-3)
    assert float(found[4]) == pytest.approx(want.energies[-1], abs=1e-3)
    assert found[5:7] == [str(want.steps), "yes"]
    assert found[8] == "+0.00%"
    final = read("b.extxyz")
    assert final.positions == pytest.approx(want.atoms.positions, abs=1e-6)
    assert final.get_potential_energy() == pytest.approx(want.energies[-1], abs=1e-8)
    assert len(read(tmp_path / "steps" / "a.traj", ":")) == len(want.frames)


def test_not_converged_is_exit_code_1(relax) -> None:
    write("a.extxyz", solid())
    result = relax("a.extxyz", "--fmax", "1e-6", "--steps", "2", "-o", "b.extxyz", code=1)
    assert cells(result.stdout, "a.extxyz")[6] == "no"
    assert "a.extxyz frame 0: not converged after 2 steps" in result.stderr
    assert len(read("b.extxyz", ":")) == 1


def test_the_cell_moves_only_when_told(relax) -> None:
    write("a.extxyz", solid())
    relax("a.extxyz", "--steps", "3", "--fmax", "1e-6", "-o", "still.extxyz", code=1)
    relax("a.extxyz", "--steps", "3", "--fmax", "1e-6", "--cell", "-o", "moved.extxyz", code=1)
    start = solid().cell.array
    assert np.array_equal(read("still.extxyz").cell.array, start)
    assert np.abs(read("moved.extxyz").cell.array - start).max() > 1e-5


def test_a_folder_gets_one_file_each(relax, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write("a.extxyz", [molecule("H2O"), molecule("CH4")])
    write("sub/b.xyz", molecule("H2O"))
    write("b.xyz", molecule("CH4"))
    write("b-2.xyz", molecule("NH3"))
    relax("a.extxyz", "sub/b.xyz", "b.xyz", "b-2.xyz", "--fmax", "100", "-o", "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a-0.extxyz", "a-1.extxyz", "b-2-2.extxyz", "b-2.extxyz", "b.extxyz"]
    assert read("out/b-2-2.extxyz").get_chemical_formula() == "H3N"
    assert read("out/b-2.extxyz").get_chemical_formula() == "CH4"


def test_formats_by_suffix(relax) -> None:
    write("a.extxyz", solid())
    for name in ("b.cif", "CONTCAR.vasp", "b.xsf", "b.traj"):
        relax("a.extxyz", "--fmax", "100", "-o", name)
        assert read(name).get_chemical_formula() == "Mg4O4"


def test_one_bad_structure_does_not_stop_the_others(relax) -> None:
    clash = molecule("H2O")
    clash.positions[1] = clash.positions[0]
    write("a.extxyz", [clash, molecule("CH4")])
    result = relax("a.extxyz", "gone.xyz", "--fmax", "100", "-o", "b.extxyz", code=1)
    assert "a.extxyz frame 0: atoms 0 (Z=8) and 1 (Z=1) are 0 Å apart" in result.stderr
    assert "gone.xyz: no such file" in result.stderr
    assert [atoms.get_chemical_formula() for atoms in read("b.extxyz", ":")] == ["CH4"]


def test_molecules_have_no_volume(relax) -> None:
    write("a.xyz", molecule("H2O"))
    result = relax("a.xyz", "--fmax", "100")
    assert cells(result.stdout, "a.xyz")[-1] == "–"
    assert "were not written; -o FILE writes them" in result.stderr


@pytest.mark.parametrize("engine", ["ase", "batched"])
def test_cells_are_relaxed_of_what_has_some(relax, engine: str) -> None:
    write("a.extxyz", [molecule("H2O"), solid()])
    result = relax("a.extxyz", "--cell", "--engine", engine, "--fmax", "100", "-o", "b.extxyz")
    assert "1 without a volume, of which positions alone were relaxed" in result.stderr
    assert [atoms.pbc.any() for atoms in read("b.extxyz", ":")] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "bfsg"], "error: no optimizer 'bfsg'; did you mean 'BFGS'?"),
        (["--fmax", "0"], "error: fmax must be positive"),
        (["-o", "b.foo"], "ASE writes no '.foo' files"),
        (["-o", "b.vasp"], "b.vasp holds one structure, got 2"),
        (["-o", "nowhere/b.cif"], "there is no folder nowhere"),
        (["--precision", "fp23"], "did you mean 'fp32'?"),
    ],
)
def test_mistakes(call, tiny_model: Path, arguments: list[str], message: str) -> None:
    write("a.extxyz", [molecule("H2O"), molecule("CH4")])
    result = call("relax", "a.extxyz", "--model", tiny_model, *arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_batched_is_one_by_one(relax, tmp_path: Path) -> None:
    clash = molecule("H2O")
    clash.positions[1] = clash.positions[0]
    write("a.extxyz", [solid(), molecule("H2O"), clash, molecule("CH4")])
    write("b.xyz", molecule("NH3"))
    results = {}
    for engine in ("ase", "batched"):
        out, steps = f"{engine}.extxyz", f"{engine}-steps"
        settings = ["--engine", engine, "--fmax", "0.5", "--steps", "3", "-o", out, "--trajectory", steps]
        results[engine] = relax("a.extxyz", "b.xyz", *settings, code=1)
    assert results["ase"].stdout == results["batched"].stdout
    assert results["ase"].stderr == results["batched"].stderr.replace("batched.extxyz", "ase.extxyz")
    assert "a.extxyz frame 2: atoms 0 (Z=8) and 1 (Z=1) are 0 Å apart" in results["batched"].stderr
    for one, other in zip(read("ase.extxyz", ":"), read("batched.extxyz", ":"), strict=True):
        assert one.positions == pytest.approx(other.positions, abs=1e-7)
    for path in (tmp_path / "batched-steps").iterdir():
        assert len(read(path, ":")) == len(read(tmp_path / "ase-steps" / path.name, ":"))


def test_batched_into_a_folder(relax, tmp_path: Path) -> None:
    write("a.extxyz", [solid(), solid()])
    relax("a.extxyz", "--engine", "batched", "--cell", "--fmax", "100", "-o", "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-0.extxyz", "a-1.extxyz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "batch"], "error: no engine 'batch'; did you mean 'batched'?"),
        (["--engine", "batched", "--optimizer", "BFGS"], "no optimizer 'BFGS' for batches; did you mean 'LBFGS'?"),
    ],
)
def test_mistakes_with_engines(call, tiny_model: Path, arguments: list[str], message: str) -> None:
    write("a.extxyz", molecule("H2O"))
    assert message in call("relax", "a.extxyz", "--model", tiny_model, *arguments, code=2).stderr
