"""What potentials and models of properties share: a backbone over initial features of atoms."""

from __future__ import annotations

import torch
from torch import nn

from gfmpot.models.backbone import BackboneConfig, build_backbone
from gfmpot.models.conditioning import AtomEmbedding


class Trunk(nn.Module):
    """Elements, charge and spin to features, and messages between atoms; a subclass makes answers of what comes out.

    Args:
        config: of the backbone.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config)
        self.embedding = AtomEmbedding(self.backbone.hidden_features)
        self.cutoff = config.cutoff  # Å

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network; geometry and sums are float64 always."""
        return self.embedding.elements.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.elements.weight.device

    def take_trunk(self, other: Trunk) -> None:
        """Copy what another one of the same shape has learnt below its answers."""
        self.backbone.load_state_dict(other.backbone.state_dict())
        self.embedding.load_state_dict(other.embedding.state_dict())
