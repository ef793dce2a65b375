"""docs/backbones.md: its Python runs, and its table names the backbones that there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from pages import blocks, run

from gfmpot.models import available_backbones
from gfmpot.models.backbone import backbone_config

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"


def test_page(capsys: pytest.CaptureFixture[str]) -> None:
    python = [block for block in blocks(PAGE) if block.language == "python"]
    run(python, {}, print)
    assert "rotation" in capsys.readouterr().out


def test_example() -> None:
    import yaml

    (block,) = (block for block in blocks(PAGE) if block.language == "yaml")
    config = backbone_config(yaml.safe_load(block.text)["model"]["backbone"])
    assert type(config).__name__ == "SchNetConfig"


def test_table_names_backbones() -> None:
    rows = {line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    assert {"painn", "schnet"} <= rows <= set(available_backbones())
