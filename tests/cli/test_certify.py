"""``gfmpot certify``, and ``--precision auto`` of the other verbs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.io import write

from gfmpot.inference.certificate import Certificate
from gfmpot.models.checkpoint import fingerprint


@pytest.fixture
def certify(call, tiny_model: Path):
    def run(*arguments: object, code: int = 0):
        return call("certify", *arguments, "--model", tiny_model, "--device", "cpu", code=code)

    return run


def solid() -> Atoms:
    atoms = bulk("MgO", "rocksalt", 4.2)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_one_command_prints_a_table_and_writes_both_files(certify, tiny_model: Path, tmp_path: Path) -> None:
    write("a.extxyz", [solid(), molecule("H2O")])
    result = certify("a.extxyz", "--precision", "all", "--md-steps", 4, "-o", "c.json", "-o", "c.md")
    certificate = Certificate.from_json((tmp_path / "c.json").read_text())
    assert certificate.precisions == ["bf16", "fp32", "fp64"]
    assert [m.structure for m in certificate.of("fp32")] == ["a.extxyz frame 0", "a.extxyz frame 1"]
    assert certificate.provenance.model_sha256 == fingerprint(tiny_model)
    assert certificate.measurements[0].drift.steps == 4
    assert result.stdout.strip() == certificate.table().strip()
    assert (tmp_path / "c.md").read_text() == certificate.markdown()
    assert "wrote c.json" in result.stderr


def test_by_default_one_precision_and_no_file(certify, tmp_path: Path) -> None:
    write("a.extxyz", molecule("H2O"))
    result = certify("a.extxyz", "--md-steps", 0)
    assert result.stdout.splitlines()[2].split()[-1] == "fp32"
    assert [path.name for path in tmp_path.iterdir()] == ["a.extxyz"]


def test_options_reach_the_model(certify, tmp_path: Path) -> None:
    write("a.extxyz", molecule("H2O"))
    options = ["--head", "molecules-pbe0", "--charge", -1, "--spin", 2, "--md-steps", 3, "-T", 10]
    certify("a.extxyz", *options, "--precision", "fp64", "--precision", "bf16", "-o", "c.json")
    certificate = Certificate.from_json((tmp_path / "c.json").read_text())
    assert certificate.precisions == ["fp64", "bf16"]
    assert certificate.provenance.answer == "head molecules-pbe0"
    assert "charge or multiplicity" in certificate.measurements[0].remarks[0]


def test_bad_structures_lose_nothing_else(certify, tmp_path: Path) -> None:
    write("a.extxyz", [bulk("Rn", "fcc", 5.0), molecule("H2O")])
    result = certify("a.extxyz", "gone.cif", "--md-steps", 0, "-o", "c.json", code=1)
    assert "2 failed:" in result.stderr
    assert "a.extxyz frame 0: no branch supports all of Rn" in result.stderr
    assert "gone.cif: no such file" in result.stderr
    assert [m.formula for m in Certificate.from_json((tmp_path / "c.json").read_text()).measurements] == ["H2O"]
    write("b.extxyz", bulk("Rn", "fcc", 5.0))
    assert certify("b.extxyz", "-o", "d.json", code=1).stdout == ""
    assert not (tmp_path / "d.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "fp23"], "error: no precision 'fp23'; did you mean 'fp32'?"),
        (["--precision", "auto", "--precision", "fp32"], "error: --precision auto stands for one precision"),
        (["--tolerance", "1e-3", "1e-2"], "error: a tolerance is for precision 'auto' to keep, got precision 'fp32'"),
        (["--precision", "auto", "--tolerance", "0", "1"], "error: tolerance.energy must be positive, got 0.0"),
        (["-o", "c.txt"], "error: c.txt: unknown suffix '.txt'; known: .json, .md"),
        (["-o", "nowhere/c.json"], "there is no folder nowhere"),
        (["--md-steps", "1"], "error: dynamics need at least 3 steps"),
        (["--head", "solids-pbf"], "error: no head 'solids-pbf'; did you mean 'solids-pbe'?"),
    ],
)
def test_mistakes(certify, arguments: list[str], message: str) -> None:
    write("a.xyz", molecule("H2O"))
    result = certify("a.xyz", *arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("tolerance", "chosen"), [([], {"fp32", "bf16"}), (["--tolerance", "1e-13", "1e-13"], {"fp64"})]
)
def test_auto_says_what_it_chose(
    call, tiny_model: Path, tmp_path: Path, tolerance: list[str], chosen: set[str]
) -> None:
    write("a.xyz", molecule("H2O"))
    common = ["a.xyz", "--model", tiny_model, "--device", "cpu", "--precision", "auto", *tolerance]
    verbs = {"predict": [], "relax": [], "md": ["--steps", 2], "certify": ["--md-steps", 0, "-o", "c.json"]}
    for verb, arguments in verbs.items():
        result = call(verb, *common, *arguments)
        (line,) = (line for line in result.stderr.splitlines() if line.startswith("precision auto: "))
        assert line.split()[2] in chosen
    assert set(Certificate.from_json((tmp_path / "c.json").read_text()).precisions) <= chosen


def test_other_verbs_refuse_a_tolerance_of_a_fixed_precision(call, tiny_model: Path) -> None:
    write("a.xyz", molecule("H2O"))
    for verb in ("predict", "relax", "md"):
        result = call(verb, "a.xyz", "--model", tiny_model, "--tolerance", "1e-3", "1e-2", code=2)
        assert "error: a tolerance is for precision 'auto'" in result.stderr


def test_the_json_is_for_other_programs_too(certify, tmp_path: Path) -> None:
    write("a.extxyz", solid())
    certify("a.extxyz", "--md-steps", 3, "-o", "c.json")
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["format"] == "gfmpot certificate"
    assert set(document) == {"format", "version", "version_hash", "provenance", "measurements"}
    (measured,) = document["measurements"]
    assert measured["precision"] == "fp32"
    assert 0 < measured["from_fp64"]["forces"] < 1e-3
