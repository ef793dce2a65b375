"""The shape of a potential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gfmpot.config import from_mapping, to_mapping
from gfmpot.models.backbone import BackboneConfig, backbone_config, backbone_mapping
from gfmpot.models.branches import HeadConfig


@dataclass(frozen=True)
class PotentialConfig:
    """Everything that fixes the shape of a potential, except its branches."""

    backbone: BackboneConfig
    head: HeadConfig = field(default_factory=HeadConfig)
    weight_hidden: tuple[int, ...] = (128, 64)
    max_neighbours: int | None = None
    """The paper's cap of 20 nearest neighbours; None (the default) keeps all within the cutoff."""

    error_hidden: int | None = None
    """Width of the network that estimates errors; None without one, as it is before training is finished."""

    repulsion: Literal["zbl", "none"] = "zbl"
    """Of nuclei at short range, added to every branch (:mod:`gfmpot.models.repulsion`)."""

    def __post_init__(self) -> None:
        if self.max_neighbours is not None and self.max_neighbours < 1:
            raise ValueError(f"max_neighbours must be at least 1, got {self.max_neighbours}; None keeps all")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> PotentialConfig:
        """From plain types, as in a checkpoint or a YAML file; ``backbone`` is ``{"name": ..., **settings}``."""
        if not isinstance(mapping.get("backbone"), Mapping):
            raise ValueError(f"model: expected backbone: {{name: ..., ...}}, got {mapping.get('backbone')!r}")
        return from_mapping(cls, {**mapping, "backbone": backbone_config(dict(mapping["backbone"]))}, where="model")

    def to_mapping(self) -> dict[str, Any]:
        """The inverse of :meth:`from_mapping`."""
        return {**to_mapping(self), "backbone": backbone_mapping(self.backbone)}
