"""Which parameters of a potential are of what kind, by their names."""

from __future__ import annotations

from torch import Tensor

NARROWEST = 32
"""Rows and columns from which on a matrix is a dense layer between features."""


def is_shared(name: str) -> bool:
    """Whether a parameter belongs to what all branches share."""
    return name.startswith(("backbone.", "embedding."))


def is_matrix(name: str, p: Tensor) -> bool:
    """Whether it is a dense layer between features of the backbone, not one from a handful of basis functions."""
    return name.startswith("backbone.") and p.ndim == 2 and min(p.shape) >= NARROWEST
