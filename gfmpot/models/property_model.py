"""Models of properties that are no energies: a potential's backbone under a small head of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from gfmpot.graph import UNSPECIFIED_SPIN, AtomGraph, edge_vectors
from gfmpot.models.backbone import Evaluator
from gfmpot.models.conditioning import N_ELEMENTS
from gfmpot.models.constants import Constants
from gfmpot.models.potential import Potential
from gfmpot.models.property_config import PropertyConfig, Scaling
from gfmpot.models.property_head import Features, PropertyHead
from gfmpot.models.references import UnsupportedElementsError
from gfmpot.models.target import Target
from gfmpot.models.trunk import Trunk


class PropertyModel(Trunk):
    """Structures to one number each: a property, or the probability of a class.

    A neutral singlet is to it what a structure of unstated multiplicity is, so that answers for molecules do not depend
    on whether a file format has room for the multiplicity.

    Args:
        config: shape.
        target: what is predicted.
        scaling: what turns the network's output into the target, and the elements that it knows.
        metadata: free-form facts kept in the checkpoint (training, metrics, card).

    Raises:
        ValueError: the target is an energy.
    """

    def __init__(
        self, config: PropertyConfig, target: Target, scaling: Scaling, metadata: Mapping[str, Any] | None = None
    ) -> None:
        if target.kind == "energy":
            raise ValueError(f"target {target.name} is an energy, which has forces: train a Potential on it")
        super().__init__(config.backbone)
        self.config, self.target, self.scaling = config, target, scaling
        self.metadata = dict(metadata or {})
        pooling = "sum" if target.kind == "extensive" else target.pooling
        self.head = PropertyHead(self.backbone.out_features, config.head_layers, config.head_width, pooling)
        self.elements = _Elements(scaling)

    @classmethod
    def begun_with(
        cls, potential: Potential | None, config: PropertyConfig, target: Target, scaling: Scaling, *, seed: int = 0
    ) -> PropertyModel:
        """A model to be trained: backbone and embedding of ``potential``, or fresh ones, under a fresh head.

        Args:
            potential: what was trained before; None begins from scratch.
            config: shape; ``PropertyConfig.of(potential)`` is that of a potential.
            target: what is to be predicted.
            scaling: ``Scaling.fitted`` to the training data.
            seed: of fresh weights. The head does not depend on where the backbone comes from.

        Raises:
            ValueError: the potential has another architecture than ``config``.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # of the CPU alone, which is what is put back
            model = cls(config, target, scaling)
        if potential is None:
            return model
        theirs, ours = ((c.backbone, c.max_neighbours) for c in (potential.config, config))
        if theirs != ours:
            raise ValueError(
                f"the potential has backbone and max_neighbours {theirs}, the model {ours}; use "
                "PropertyConfig.of(potential)"
            )
        model.to(potential.device, potential.dtype)
        model.take_trunk(potential)
        return model

    def forward(
        self, graph: AtomGraph, *, evaluate: Evaluator | None = None, allow_unsupported: bool = False
    ) -> Tensor:
        """(G,) float64: the property in its unit, or the calibrated probability of a class.

        Args:
            graph: structures.
            evaluate: what stands in for the backbone, e.g. its kernels.
            allow_unsupported: answer for elements that were not in the training data, too.

        Raises:
            UnsupportedElementsError: names such elements.
        """
        if not allow_unsupported:
            self.require_elements(graph)
        return self.answers(self.raw(graph, evaluate=evaluate))

    def raw(self, graph: AtomGraph, *, evaluate: Evaluator | None = None) -> Tensor:
        """(G,) float64, what a loss is of: the property in its unit, or the logit of a class before calibration."""
        return self.of_features(self.features(graph, evaluate=evaluate))

    def answers(self, raw: Tensor) -> Tensor:
        """What :meth:`raw` means: itself, or for classes the calibrated probability."""
        return torch.sigmoid(raw / self.scaling.temperature) if self.target.is_class else raw

    def features(self, graph: AtomGraph, *, evaluate: Evaluator | None = None) -> Features:
        """What the head gets."""
        graph = without_singlets(graph)
        rows = self.atom_features(self.embedding(graph), edge_vectors(graph), graph, evaluate)
        return Features(rows, graph.atoms_per_structure, self.baseline(graph))

    def of_features(self, features: Features) -> Tensor:
        """As :meth:`raw`."""
        output: Tensor = self.head(features)
        return features.baseline + self.scaling.scale * output

    def baseline(self, graph: AtomGraph) -> Tensor:
        """(G,) float64, what composition alone says: in the target's unit, or a logit."""
        return graph.composition @ self.elements.references[1:] + self.scaling.offset

    def require_elements(self, graph: AtomGraph) -> None:
        """Raise unless all elements were in the training data.

        Raises:
            UnsupportedElementsError: names those that were not, and those that were.
        """
        lacking = ~self.elements.known[graph.atomic_numbers]
        if not lacking.any():
            return
        symbols = sorted({chemical_symbols[z] for z in graph.atomic_numbers[lacking].tolist()})
        raise UnsupportedElementsError(
            f"the model of {self.target.name} was not trained on {', '.join(symbols)}; it knows "
            f"{', '.join(self.scaling.elements)}. Use a model that covers them, or allow_unsupported=True for a guess"
        )

    def with_temperature(self, temperature: float) -> PropertyModel:
        """This model, from now on with another temperature of its class."""
        self.scaling = dataclasses.replace(self.scaling, temperature=temperature)
        return self


class _Elements(Constants):
    """Tables by element."""

    references: Tensor  # (119,) float64, in the target's unit
    known: Tensor  # (119,) bool

    def __init__(self, scaling: Scaling) -> None:
        super().__init__()
        values = scaling.references
        # What allow_unsupported lets through is taken for an average element.
        usual = sum(values.values()) / len(values) if values else 0.0
        references = torch.full((N_ELEMENTS,), usual, dtype=torch.float64)
        for symbol, value in values.items():
            references[atomic_numbers[symbol]] = value
        known = torch.tensor([symbol in scaling.elements for symbol in chemical_symbols[:N_ELEMENTS]])
        self.register_buffer("references", references, persistent=False)
        self.register_buffer("known", known, persistent=False)


def without_singlets(graph: AtomGraph) -> AtomGraph:
    """The graph with the multiplicity of neutral singlets left out; itself if there are none."""
    singlets = (graph.charge == 0) & (graph.spin == 1)
    if not singlets.any():
        return graph
    return graph.replace(spin=graph.spin.masked_fill(singlets, UNSPECIFIED_SPIN))
