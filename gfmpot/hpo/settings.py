"""The settings of a training run by dotted names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from gfmpot.config import Tunable, from_mapping
from gfmpot.models import HeadConfig, PotentialConfig
from gfmpot.models.backbone import backbone_class
from gfmpot.training.config import TrainConfig

TAKEN = ("branches", "begin_with", "steps", "epochs", "validate_every", "seed", "error_hidden")
"""Fields that have options of their own, or follow from others."""

MODEL = ("backbone", "head", "weight_hidden", "max_neighbours", "repulsion")
"""What ``model:`` of a run has."""


@dataclass(frozen=True)
class Setting:
    """One field of the dataclasses that make up a run."""

    name: str
    field: dataclasses.Field[Any]
    type: Any

    @property
    def section(self) -> str:
        """``"backbone"``, ``"optim"``, ...; empty for those of the run itself."""
        return self.name.rpartition(".")[0]

    @property
    def tunable(self) -> Tunable | None:
        """Its range, if the field has one."""
        return self.field.metadata.get("tunable")

    @property
    def default(self) -> Any:
        """Of the field."""
        if self.field.default is not dataclasses.MISSING:
            return self.field.default
        assert self.field.default_factory is not dataclasses.MISSING
        return self.field.default_factory()

    def convert(self, value: Any) -> Any:
        """A value as its type.

        Raises:
            ValueError: it is of another one.
        """
        alone = dataclasses.make_dataclass("Alone", [(self.field.name, self.type)])
        return getattr(from_mapping(alone, {self.field.name: value}, self.section or "run"), self.field.name)


def settings_of(backbone: str) -> dict[str, Setting]:
    """All settings of runs with a backbone that can be searched or fixed.

    Raises:
        ValueError: an unknown backbone.
    """
    parts: list[tuple[str, type[Any]]] = [("backbone", backbone_class(backbone).Config), ("head", HeadConfig)]
    parts += [("", PotentialConfig), ("", TrainConfig)]
    return {setting.name: setting for section, owner in parts for setting in _fields(section, owner)}


def _fields(section: str, owner: type[Any]) -> Iterator[Setting]:
    hints = get_type_hints(owner)
    for each in dataclasses.fields(owner):
        name = f"{section}.{each.name}" if section else each.name
        if dataclasses.is_dataclass(hints[each.name]):
            if each.name not in MODEL:
                yield from _fields(name, hints[each.name])
        elif each.init and name not in (*TAKEN, "model"):
            yield Setting(name, each, hints[each.name])


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as the mapping of a run: ``{"backbone.hidden": 64}`` is ``{"model": {"backbone": ...}}``."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        path = name.split(".")
        path = ["model", *path] if path[0] in MODEL else path
        place = result
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = list(value) if isinstance(value, tuple) else value
    return result


def dotted(run: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Any]:
    """The inverse of :func:`nested`, of the settings of a run that are known; converted to their types."""
    flat = {**{k: v for k, v in run.items() if k != "model"}, **run.get("model", {})}
    return {name: known[name].convert(value) for name, value in _flat(flat, known)}


def _flat(mapping: Mapping[str, Any], known: Mapping[str, Setting], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if name in known:
            yield name, value
        elif isinstance(value, Mapping):
            yield from _flat(value, known, f"{name}.")


def joined(*mappings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings in one; later ones win."""
    result: dict[str, Any] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = joined(result[key], value) if both else value
    return result
