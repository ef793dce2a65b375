"""Metrics against numbers known otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from gfmpot.finetune.metrics import classification, regression


def test_regression() -> None:
    # Worked by hand.
    found = regression([2.5, 0.0, 2.0, 8.0], [3.0, -0.5, 2.0, 7.0])
    assert found == pytest.approx({"mae": 0.5, "rmse": 0.375**0.5, "max_error": 1.0, "r2": 0.9486081370449679})
    assert "r2" not in regression([1.0, 2.0], [1.0, 1.0])


def test_classification() -> None:
    found = classification([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    assert found["roc_auc"] == 0.75
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["brier"] == pytest.approx((0.01 + 0.16 + 0.4225 + 0.04) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.6, 0.35, 0.8]).mean())


def test_ties_and_single_classes() -> None:
    assert classification([0.5, 0.5, 0.5], [0, 1, 1])["roc_auc"] == 0.5
    assert classification([0.2, 0.2, 0.9, 0.1], [1, 0, 1, 0])["roc_auc"] == 0.875
    alone = classification([0.2, 0.3], [0, 0])
    assert "roc_auc" not in alone
    assert "f1" not in alone
    assert alone["accuracy"] == 1.0
    assert classification([1.0, 0.0], [0, 1])["log_loss"] == pytest.approx(36.04, abs=0.01)


def test_calibration_error() -> None:
    """Of 0.9 that are right in 70 % of the cases: 0.2; the other bin is perfect."""
    p = np.r_[np.full(10, 0.9), np.full(10, 0.3)]
    labels = np.r_[np.ones(7), np.zeros(3), np.ones(3), np.zeros(7)]
    assert classification(p, labels)["ece"] == pytest.approx(0.1)
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    assert classification(p, rng.random(200_000) < p)["ece"] < 0.005
    assert classification([1.0], [1])["ece"] == 0.0


def test_the_same_as_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 500)
    p = np.round(np.clip(0.3 * labels + 0.7 * rng.random(500), 0, 1), 2)  # rounded, so that there are ties
    found = classification(p, labels)
    assert found["roc_auc"] == pytest.approx(sklearn.roc_auc_score(labels, p))
    assert found["f1"] == pytest.approx(sklearn.f1_score(labels, p >= 0.5))
    assert found["brier"] == pytest.approx(sklearn.brier_score_loss(labels, p))
    values, predicted = rng.normal(size=500), rng.normal(size=500)
    assert regression(predicted, values)["r2"] == pytest.approx(sklearn.r2_score(values, predicted))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1, 0.2], [0]), r"got shapes \(2,\) and \(1,\)"),
        (([], []), "expected as many predictions as values"),
        (([0.1, np.nan], [0, 1]), "prediction 1 is nan"),
        (([0.1, 0.2], [0, np.inf]), "value 1 is inf"),
        (([0.1, 0.2], [0, 2]), "labels of a class must be 0 or 1, got 2"),
        (([0.1, 1.2], [0, 1]), r"probabilities must be between 0 and 1, got 0\.1 to 1\.2"),
    ],
)
def test_mistakes(arguments: tuple[list[float], list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification(*arguments)
