"""What a message-passing backbone is, and how one is found by its name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gfmpot.config import from_mapping, to_mapping, tunable
from gfmpot.discovery import available, class_in
from gfmpot.graph import AtomGraph

Evaluator = Callable[[Tensor, Tensor, AtomGraph], Tensor]
"""Features of atoms: takes and returns what :meth:`Backbone.forward` does, with vectors in float64."""


@dataclass(frozen=True)
class TrainingKernels:
    """Features with either of two kinds of first derivatives."""

    by_vectors: Evaluator
    by_weights: Evaluator
    """And by the initial features."""


@dataclass(frozen=True)
class BackboneConfig:
    """Settings that every backbone has."""

    cutoff: float = tunable(5.0, 3.0, 8.0)
    """Å, within which atoms exchange messages."""

    mean_neighbours: float = 30.0
    """Typical number of neighbours in the training data; sums over neighbours are divided by its square root."""

    saturation: float = 0.65
    """Pairs that are closer than this share of the sum of their covalent radii look to the network as if they were
    farther apart (:mod:`gfmpot.models.saturation`); 0 is never."""

    def __post_init__(self) -> None:
        if not 0 <= self.saturation < 1:
            raise ValueError(f"saturation is a share of the sum of covalent radii, 0 to below 1, got {self.saturation}")
        if self.cutoff <= 0 or self.mean_neighbours <= 0:
            raise ValueError(
                f"cutoff and mean_neighbours must be positive, got {self.cutoff} Å and {self.mean_neighbours}"
            )


class Backbone(nn.Module, ABC):
    """A graph to invariant features of its atoms.

    A subclass lives in ``gfmpot/models/backbones/<name>.py``, has a frozen dataclass of settings as ``Config``, and
    needs no registration: the file's name is the backbone's. It must be smooth in the edge vectors up to and including
    the cutoff, finite for atoms without neighbours, and invariant under rotation and reflection; :mod:`gfmpot.testing`
    checks that.
    """

    Config: ClassVar[type[BackboneConfig]]

    hidden_features: int
    """F, width of the initial features that :meth:`forward` takes."""

    out_features: int
    """Width of the features that :meth:`forward` returns."""

    @abstractmethod
    def forward(self, initial: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """Exchange messages.

        Args:
            initial: (N, hidden_features), from element, charge and spin.
            vectors: (E, 3) Å, sender to receiver; the only geometry to be used, since forces are their gradient.
            graph: topology.

        Returns:
            (N, out_features), invariant.
        """

    def kernels(self, dense: torch.dtype) -> Evaluator | None:
        """The same features by compiled kernels, with their first derivatives by the vectors; None without any.

        Weights are taken as they are now and get no gradients.

        Args:
            dense: dtype of the products with dense layers: that of the weights, or bfloat16.
        """
        return None

    def training_kernels(self) -> TrainingKernels | None:
        """The same features by compiled kernels, with weights as they are now; None without any."""
        return None


def available_backbones() -> list[str]:
    """Names of the backbones: the files in ``gfmpot.models.backbones``."""
    from gfmpot.models import backbones

    return available(backbones)


def backbone_class(name: str) -> type[Backbone]:
    """The backbone defined in ``gfmpot/models/backbones/<name>.py``, imported on demand.

    Raises:
        ValueError: no such file, or a file that does not define exactly one backbone.
    """
    from gfmpot.models import backbones

    return class_in(backbones, name, Backbone, "backbone")  # type: ignore[type-abstract]


def backbone_config(mapping: dict[str, Any]) -> BackboneConfig:
    """The settings of a backbone from ``{"name": ..., **settings}``."""
    settings = dict(mapping)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise ValueError(f"backbone: missing 'name', one of {', '.join(available_backbones())}")
    return from_mapping(backbone_class(name).Config, settings, where=f"backbone {name}")


def backbone_mapping(config: BackboneConfig) -> dict[str, Any]:
    """The inverse of :func:`backbone_config`."""
    return {"name": backbone_name(config), **to_mapping(config)}


def backbone_name(config: BackboneConfig) -> str:
    """The backbone that a settings object belongs to: the file that defines it."""
    return type(config).__module__.rsplit(".", 1)[-1]


def build_backbone(config: BackboneConfig) -> Backbone:
    """A backbone with fresh weights."""
    cls: Any = backbone_class(backbone_name(config))
    backbone: Backbone = cls(config)
    return backbone
