"""Probabilities that are those that there are: the temperature of a class (Guo et al., ICML 2017, arXiv:1706.04599)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

COLDEST, HOTTEST = 0.02, 50.0
"""Where the search ends; nothing that was trained with a cross-entropy is so far off."""


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
    """The T for which sigmoid(logits / T) is most likely on structures that were not trained on.

    Instead of 0 and 1 it is fitted to what so many structures can say of either at most (Platt, *Probabilistic outputs
    for support vector machines*, 1999): a small set that logits separate perfectly is no reason for certainty.

    Args:
        logits: (S,) of the class.
        labels: (S,) 0 or 1.
    """
    positive = labels.sum()
    negative = len(labels) - positive
    wanted = np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def surprise(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float((np.logaddexp(0.0, scaled) - wanted * scaled).mean())

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    return math.exp(float(minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))
