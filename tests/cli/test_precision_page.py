"""Every command and every line of Python in docs/precision.md runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from ase.io import read

from gfmpot.inference.certificate import Certificate
from gfmpot.inference.certificate_text import QUANTITIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "precision.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def structures(call, tmp_path: Path) -> Path:
    for path in (ROOT / "recipes" / "structures").iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def test_commands(call, structures: Path) -> None:
    lines = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) >= 4
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
    for block in blocks("python"):
        exec(block, names)
    assert names["atoms"].calc.precision in capsys.readouterr().out
    assert names["certificate"].provenance.answer == "head mp-pbe-u"


def test_every_row_of_the_table_is_explained() -> None:
    explained = PAGE[PAGE.index("| row |") :].replace("energy, forces, stress against", "energy against")
    for quantity in QUANTITIES:
        assert quantity.name.split(",")[0].removeprefix("NVE ").split(" against")[0] in explained
