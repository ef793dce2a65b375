"""A model of a property as its training sees it: by kernels, and with the features of a frozen backbone kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gfmpot.data.sampler import permuted
from gfmpot.finetune.property_data import Batches, FeatureBatches, GraphBatches, Inputs, Ints, Part, PropertyData
from gfmpot.finetune.property_settings import PropertySettings
from gfmpot.inference.precision import dense_layers_in
from gfmpot.models import PropertyModel
from gfmpot.models.backbone import Evaluator
from gfmpot.models.property_head import Features

EVALUATED = 256
"""Structures that are evaluated together."""

STANDARD = 2000
"""Training structures from which the head takes the units of its features."""


class PropertyNetwork:
    """Batches of some splits, and what the model says of them.

    A frozen backbone is evaluated once per structure. What is kept then is one row per structure where the head takes
    means over atoms, and one per atom where it does not.

    Args:
        model: whose weights are used as they are at each call.
        data: by split.
        settings: of the run.
    """

    def __init__(self, model: PropertyModel, data: Mapping[str, PropertyData], settings: PropertySettings) -> None:
        self.model, self.data, self.settings = model, data, settings
        total = sum(len(own) for own in data.values())
        room = 0.0 if settings.optim.frozen else 1e9 * settings.kept_gigabytes / total
        self._graphs = {
            split: GraphBatches(
                own, model.config, max_edges=settings.max_edges, kept_bytes=room * len(own), threads=settings.threads
            )
            for split, own in data.items()
        }
        self._kept: dict[str, FeatureBatches] = {}

    def source(self, split: str) -> Batches:
        """Batches of a split: of graphs, or of the features that a frozen backbone makes of them."""
        if not self.settings.optim.frozen:
            return self._graphs[split]
        if split not in self._kept:
            features = Features.join(list(self._evaluated(self._graphs[split], np.arange(len(self.data[split])))))
            self._kept[split] = FeatureBatches(features, self.data[split].values)
        return self._kept[split]

    def epoch(self, number: int, place: int) -> Iterator[list[Part]]:
        """Batches of the training split in the order of an epoch, from ``place`` on."""
        size = len(self.data["train"])
        order = permuted(np.arange(size), size, (self.settings.seed, number))
        return self.source("train").batches(order[place:], self.settings.batch_size)

    def trained(self, parts: Sequence[Part]) -> Iterator[tuple[Tensor, Tensor]]:
        """What the model says of each part, with gradients by its weights, and what it should say."""
        kernels = None
        if self.settings.precision != "bf16" and not self.settings.optim.frozen:
            found = self.model.backbone.training_kernels()
            kernels = found.by_weights if found else None
        for inputs, values in parts:
            with dense_layers_in(self.settings.precision):
                raw = self.model.of_features(self._features(inputs, kernels))
            yield raw, values.to(raw.device)

    @torch.no_grad()
    def raw(self, split: str) -> Tensor:
        """(S,) float64 on the CPU: what the model says of a split."""
        answers = []
        for features in self._evaluated(self.source(split), np.arange(len(self.data[split]))):
            with dense_layers_in(self.settings.precision):
                answers.append(self.model.of_features(features).cpu())
        return torch.cat(answers)

    def standardise(self) -> None:
        """Give the head the units of the features of the training split, unless it has some already."""
        if self.model.head.is_standardised:
            return
        size = len(self.data["train"])
        order = permuted(np.arange(size), size, (self.settings.seed,))[:STANDARD]
        self.model.head.standardise(Features.join(list(self._evaluated(self.source("train"), order))))

    def _evaluated(self, source: Batches, order: Ints) -> Iterator[Features]:
        """Features without gradients, by batch."""
        dense = torch.bfloat16 if self.settings.precision == "bf16" else self.model.dtype
        kernels = self.model.backbone.kernels(dense) if isinstance(source, GraphBatches) else None
        for parts in source.batches(order, EVALUATED):
            for inputs, _ in parts:
                with torch.no_grad(), dense_layers_in(self.settings.precision):
                    features = self._features(inputs, kernels)
                yield features.pooled() if self.model.head.pooling == "mean" else features

    def _features(self, inputs: Inputs, kernels: Evaluator | None) -> Features:
        if isinstance(inputs, Features):
            return inputs
        return self.model.features(inputs.to(self.model.device), evaluate=kernels)
