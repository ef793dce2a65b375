"""Settings from plain mappings: strict, helpful, reversible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from gfmpot.config import Tunable, did_you_mean, from_mapping, from_yaml, to_mapping, tunable


@dataclass(frozen=True)
class Inner:
    rate: float = tunable(1e-3, 1e-5, 1e-2, log=True)
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 1
    flag: bool = False
    files: tuple[str, ...] = ()
    limit: float | None = None
    table: Mapping[str, float] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    parts: tuple[Inner, ...] = ()


def test_round_trip() -> None:
    outer = Outer("x", 2, True, ("f", "g"), 3.0, {"H": 1.0}, Inner(0.1, "b"), (Inner(), Inner(2.0)))
    assert from_mapping(Outer, to_mapping(outer)) == outer


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: run\ninner: {rate: 1e-3}\n")  # YAML reads 1e-3 as a string
    assert from_yaml(Outer, path) == Outer("run")
    path.write_text("- a list\n")
    with pytest.raises(ValueError, match="expected a mapping of settings, got list"):
        from_yaml(Outer, path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "x", "cuont": 1}, r"Outer: unknown key 'cuont'; did you mean 'count'\?"),
        ({}, "Outer: missing name"),
        ({"name": 3}, r"Outer\.name: expected str, got 3"),
        ({"name": "x", "count": 1.5}, r"Outer\.count: expected int, got 1\.5"),
        ({"name": "x", "count": True}, r"Outer\.count: expected int, got True"),
        ({"name": "x", "files": "f"}, r"Outer\.files: expected a list, got 'f'"),
        ({"name": "x", "inner": {"rate": "fast"}}, r"Outer\.inner\.rate: expected float, got 'fast'"),
        ({"name": "x", "inner": {"kind": "c"}}, r"Outer\.inner\.kind: got 'c', choices are a, b"),
        ({"name": "x", "parts": [{}, {"rat": 1}]}, r"Outer\.parts\[1\]: unknown key 'rat'; did you mean 'rate'"),
        ({"name": "x", "table": {"H": "heavy"}}, r"Outer\.table\.H: expected float, got 'heavy'"),
        ({"name": "x", "limit": "none"}, r"Outer\.limit: expected float, got 'none'"),
    ],
)
def test_mistakes_name_the_field(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(Outer, settings)


def test_optional_and_whole_numbers() -> None:
    assert from_mapping(Outer, {"name": "x", "limit": None}).limit is None
    assert from_mapping(Outer, {"name": "x", "limit": 2}).limit == 2.0


def test_search_range_is_kept() -> None:
    rate = Inner.__dataclass_fields__["rate"]
    assert rate.metadata["tunable"] == Tunable(1e-5, 1e-2, log=True)


def test_suggestions() -> None:
    assert did_you_mean("painnn", ["painn", "egnn"]) == "; did you mean 'painn'? Known: egnn, painn"
    assert did_you_mean("painnn", ["painn", *"abcdefgh"]) == "; did you mean 'painn'?"
    assert did_you_mean("zzz", ["painn", "egnn"]) == "; known: egnn, painn"


def test_what_is_not_yaml_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("inner: {kind: a\nname: run\n")
    with pytest.raises(ValueError, match=r"broken\.yaml is not YAML: .*line 2"):
        from_yaml(Outer, path)
