"""``gfmpot predict`` with a model of a property."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from ase.build import bulk, molecule
from ase.io import read, write
from property_samples import GAP, METAL, small_model

from gfmpot import GFMPotential
from gfmpot.models import save


@pytest.fixture
def gap(tmp_path: Path) -> Path:
    return save(small_model(GAP), tmp_path / "gap.safetensors")


@pytest.fixture
def cifs(tmp_path: Path) -> list[Path]:
    for name in ("MgO", "NaCl"):
        write(tmp_path / f"{name}.cif", bulk(name, "rocksalt", 4.5))
    return [tmp_path / "MgO.cif", tmp_path / "NaCl.cif"]


def test_columns_and_values(call, gap: Path, cifs: list[Path]) -> None:
    result = call("predict", *cifs, "--model", gap, "--precision", "fp64", "-o", "gaps.csv")
    rows = list(csv.DictReader(Path("gaps.csv").read_text().splitlines()))
    assert list(rows[0]) == ["file", "frame", "formula", "natoms", "band_gap", "unit"]
    want = [GFMPotential.predict_property(read(cif), gap, precision="fp64")["band_gap"] for cif in cifs]
    assert [float(row["band_gap"]) for row in rows] == pytest.approx(want, abs=1e-9)
    assert {row["unit"] for row in rows} == {"eV"}
    assert "(eV)" in result.stdout
    assert f"{want[0]:.4f}" in result.stdout


def test_classes(call, cifs: list[Path], tmp_path: Path) -> None:
    metal = save(small_model(METAL), tmp_path / "metal.safetensors")
    result = call("predict", cifs[0], "--model", metal, "-o", "o.json")
    (row,) = json.loads(Path("o.json").read_text())
    assert list(row)[4:] == ["is_metal"]
    assert 0 < row["is_metal"] < 1
    assert "(probability)" in result.stdout


def test_structures_are_written_with_their_property(call, gap: Path, cifs: list[Path]) -> None:
    call("predict", *cifs, "--model", gap, "-o", "o.extxyz")
    frames = read("o.extxyz", ":")
    assert [frame.info["unit"] for frame in frames] == ["eV", "eV"]
    assert len({frame.info["band_gap"] for frame in frames}) == 2
    assert frames[0].calc is None


def test_what_fails_is_told_and_the_rest_is_written(call, gap: Path, cifs: list[Path]) -> None:
    write("fe.xyz", bulk("Fe"))
    result = call("predict", cifs[0], "fe.xyz", "missing.cif", "--model", gap, "-o", "o.csv", code=1)
    assert "fe.xyz frame 0 (Fe): the model of band_gap was not trained on Fe" in result.stderr
    assert "missing.cif: no such file" in result.stderr
    assert len(Path("o.csv").read_text().splitlines()) == 2


def test_charge_and_spin_reach_the_model(call, gap: Path) -> None:
    write("a.xyz", molecule("NH3"))
    call("predict", "a.xyz", "--model", gap, "--charge", 1, "--spin", 2, "-o", "o.json")
    ion = read("a.xyz")
    ion.info |= {"charge": 1, "spin": 2}
    (row,) = json.loads(Path("o.json").read_text())
    assert row["band_gap"] == pytest.approx(GFMPotential.predict_property(ion, gap)["band_gap"], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "a-pbe"], "is a model of a property, for which there is no --head; leave it out"),
        (["--precision", "auto"], "there is no --precision auto"),
        (["--precision", "fp23"], "did you mean 'fp32'?"),
    ],
)
def test_options_of_potentials(call, gap: Path, cifs: list[Path], arguments: list[str], message: str) -> None:
    result = call("predict", cifs[0], "--model", gap, *arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("verb", ["relax", "info"])
def test_other_verbs_say_what_the_file_is(call, gap: Path, cifs: list[Path], verb: str) -> None:
    arguments = [gap] if verb == "info" else [cifs[0], "--model", gap]
    result = call(verb, *arguments, code=2)
    assert "is a model of a property (band_gap), not a potential" in result.stderr
