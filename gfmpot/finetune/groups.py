"""Means over groups of structures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def group_means(values: Floats, codes: NDArray[np.int64]) -> Floats:
    """(S,) the mean of the values over the group of each structure, given by numbers (S,) from 0 on."""
    means: Floats = np.bincount(codes, values) / np.bincount(codes)
    return means[codes]


def less_group_means(values: Floats, codes: NDArray[np.int64]) -> Floats:
    """(S,) what is left of the values without the mean of their group."""
    return values - group_means(values, codes)
