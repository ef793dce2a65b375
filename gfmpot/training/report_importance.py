"""Which hyper-parameters matter: how much worse a random forest predicts losses of trials when one is shuffled."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from gfmpot.training.report_run import Floats
from gfmpot.training.report_search import Search
from gfmpot.training.report_style import CYCLE, MAIN, MUTED, Picture, panels, picture

ENOUGH = 20
"""Successful trials."""

FOLDS, SHUFFLES = 5, 20


@dataclass(frozen=True)
class Importance:
    """Of each hyper-parameter."""

    names: list[str]
    values: Floats
    """How much of the variance of the logarithm of losses is lost when it is shuffled, on trials held out."""

    explained: float
    """Share of the variance that the forest explains, on trials held out."""

    trend: list[float]
    """Rank correlation with the loss; NaN of choices without an order."""


LEAST = 0.1
"""Of the variance, that a forest has to explain: some tens of trials of pure noise have a few hundredths by chance."""


def importance(search: Search) -> tuple[Picture | None, str]:
    """A figure, or why there is none."""
    done = np.flatnonzero(np.isfinite(search.losses))
    if not len(done):
        return None, ""
    if len(done) < ENOUGH:
        return None, f"Importance of hyper-parameters: needs {ENOUGH} successful trials, there are {len(done)}."
    varied = [name for name in search.parameters if len({search.rows[i][name] for i in done}) > 1]
    try:
        found = permutation(varied, [[search.rows[i][name] for i in done] for name in varied], search.losses[done])
    except ImportError:
        return None, 'Importance of hyper-parameters: needs scikit-learn; pip install "gfmpot[hpo]".'
    if found.explained < LEAST:
        return None, (
            f"Importance of hyper-parameters: {len(done)} trials are too few to tell. A random forest explains "
            f"{max(0.0, found.explained):.0%} of the variance of losses of trials that it has not seen."
        )
    return _draw(found, len(done)), ""


def permutation(names: Sequence[str], columns: Sequence[Sequence[str]], losses: Floats) -> Importance:
    """Permutation importance (Breiman, 2001) on trials held out.

    Args:
        names: of the hyper-parameters.
        columns: their values as texts, by trial.
        losses: of the trials, above zero.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    forest: Any = importlib.import_module("sklearn.ensemble").RandomForestRegressor
    encoded = [_encoded(column) for column in columns]
    x, y = np.stack([values for values, _ in encoded], axis=1), np.log(losses)
    rng = np.random.default_rng(0)
    fold = rng.permutation(len(y)) % FOLDS
    base, lost = np.zeros(len(y)), np.zeros((len(names), len(y)))
    for f in range(FOLDS):
        held = fold == f
        model = forest(200, min_samples_leaf=2, max_features=0.5, random_state=f).fit(x[~held], y[~held])
        base[held] = (model.predict(x[held]) - y[held]) ** 2
        for k in range(len(names)):
            lost[k, held] = _shuffled(model, x[held], y[held], k, rng)
    variance = np.var(y)
    trend = [float(spearmanr(values, losses).statistic) if ordered else np.nan for values, ordered in encoded]
    explained = 1 - float(base.mean() / variance)
    return Importance(
        [n.removeprefix("p:") for n in names], (lost.mean(axis=1) - base.mean()) / variance, explained, trend
    )


def _shuffled(model: Any, x: Floats, y: Floats, column: int, rng: np.random.Generator) -> Floats:
    """Mean squared errors of each trial when others' values take the place of its own."""
    many = np.tile(x, (SHUFFLES, 1))
    many[:, column] = np.concatenate([rng.permutation(x[:, column]) for _ in range(SHUFFLES)])
    errors: NDArray[np.float64] = (model.predict(many).reshape(SHUFFLES, -1) - y) ** 2
    means: Floats = errors.mean(axis=0)
    return means


def _encoded(cells: Sequence[str]) -> tuple[Floats, bool]:
    """Numbers, and whether they have an order."""
    try:
        return np.array([float(cell) for cell in cells]), True
    except ValueError:
        known = sorted(set(cells))
        return np.array([float(known.index(cell)) for cell in cells]), False


def _draw(found: Importance, trials: int) -> Picture:
    order = np.argsort(found.values)
    figure, (axis,) = panels(1, 1, 0.9 + 0.24 * len(order))
    colours = [MUTED if np.isnan(t) else CYCLE[3] if t > 0 else MAIN for t in np.array(found.trend)[order]]
    axis.barh([found.names[i] for i in order], found.values[order].clip(min=0), color=colours, height=0.65)
    for y, i in enumerate(order):
        text = "" if np.isnan(found.trend[i]) else f"ρ {found.trend[i]:+.2f}".replace("-", "−")
        axis.annotate(text, (max(0.0, found.values[i]), y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("share of the variance of log validation loss that is lost when the hyper-parameter is shuffled")
    axis.set_xlim(0, 1.1 * max(1e-6, found.values.max()))
    about = (
        f"Importance of hyper-parameters over {trials} trials: a random forest explains {found.explained:.0%} of the "
        "variance of trials that it has not seen. ρ: rank correlation with the loss; blue: the larger, the better."
    )
    return picture("search-importance", about, figure)
