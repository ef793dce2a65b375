"""What potentials and models of properties share: a backbone over initial features of atoms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gfmpot.graph import AtomGraph
from gfmpot.models.backbone import BackboneConfig, Evaluator, build_backbone
from gfmpot.models.conditioning import AtomEmbedding
from gfmpot.models.saturation import SaturatedLengths


class Trunk(nn.Module):
    """Elements, charge and spin to features, and messages between atoms; a subclass makes answers of what comes out.

    Args:
        config: of the backbone.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config)
        self.embedding = AtomEmbedding(self.backbone.hidden_features)
        self.saturation = SaturatedLengths(config.saturation) if config.saturation else None
        self.cutoff = config.cutoff  # Å

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network; geometry and sums are float64 always."""
        return self.embedding.elements.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.elements.weight.device

    def shown(self, vectors: Tensor, graph: AtomGraph) -> Tensor:
        """(E, 3) Å, edge vectors as the backbone is to see them: close atoms no closer than its data."""
        return self.saturation(vectors, graph) if self.saturation else vectors

    def atom_features(
        self, initial: Tensor, vectors: Tensor, graph: AtomGraph, evaluate: Evaluator | None = None
    ) -> Tensor:
        """(N, F) of the backbone.

        Args:
            initial: (N, hidden_features) of the embedding.
            vectors: (E, 3) Å, edge vectors as they are, of any precision.
            graph: topology.
            evaluate: what stands in for the backbone, e.g. its kernels; by default PyTorch's operations.
        """
        shown = self.shown(vectors, graph)
        features: Tensor = (
            evaluate(initial, shown, graph) if evaluate else self.backbone(initial, shown.to(self.dtype), graph)
        )
        return features

    def take_trunk(self, other: Trunk) -> None:
        """Copy what another one of the same shape has learnt below its answers."""
        self.backbone.load_state_dict(other.backbone.state_dict())
        self.embedding.load_state_dict(other.embedding.state_dict())
