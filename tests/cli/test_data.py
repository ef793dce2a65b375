"""``gfmpot data``: what a user types, sees and gets as exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from typer.testing import Result

from gfmpot.cli.data import functional, source_options, split_settings
from gfmpot.data import AdiosStore
from gfmpot.units import HARTREE

pytest.importorskip("adios2", reason="the adios2 wheel is not installed")
Call = Callable[..., Result]
GIVEN = ("--branch", "toy-spring", "--theory", "springs", "--licence", "CC0-1.0", "--set", "group_by=formula")
NAMES = ("CH4", "H2O", "NH3", "C2H6", "CH3OH", "C6H6", "HCN", "H2CO", "N2", "CO", "C2H4", "C2H2", "O2", "H2O2", "CO2")


def springs(frames_per_molecule: int = 4) -> list[Atoms]:
    rng = np.random.default_rng(0)
    frames = []
    for name in NAMES:
        for _ in range(frames_per_molecule):
            atoms = molecule(name)
            move = rng.normal(scale=0.05, size=(len(atoms), 3))
            atoms.positions += move
            energy = -10.0 * atoms.numbers.sum() + 2.5 * (move**2).sum()
            atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=-5.0 * move)
            frames.append(atoms)
    return frames


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "springs.extxyz", springs())
    return tmp_path / "springs.extxyz"


def test_list_has_every_source_and_table_two(call: Call) -> None:
    from gfmpot.data.source import available_sources

    output = call("data", "list").output
    for name in available_sources():
        assert name in output
    assert "extxyz" in output


def test_convert_describe_verify(call: Call, file: Path, tmp_path: Path) -> None:
    output = call("data", "convert", "extxyz", file, "out.bp", "--split", "0.6,0.2,0.2", *GIVEN).output
    assert "toy-spring" in output
    store = AdiosStore("out.bp")
    assert sum(store.manifest.counts.values()) == 60
    assert store.manifest.sha256 in output
    described = call("data", "describe", "out.bp", "--plot", "out.png").output
    for expected in ("toy-spring", "springs", "CC0-1.0", "energy per atom (eV)", "force (eV/Å)", "train", "█"):
        assert expected in described
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert f"is intact: 60 structures in 3 blocks, {store.manifest.sha256}" in call("data", "verify", "out.bp").output
    data = tmp_path / "out.bp" / "test.bp" / "data.0"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    data.write_bytes(bytes(content))
    assert "test.bp/data.0: the file's content changed" in call("data", "verify", "out.bp", code=1).output


def test_describe_files_of_a_dataset(call: Call, file: Path) -> None:
    frames = springs()
    frames[3].calc.results["energy"] = np.inf
    frames[4].info.update(charge=-1, spin=2)
    frames[5].info.update(charge=-1, spin=4)
    write(file, frames)
    output = call("data", "describe", file, "--source", "extxyz", "--set", "group_by=formula").output
    assert "springs.extxyz, structure 3: the energy is inf" in output
    assert "59" in output
    assert "-1 (2, 4), 0 (not stated)" in output
    assert "root mean square force component" in output
    assert "15" in call("data", "describe", file, "--source", "extxyz", "--limit", 15).output
    assert "say who reads them: --source" in call("data", "describe", file, code=2).output


def test_bad_structures_stop_or_go_to_the_quarantine(call: Call, file: Path, tmp_path: Path) -> None:
    frames = springs()
    frames[3].calc.results["energy"] = np.inf
    write(file, frames)
    command = ("data", "convert", "extxyz", file, "out.bp", "--split", "0.6,0.2,0.2", *GIVEN)
    output = call(*command, code=2).output
    assert "springs.extxyz: record 3: the energy is inf" in output
    output = call(*command, "--quarantine", "bad.jsonl").output
    assert "left out: 1 (failed the checks), written with reasons to bad.jsonl" in output
    assert json.loads((tmp_path / "bad.jsonl").read_text())["reason"] == "the energy is inf"
    assert "out.bp exists" in call(*command, code=2).output
    call(*command, "--quarantine", "bad.jsonl", "--overwrite", "--workers", 2)


def test_units_are_converted_and_wrong_ones_noticed(call: Call, file: Path) -> None:
    command = ("data", "convert", "extxyz", file, "out.bp", "--split", "0.6,0.2,0.2", *GIVEN)
    output = call(*command, "--energy-unit", "Hartree", "--force-unit", "eV/Å", code=2).output
    assert "energies were multiplied with eV per Hartree and forces were not" in output
    call(*command, "--energy-unit", "Hartree")
    lowest = AdiosStore("out.bp").split("train").block(0, 4).energy
    expected = HARTREE * np.array([atoms.get_potential_energy() for atoms in springs()])
    assert all(np.isclose(expected, value, atol=1e-3).any() for value in lowest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "0.5,0.5"), "three fractions that sum to 1"),
        (("--split", "0.5,0.1,0.1"), "three fractions that sum to 1"),
        (("--split", "publisht"), "'published' or three fractions"),
        (("--split", "published"), "no structure says on which side"),
        (("--energy-unit", "furlong"), "is no unit of energy"),
        (("--set", "group_by"), "NAME=VALUE"),
        (("--set", "gruop_by=formula"), "did you mean 'group_by'"),
        (("--max-force", "-1"), "max_force must be positive"),
        (("--branch", ""), "give, e.g., --branch mine-pbe"),
    ],
)
def test_requests_that_make_no_sense(call: Call, file: Path, arguments: tuple[str, str], message: str) -> None:
    command = ("data", "convert", "extxyz", file, "out.bp", *GIVEN)
    assert message in call(*command, *arguments, code=2).output.replace("\n", " ")
    assert not Path("out.bp").exists()


def test_only_stores_are_ever_replaced(call: Call, file: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious.bp"
    precious.write_text("a year of work")
    command = ("data", "convert", "extxyz", file)
    about = ("--branch", "a-emt", "--theory", "EMT", "--overwrite")
    assert "is no store, so it is not replaced" in call(*command, precious, *about, code=2).output
    assert precious.read_text() == "a year of work"
    assert "a store's name ends in .bp" in call(*command, file, *about, code=2).output
    assert file.stat().st_size > 100


def test_damaged_npz_is_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(b"PK half of a file")
    done = call("data", "convert", "npz", tmp_path / "cut.npz", "out.bp", "--branch", "a", "--theory", "b", code=2)
    assert "cut.npz: not a whole .npz" in done.output.replace("\n", " ")


def test_unknown_source_and_missing_store(call: Call, file: Path) -> None:
    assert "did you mean 'extxyz'" in call("data", "convert", "extxy", file, "out.bp", code=2).output
    assert "there is no nothing.bp" in call("data", "verify", "nothing.bp", code=2).output


def test_options_by_themselves() -> None:
    assert source_options("eV", None, None, "GPa", ["a = b=c"]) == {
        "energy_unit": "eV",
        "stress_unit": "GPa",
        "a": "b=c",
    }
    assert split_settings("published", 3).published
    assert split_settings("0.8, 0.1, 0.1", 3).seed == 3
    assert functional("DFT (PBE(+U)/PAW)") == functional("PBE and PBE+U, VASP") == "pbe"
    assert functional("DFT PBE-D3(BJ)/PAW") == "pbe-d3"
    assert functional("DFT (ωB97x/6-31G(d))") == functional("ωB97X/6-31G(d), ORCA")
