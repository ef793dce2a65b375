"""How good predictions are: of numbers, and of probabilities."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Metrics = dict[str, float]

BINS = 15
"""Of probabilities, for the expected calibration error (Guo et al., ICML 2017, arXiv:1706.04599)."""


def regression(predictions: ArrayLike, values: ArrayLike) -> Metrics:
    """Errors of predictions (S,) of values (S,).

    Returns:
        ``mae``, ``rmse`` and ``max_error`` in the unit of the values; ``r2``, the coefficient of determination, which
        is left out where all values are the same.

    Raises:
        ValueError: arrays of different length, empty, or with NaN.
    """
    predicted, true = _checked(predictions, values)
    errors = predicted - true
    metrics = {
        "mae": float(np.abs(errors).mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "max_error": float(np.abs(errors).max()),
    }
    spread = float(((true - true.mean()) ** 2).sum())
    return {**metrics, "r2": 1.0 - float((errors**2).sum()) / spread} if spread > 0 else metrics


def classification(probabilities: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> Metrics:
    """How good probabilities (S,) are for labels (S,), which are 0 or 1.

    Returns:
        ``roc_auc``; ``f1`` and ``accuracy`` of saying yes from ``threshold`` on; ``brier``, the mean squared error;
        ``log_loss``; ``ece``, the expected calibration error. With one class alone there is no ``roc_auc``, and with no
        case that is positive or called so no ``f1``.

    Raises:
        ValueError: arrays of different length, empty, with NaN, labels beside 0 and 1, or no probabilities.
    """
    p, true = _checked(probabilities, labels)
    if not np.isin(true, (0.0, 1.0)).all():
        raise ValueError(f"labels of a class must be 0 or 1, got {true[~np.isin(true, (0.0, 1.0))][0]:g}")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probabilities must be between 0 and 1, got {p.min():g} to {p.max():g}")
    metrics = {
        "roc_auc": _roc_auc(p, true),
        "f1": _f1(p >= threshold, true == 1),
        "accuracy": float(((p >= threshold) == (true == 1)).mean()),
        "brier": float(((p - true) ** 2).mean()),
        "log_loss": _log_loss(p, true),
        "ece": _calibration_error(p, true),
    }
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _checked(predictions: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    predicted, true = np.asarray(predictions, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if predicted.shape != true.shape or predicted.ndim != 1 or not len(true):
        raise ValueError(f"expected as many predictions as values, got shapes {predicted.shape} and {true.shape}")
    for name, array in (("prediction", predicted), ("value", true)):
        if not np.isfinite(array).all():
            bad = int(np.argmin(np.isfinite(array)))
            raise ValueError(f"{name} {bad} is {array[bad]}; leave out what has no label")
    return predicted, true


def _roc_auc(p: Floats, true: Floats) -> float:
    """The chance that a positive case ranks above a negative one; ties count half (Mann and Whitney, 1947)."""
    positive = int(true.sum())
    negative = len(true) - positive
    if not positive or not negative:
        return math.nan
    ranks = float(rankdata(p)[true == 1].sum())
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def _f1(called: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    involved = int(called.sum()) + int(true.sum())
    return 2 * int((called & true).sum()) / involved if involved else math.nan


def _log_loss(p: Floats, true: Floats) -> float:
    tiny = float(np.finfo(np.float64).eps)
    chance = np.where(true == 1, p, 1 - p).clip(tiny)  # a sure error costs 36, not infinity
    return float(-np.log(chance).mean())


def _calibration_error(p: Floats, true: Floats) -> float:
    """Mean distance of the share of positive cases from the mean probability, over equal bins of probability."""
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(bins, p - true, minlength=BINS)).sum()) / len(p)
