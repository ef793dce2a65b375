"""``gfmpot report``."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gfmpot.cli.report import report
from gfmpot.telemetry import JsonLines

pytest.importorskip("matplotlib")


def call(*arguments: object, code: int = 0) -> Result:
    app = typer.Typer()
    app.command()(report)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    log = JsonLines(tmp_path / "run" / "log.jsonl")
    for step in (10, 20):
        log.write({"time": step, "step": step, "kind": "train", "loss": 1.0 / step})
    log.close()
    return tmp_path / "run"


def test_writes_beside_the_run_and_says_where(run: Path) -> None:
    assert call(run).stdout.strip() == str(run / "report" / "index.html")
    assert (run / "report" / "optimisation.png").is_file()


def test_out_and_open(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    call(run, "--out", tmp_path / "page.html", "--open")
    assert (tmp_path / "page.html").is_file()
    assert (tmp_path / "page" / "optimisation.png").is_file()
    assert shown == [(tmp_path / "page.html").as_uri()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "neither log.jsonl of a training run nor results.csv of a search is there"),
        (["{run}", "{run}"], "--out comparison.html"),
        (["{run}", "--out", "none/page.html"], "there is no folder none"),
    ],
)
def test_mistakes(run: Path, arguments: list[str], message: str) -> None:
    result = call(*(argument.format(run=run) for argument in arguments), code=2)
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
