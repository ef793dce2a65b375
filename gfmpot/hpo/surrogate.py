"""DeepHyper's Bayesian optimisation of a search space."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gfmpot.hpo.space import Parameter, SearchSpace, Values

Told = tuple[Values, float | str]
"""A configuration and its objective: larger is better, a text is a failure."""


def deephyper(module: str = "hpo") -> Any:
    """A module of the package, which has no types.

    Raises:
        ImportError: it is not installed; says how to.
    """
    try:
        with _without_mpi():
            return importlib.import_module(f"deephyper.{module}")
    except ImportError as error:
        raise ImportError(f'a search needs DeepHyper: pip install "gfmpot[hpo]" ({error})') from error


@contextmanager
def _without_mpi() -> Iterator[None]:
    """DeepHyper loads MPI, if it can, and leaves it uninitialised; ASE, which uses MPI where it is loaded, then aborts.

    It is for storage that is not used here.
    """
    if "mpi4py" in sys.modules:
        yield
        return
    sys.modules["mpi4py"] = None  # type: ignore[assignment]  # which makes imports fail
    try:
        yield
    finally:
        del sys.modules["mpi4py"]


class Surrogate:
    """Proposes configurations, and learns from what became of them.

    It is DeepHyper's centralised Bayesian optimisation (CBO): extremely randomised trees, an upper confidence bound
    whose weight of exploration decays periodically, failures as bad as the worst. Candidates are sampled: DeepHyper's
    genetic algorithm takes thirty times as long, which is longer than a small trial.

    Args:
        space: what is searched.
        seed: of proposals. A search that goes on needs another one, or it would repeat its first proposals.
        initial: successful trials before the surrogate is used; proposals are random until then.
        folder: for files of DeepHyper.
    """

    def __init__(self, space: SearchSpace, seed: int, initial: int, folder: str) -> None:
        hpo = deephyper()
        problem = hpo.HpProblem()
        for parameter in space.parameters:
            problem.add_hyperparameter(_dimension(parameter), parameter.name)
        self._space = space
        self._search: Any = hpo.CBO(
            problem,
            random_state=seed,
            log_dir=folder,
            checkpoint_history_to_csv=False,
            n_initial_points=initial,
            acq_optimizer="sampling",
            acq_optimizer_kwargs={"max_total_failures": -1},  # they never stop a search
        )

    def tell(self, results: Iterable[Told]) -> None:
        """Learn from results."""
        told = [
            ({p.name: _encoded(p, values[p.name]) for p in self._space.parameters}, objective)
            for values, objective in results
        ]
        if told:
            self._search.tell(told)

    def ask(self, count: int) -> list[dict[str, Any]]:
        """Configurations to try, different from each other and from earlier ones."""
        with warnings.catch_warnings():
            # It is of distances in the parameters' own units, in which small rates are all the same.
            warnings.filterwarnings("ignore", "The objective has been evaluated at this point before")
            found = self._search.ask(count)
        return [{p.name: _decoded(p, proposed[p.name]) for p in self._space.parameters} for proposed in found]


def _dimension(parameter: Parameter) -> Sequence[Any]:
    """In DeepHyper's notation: a tuple is a range, a list is one of choices."""
    if parameter.kind == "choice":
        return [_encoded(parameter, choice) for choice in parameter.choices]
    kind = int if parameter.kind == "int" else float
    ends = kind(parameter.low), kind(parameter.high)
    return (*ends, "log-uniform") if parameter.log else ends


def _is_ordered(parameter: Parameter) -> bool:
    return all(isinstance(c, int | float) and not isinstance(c, bool) for c in parameter.choices)


def _encoded(parameter: Parameter, value: Any) -> Any:
    """Choices that are not numbers have names."""
    if parameter.kind != "choice" or _is_ordered(parameter):
        return value
    return value if isinstance(value, str) else json.dumps(value)


def _decoded(parameter: Parameter, value: Any) -> Any:
    if parameter.kind == "choice":
        return next(choice for choice in parameter.choices if _encoded(parameter, choice) == value)
    if parameter.kind == "int":
        return int(value)
    return min(max(float(value), parameter.low), parameter.high)  # logarithms and back may end just outside
