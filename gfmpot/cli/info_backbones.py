"""``gfmpot info --backbone``: what a file in ``gfmpot/models/backbones`` offers."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from gfmpot.cli.console import facts, table

if TYPE_CHECKING:
    from gfmpot.config import Tunable


def describe_backbones(which: str) -> None:
    """One backbone with its settings, or a line for each (``all``).

    Raises:
        ValueError: an unknown name.
    """
    from gfmpot.models import available_backbones, backbone_class

    if which == "all":
        table(["backbone", "what it is"], [[name, _summary(name)] for name in available_backbones()])
        return
    config = backbone_class(which).Config
    facts({"backbone": which, "about": _summary(which)})
    rows = [[f.name, _plain(f.default), _range(f.metadata.get("tunable"))] for f in dataclasses.fields(config)]
    table(["setting", "default", "range for a search"], rows)


def _summary(name: str) -> str:
    """The first sentence of the file."""
    from gfmpot.models import backbone_class

    text = sys.modules[backbone_class(name).__module__].__doc__ or ""
    return " ".join(text.strip().split("\n\n")[0].split())


def _range(space: Tunable | None) -> str | None:
    if space is None:
        return None
    if space.choices:
        return ", ".join(map(str, space.choices))
    return f"{space.low:g} to {space.high:g}{', log' if space.log else ''}"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float | str) else value
