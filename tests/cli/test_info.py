"""The entry point, and ``gfmpot info``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import Result

from gfmpot import __version__, load
from gfmpot.models.checkpoint import fingerprint


def script(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_help_is_there_without_the_heavy_imports() -> None:
    done = script(
        "import sys; sys.argv = ['gfmpot', '--help']\n"
        "import gfmpot.cli\n"
        "try: gfmpot.cli.main()\n"
        "except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'ase', 'numpy', 'pymatgen', 'scipy'} & set(sys.modules)))"
    )
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout
    for verb in ("info", "predict", "relax", "md", "pretrain", "train-branch-weights", "report", "data"):
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize(
    "verb", ["info", "predict", "relax", "md", "pretrain", "train-branch-weights", "report", "data"]
)
def test_every_verb_has_help(call, verb: str) -> None:
    assert "Usage" in call(verb, "--help").stdout


def test_version(call) -> None:
    assert call("--version").stdout.strip() == f"gfmpot {__version__}"


def test_card_of_a_checkpoint(call, tiny_model: Path) -> None:
    out = call("info", tiny_model).stdout
    count = sum(p.numel() for p in load(tiny_model).parameters())
    assert fingerprint(tiny_model) in out
    assert f"{count} ({count * 4 / 2**20:.2f} MiB in fp32, {count * 8 / 2**20:.2f} MiB in fp64)" in out
    assert "name painn, cutoff 4.0, mean_neighbours 20.0, saturation 0.65, hidden 16, layers 2, radial_basis 4" in out
    assert "covers 11 elements  H C N O Na Mg Al Si Cl Fe Cu" in out
    assert row(out, "solids-pbe")[:5] == ["solids-pbe", "PBE", "11", "1000", "CC0"]
    assert row(out, "molecules-pbe0") == ["molecules-pbe0", "PBE0", "4", "–", "–"]
    assert "metrics (split test): branches, in eV and Å" in out
    assert ["solids-pbe", "0.0120", "50"] in [line.split() for line in out.splitlines()]
    assert row(out, "training:", "steps")[-1] == "7"


def row(text: str, *start: str) -> list[str]:
    return next(words for words in map(str.split, text.splitlines()) if words[: len(start)] == list(start))


def test_parts_add_up(call, tiny_model: Path) -> None:
    out = call("info", tiny_model).stdout
    parts = [int(line.split()[-4]) for line in out.splitlines() if "%" in line]
    assert len(parts) == 4
    assert sum(parts) == sum(p.numel() for p in load(tiny_model).parameters())


def test_the_lead_preset_beside_the_paper(call) -> None:
    out = call("info", "--preset", "lead").stdout
    assert "12.95 M (49.42 MiB in fp32, 98.84 MiB in fp64)" in out
    assert "12.1 M parameters and 92 MB" in out
    assert 'Its 126 "interaction filters"' in " ".join(out.split())
    assert "at most 20 neighbours" in out
    assert row(out, "heads", "10604080")[2] == "81.9%"
    assert row(out, "backbone", "2284523")[1] == "2284523"
    assert len([line for line in out.splitlines() if "omol25" in line]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "--preset", "leed"], "error: no preset 'leed'; did you mean 'lead'?"),
        (["info", "defalt"], "error: no model or file 'defalt'"),
        (["info", "default2", "--preset", "lead"], "expected one of a model, --preset and --backbone"),
        (["info", "--backbone", "pain"], "error: no backbone 'pain'; did you mean 'painn'?"),
    ],
)
def test_mistakes(call, arguments: list[str], message: str) -> None:
    result: Result = call(*arguments, code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_that_is_no_model(call, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04 not a model")
    assert "PyTorch or pickle file" in call("info", "x.pt", code=2).stderr


def test_names_are_found_in_the_cache(call, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mine.safetensors").write_bytes(tiny_model.read_bytes())
    assert fingerprint(tiny_model) in call("info", "mine").stdout
    assert "did you mean 'mine'?" in call("info", "mime", code=2).stderr


def test_backbones(call) -> None:
    every = call("info", "--backbone", "all").stdout
    assert all(f" {name} " in every for name in ("painn", "schnet", "egnn", "dimenet", "mace", "pnaeq"))
    one = call("info", "--backbone", "schnet").stdout
    assert "continuous-filter convolutions" in one
    assert "gaussians" in one
    assert "3 to 100" in one
