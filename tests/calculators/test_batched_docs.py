"""What docs/batched.md shows runs as it stands there, from top to bottom."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest
from ase.io import read
from typer.testing import CliRunner

from gfmpot.cli import app

GUIDE = Path(__file__).parents[2] / "docs" / "batched.md"


def blocks() -> list[tuple[str, str]]:
    """Language and text of each block of code."""
    return re.findall(r"^```(python|bash)\n(.*?)^```$", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)


def call(commands: str) -> None:
    for line in commands.strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "gfmpot"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    languages = [language for language, _ in blocks()]
    assert (languages.count("python"), languages.count("bash")) == (7, 1)
    for language, text in blocks():
        if language == "bash":
            call(text)
        elif "torch_sim" in text:
            with_torch_sim(text, names)
        else:
            exec(compile(text, str(GUIDE), "exec"), names)
    assert [one.error for one in names["relaxed"]] == [None] * 3  # type: ignore[attr-defined]
    assert [one.summary.steps_run for one in names["runs"]] == [20, 20, 20]  # type: ignore[attr-defined]
    assert len(read("runs/2.traj", ":")) == 5
    assert sorted(path.name for path in Path("relaxed").iterdir())


def with_torch_sim(text: str, names: dict[str, object]) -> None:
    with warnings.catch_warnings():  # torch-sim 0.3 imports what PyTorch and vesin have deprecated since
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "`vesin.torch` is deprecated", DeprecationWarning)
        ts = pytest.importorskip("torch_sim", reason='torch-sim is not installed: pip install "gfmpot[md]"')
        if not hasattr(ts, "frechet_cell_fire"):
            return  # the guide says that later ones have other names
        exec(compile(text, str(GUIDE), "exec"), names)
