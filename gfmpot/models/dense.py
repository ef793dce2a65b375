"""Dense networks, of which all else is made."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
