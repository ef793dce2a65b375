"""The shape of a property model, and what turns the output of its network into a property."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfmpot.config import from_mapping, to_mapping, tunable
from gfmpot.data.reference_energies import element_table, fit_reference_energies
from gfmpot.models.backbone import BackboneConfig, backbone_config, backbone_mapping
from gfmpot.models.potential import Potential
from gfmpot.models.target import Target

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PropertyConfig:
    """Everything that fixes the shape of a property model, except its target."""

    backbone: BackboneConfig
    head_layers: int = tunable(1, 1, 3)
    head_width: int = tunable(64, 16, 512)
    max_neighbours: int | None = None
    """As in :class:`~gfmpot.models.PotentialConfig`."""

    def __post_init__(self) -> None:
        if self.head_layers < 0 or self.head_width < 1:
            raise ValueError(
                f"expected head_layers ≥ 0 and head_width ≥ 1, got {self.head_layers} and {self.head_width}"
            )

    @classmethod
    def of(cls, potential: Potential, **head: int) -> PropertyConfig:
        """The architecture of a potential, with ``head_layers`` and ``head_width`` of its own."""
        return cls(potential.config.backbone, max_neighbours=potential.config.max_neighbours, **head)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> PropertyConfig:
        """From plain types, as in a checkpoint; ``backbone`` is ``{"name": ..., **settings}``."""
        return from_mapping(cls, {**mapping, "backbone": backbone_config(dict(mapping["backbone"]))}, where="model")

    def to_mapping(self) -> dict[str, Any]:
        """The inverse of :meth:`from_mapping`."""
        return {**to_mapping(self), "backbone": backbone_mapping(self.backbone)}


@dataclass(frozen=True)
class Scaling:
    """Property = what composition alone says + ``scale`` × output of the network.

    What composition alone says is a sum of ``references`` for extensive properties, and ``offset`` for others.
    """

    elements: tuple[str, ...]
    """Those that occur in the training data; others are unsupported."""

    references: Mapping[str, float] = field(default_factory=dict)
    """By element, in the target's unit; of extensive properties."""

    offset: float = 0.0
    """In the target's unit; for classes a logit."""

    scale: float = 1.0
    """In the target's unit; of extensive properties per atom."""

    temperature: float = 1.0
    """Of classes: logits are divided by it, so that probabilities are those that there are on unseen structures."""

    def __post_init__(self) -> None:
        if not self.elements:
            raise ValueError("a property model needs the elements that it is trained on, got none")
        if not (self.scale > 0 and self.temperature > 0):
            raise ValueError(f"scale and temperature must be positive, got {self.scale} and {self.temperature}")

    @classmethod
    def fitted(cls, target: Target, composition: Floats, values: Floats) -> Scaling:
        """To training data: the best guess without a network, and its typical error.

        Args:
            target: of the values.
            composition: (S, 118) atoms of each element, as ``FrameSet.composition`` gives.
            values: (S,) in the target's unit; 0 or 1 for classes.
        """
        elements = tuple(chemical_symbols[z + 1] for z in np.flatnonzero(composition.any(axis=0)))
        if target.is_class:
            share = (values.sum() + 1) / (len(values) + 2)  # never certain
            return cls(elements, offset=math.log(share / (1 - share)))
        if target.kind == "extensive":
            references = fit_reference_energies(composition, values)
            table = element_table(references)
            left = (values - composition @ table) / composition.sum(axis=1)
            return cls(elements, references, scale=_typical(left))
        median = float(np.median(values))
        return cls(elements, offset=median, scale=_typical(values - median))


def _typical(errors: Floats) -> float:
    """The mean absolute error, which a few outliers do not decide; 1 where there are no errors."""
    return float(np.abs(errors).mean()) or 1.0
