"""Every command and every line of Python in docs/precision.md runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.io import read
from pages import DOCS, blocks, commands, run

from gfmpot import GFMCalculator
from gfmpot.inference.certificate import Certificate
from gfmpot.inference.certificate_text import rows

PAGE = DOCS / "precision.md"
SHOWN = blocks(PAGE)


@pytest.fixture
def structures(call, tmp_path: Path) -> Path:
    for path in (DOCS.parent / "recipes" / "structures").iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def test_commands(call, structures: Path) -> None:
    lines = [command for block in SHOWN if block.language == "bash" for command in commands(block)]
    assert len(lines) == 4
    for program, *arguments in lines:
        assert program == "gfmpot"
        call(*arguments)
    certificate = Certificate.from_json((structures / "certificate.json").read_text())
    assert certificate.precisions == ["bf16", "fp32", "fp64"]
    assert (structures / "certificate.md").read_text() == certificate.markdown()
    for m in certificate.of("fp32"):  # what the page says of the embedded model
        assert m.from_fp64.energy < 1e-5
        assert m.from_fp64.forces < 1e-4
        assert m.repeatable


def test_python(structures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"atoms": read("MgO.cif")}
    run((block for block in SHOWN if block.language == "python"), names, lambda *command: None)
    assert names["atoms"].calc.precision in capsys.readouterr().out
    assert names["certificate"].provenance.answer == "head mptrj-pbe-u@chgnet"


def test_the_table_explains_every_row_and_no_other() -> None:
    """``a, b against c`` stands for ``a against c`` and ``b against c``."""
    _, table = PAGE.read_text().split("\n| row | what is compared |\n|---|---|\n")
    explained: list[str] = []
    for line in table.split("\n\n")[0].splitlines():
        subjects, against, of = line.split(" | ")[0].removeprefix("| ").partition(" against ")
        explained += [subject + against + of for subject in subjects.split(", ")]
    certificate = GFMCalculator().certify(Atoms("Cu"), md_steps=0)
    shown = [name.removesuffix(", mean").split(", ")[0] for name, *_ in rows(certificate)]
    assert explained == list(dict.fromkeys(shown))
