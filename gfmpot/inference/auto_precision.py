"""``precision="auto"``: the cheapest precision whose rounding stays within a tolerance, found on the first structures.

Rounding is measured, not guessed: the same structures in float64, in float32 and in bfloat16. So is the cost, because
it depends on the machine and on the width of the network: a processor without bfloat16 units multiplies bfloat16 more
slowly than float32, and narrow layers gain nothing anywhere.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from gfmpot.config import did_you_mean, from_mapping
from gfmpot.graph import AtomGraph, InvalidStructureError
from gfmpot.inference.batches import ran_out_of_memory
from gfmpot.inference.precision import Precision
from gfmpot.inference.predictor import Predictor, Results
from gfmpot.models import Potential

SAMPLE = 8
"""Structures, of many, on which the choice is made."""

REPEATS = 5
"""Evaluations that are timed, in turns; the shortest counts."""

WORTH = 0.8
"""Bfloat16 is worth its rounding only if it takes less than this share of the time; and noise of timing must not
decide."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tolerance:
    """How far results may be from those in float64.

    The defaults are a tenth of what electronic-structure calculations are usually converged to.
    """

    energy: float = 1e-4
    """eV/atom."""

    forces: float = 1e-3
    """eV/Å, of any component."""

    def __post_init__(self) -> None:
        for name in ("energy", "forces"):
            if not getattr(self, name) > 0:
                raise ValueError(f"tolerance.{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True)
class Trial:
    """One precision on the first structures."""

    precision: str
    energy: float
    """eV/atom, largest difference from float64; infinite if it gave no finite answer."""

    forces: float
    """eV/Å, largest difference of a component."""

    seconds: float
    """Of an evaluation, the shortest."""

    def within(self, tolerance: Tolerance) -> bool:
        """Whether both differences are tolerated."""
        return self.energy <= tolerance.energy and self.forces <= tolerance.forces

    def __str__(self) -> str:
        return f"{self.precision} {self.energy:.1e} eV/atom, {self.forces:.1e} eV/Å, {1e3 * self.seconds:.1f} ms"


@dataclass(frozen=True)
class Choice:
    """The precision chosen, and what was known when it was."""

    precision: str
    tolerance: Tolerance
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        limits = f"{self.tolerance.energy:g} eV/atom, {self.tolerance.forces:g} eV/Å"
        return f"precision auto: {self.precision} (tolerance {limits}; {'; '.join(map(str, self.trials))})"


def choose_precision(graph: AtomGraph, tolerance: Tolerance, make_predictor: Callable[[str], Predictor]) -> Choice:
    """Try all precisions on ``graph``, and take the cheapest that the tolerance allows.

    That is float32 if it is within the tolerance, or bfloat16 if that is too and takes less than :data:`WORTH` of the
    time; float64 otherwise (if bfloat16 alone is within the tolerance, that is luck). Differences repeat bit for bit on
    a CPU, and of times only a clear gap enters. A precision that the hardware does not have is logged and not taken.

    Args:
        graph: one or several structures.
        tolerance: against float64.
        make_predictor: from a precision to what evaluates in it.

    Raises:
        ValueError: structures that the model cannot answer for.
    """
    exact = make_predictor("fp64")
    expected = exact(graph)
    tried = {name: _tried(name, make_predictor, graph, expected) for name in ("fp32", "bf16")}
    tried["fp64"] = exact, _difference(exact, graph, expected)
    times = _seconds([predictor for predictor, off in tried.values() if predictor and np.isfinite(off).all()], graph)
    trials = {name: Trial(name, *off, times.get(name, math.inf)) for name, (_, off) in tried.items()}
    chosen = "fp64"
    if trials["fp32"].within(tolerance):
        faster = trials["bf16"].seconds < WORTH * trials["fp32"].seconds
        chosen = "bf16" if faster and trials["bf16"].within(tolerance) else "fp32"
    return Choice(chosen, tolerance, tuple(trials.values()))


class AutoPredictor(Predictor):
    """A predictor that chooses its precision on the first structures it gets, and keeps it.

    Until then it is one in float64. A compiled network is compiled for the choice only; the trials run the plain one.

    Args:
        model: as for :class:`Predictor`.
        tolerance: against float64.
        choice: one that was made before.
        options: the others of :class:`Predictor`.
    """

    def __init__(
        self,
        model: str | Path | Potential = "default",
        *,
        tolerance: Tolerance,
        choice: Choice | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, precision=choice.precision if choice else "fp64", **options)
        self.tolerance, self.choice = tolerance, choice
        self._undecided: tuple[str | Path | Potential, dict[str, Any]] | None = None if choice else (model, options)

    def __call__(self, graph: AtomGraph) -> list[Results]:
        """Results of each structure in one batch, all of which have a say in the choice if it is not made yet."""
        self.decide(graph)
        return super().__call__(graph)

    def many(self, graphs: Iterable[AtomGraph]) -> Iterator[Results]:
        """Results of each structure; the first few have a say in the choice."""
        stream = iter(graphs)
        first = list(itertools.islice(stream, SAMPLE if self.choice is None else 0))
        if first:
            self.decide(AtomGraph.batch(next(self.budget.pack(first))))
        yield from super().many(itertools.chain(first, stream))

    def decide(self, graph: AtomGraph) -> Choice:
        """The choice, made on ``graph`` if it has not been made before."""
        if self.choice is None:
            assert self._undecided is not None
            model, options = self._undecided
            trial_options = {**options, "compile": False} if options.get("compile") is True else options
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the predictor that stays says it all again
                choice = choose_precision(
                    graph, self.tolerance, lambda precision: Predictor(model, precision=precision, **trial_options)
                )
            super().__init__(model, precision=choice.precision, **options)
            self.choice, self._undecided = choice, None
            _log.info("%s", choice)
        return self.choice


def build_predictor(
    model: str | Path | Potential = "default",
    *,
    precision: str = "fp32",
    tolerance: Mapping[str, float] | None = None,
    choice: Choice | None = None,
    **options: Any,
) -> Predictor:
    """A predictor in the precision asked for, or one that chooses (``"auto"``).

    Args:
        model: as for :class:`Predictor`.
        precision: ``fp32``, ``fp64``, ``bf16`` or ``auto``.
        tolerance: of ``auto``: ``energy`` (eV/atom) and ``forces`` (eV/Å); what is left out has its default.
        choice: that ``auto`` made before.
        options: the others of :class:`Predictor`.

    Raises:
        ValueError: as :class:`Predictor`, or a tolerance that is unknown, not positive, or of a fixed precision.
    """
    known = ("auto", *get_args(Precision))
    if precision not in known:
        raise ValueError(f"no precision {precision!r}{did_you_mean(str(precision), known)}")
    if precision == "auto":
        limits = from_mapping(Tolerance, tolerance or {}, where="tolerance")
        return AutoPredictor(model, tolerance=limits, choice=choice, **options)
    if tolerance is not None:
        raise ValueError(f"a tolerance is for precision 'auto' to keep, got precision {precision!r}; leave one out")
    return Predictor(model, precision=precision, **options)


def _tried(
    name: str, make_predictor: Callable[[str], Predictor], graph: AtomGraph, expected: Sequence[Results]
) -> tuple[Predictor | None, tuple[float, float]]:
    """A predictor and its :func:`_difference`; None and infinite if this machine cannot run it."""
    try:
        predictor = make_predictor(name)
        return predictor, _difference(predictor, graph, expected)
    except RuntimeError as error:  # as PyTorch says that a processor has no bfloat16
        if ran_out_of_memory(error):
            raise
        _log.warning("precision auto: %s does not run here (%s)", name, str(error).partition("\n")[0])
        return None, (math.inf, math.inf)


def _difference(predictor: Predictor, graph: AtomGraph, expected: Sequence[Results]) -> tuple[float, float]:
    """Of energies (eV/atom) and forces (eV/Å); infinite without a finite answer."""
    try:
        found = predictor(graph)
    except InvalidStructureError:  # float64 has answered, so it is the precision that makes it not finite
        return math.inf, math.inf
    pairs = list(zip(found, expected, strict=True))
    energy = max(abs(a["energy"] - b["energy"]) / len(b["forces"]) for a, b in pairs)
    return energy, max(float(np.abs(a["forces"] - b["forces"]).max()) for a, b in pairs)


def _seconds(predictors: Sequence[Predictor], graph: AtomGraph) -> dict[str, float]:
    """By precision, of the fastest of a few evaluations, after one that has warmed things up."""
    times: dict[str, list[float]] = {predictor.precision: [] for predictor in predictors}
    for _ in range(REPEATS):
        for predictor in predictors:
            begun = time.perf_counter()
            predictor(graph)
            times[predictor.precision].append(time.perf_counter() - begun)
    return {precision: min(measured) for precision, measured in times.items()}
