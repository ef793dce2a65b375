"""One list of checks for everything that gives energies and forces: backbones, potentials, ASE calculators."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from gfmpot.config import did_you_mean
from gfmpot.models import Backbone, BackboneConfig, Potential, backbone_class
from gfmpot.testing import derivatives, gradients, locality, refusals, symmetry
from gfmpot.testing.compare import Errors, NotApplicable
from gfmpot.testing.subject import Subject, calculator_subject, potential_subject, random_potential


@dataclass(frozen=True)
class Check:
    """A property, how its violation is measured, and how much of it is tolerated."""

    name: str
    tolerance: float
    measure: Callable[[Subject], Errors]


CHECKS = (
    Check("rotation", 1e-8, symmetry.rotation),
    Check("reflection", 1e-8, symmetry.reflection),
    Check("translation", 1e-8, symmetry.translation),
    Check("lattice translations", 1e-8, symmetry.lattice_translations),
    Check("permutation", 1e-8, symmetry.permutation),
    Check("cell basis", 1e-8, symmetry.cell_basis),
    Check("forces = differences", 1e-6, derivatives.forces),
    Check("stress = differences", 1e-6, derivatives.stress),
    Check("smooth at cutoff", 10.0, derivatives.smoothness),
    Check("nothing at cutoff", 1e-8, derivatives.vanishing_at_cutoff),
    Check("two copies", 1e-10, locality.two_copies),
    Check("supercell", 1e-10, locality.supercell),
    Check("energies add up", 1e-8, locality.shares),
    Check("edge cases", 0.0, locality.edge_cases),
    Check("isolation", 1e-8, locality.isolation),
    Check("dummy cell", 1e-8, locality.dummy_cell),
    Check("perfect crystals", 1e-8, symmetry.perfect_crystals),
    Check("repeatability", 0.0, symmetry.repeatability),
    Check("atoms left alone", 0.0, symmetry.atoms_left_alone),
    Check("refusals", 0.0, refusals.refusals),
    Check("batch = singles", 1e-8, gradients.batches),
    Check("training = answering", 1e-8, gradients.training_path),
    Check("double backward", 0.0, gradients.double_backward),
    Check("parameters learn", 0.0, gradients.parameters_learn),
    Check("charge and spin", 1e-8, gradients.charge_and_spin),
)
"""Errors are relative, see :mod:`gfmpot.testing.compare`; 0 means that a statement must hold."""


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    name: str
    measured: float | None
    """The largest error; infinite when a statement does not hold or an evaluation failed, None when skipped."""

    tolerance: float
    passed: bool
    note: str
    """Where the error was largest, or why the check was skipped."""

    @property
    def skipped(self) -> bool:
        """Whether the check does not apply."""
        return self.measured is None

    def __str__(self) -> str:
        state = "skip" if self.skipped else "pass" if self.passed else "FAIL"
        measured = "-" if self.measured is None else f"{self.measured:.1e}"
        return f"{state}  {self.name:<22}{measured:>9} ≤ {self.tolerance:<7.0e}  {self.note}"


@dataclass(frozen=True)
class ConformanceReport:
    """The results of all checks on one subject."""

    subject: str
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed; what was skipped is in :attr:`skipped`."""
        return not self.failures

    @property
    def failures(self) -> list[CheckResult]:
        """The checks that failed."""
        return [result for result in self.results if not result.passed]

    @property
    def skipped(self) -> list[CheckResult]:
        """The checks that do not apply, with the reason in their note."""
        return [result for result in self.results if result.skipped]

    def table(self) -> str:
        """One line per check: state, name, largest error, tolerance, and where it was found."""
        return "\n".join([f"{self.subject}: {self._summary()}", *map(str, self.results)])

    def _summary(self) -> str:
        ran = len(self.results) - len(self.skipped)
        return f"{ran - len(self.failures)} of {ran} checks passed, {len(self.skipped)} skipped"


def run_conformance(
    subject: Potential | BackboneConfig | type[Backbone] | str | Any,
    *,
    head: str | None = None,
    cutoff: float | None = None,
    elements: Collection[str] | None = None,
    strict: bool = False,
    only: Collection[str] = (),
    skip: Collection[str] = (),
) -> ConformanceReport:
    """Put a potential, a backbone or an ASE calculator through the checks.

    Args:
        subject: a :class:`Potential` (a copy in float64 is tested: the tolerances are those of float64); a backbone, by
            name, class or settings, tested with random weights; an ASE calculator, which should compute in float64; or
            a :class:`Subject`.
        head: for a potential, the branch that answers; None tests the blend.
        cutoff: Å, of a foreign calculator, for the checks of smoothness.
        elements: that a foreign calculator supports; None for all.
        strict: hold a foreign calculator to clear errors for impossible structures, too.
        only: names of checks to run, instead of all.
        skip: names of checks to leave out.

    Raises:
        ValueError: unknown check, unknown head, a subject that is none of these or supports no element.
    """
    _check_names([*only, *skip])
    tested = as_subject(subject, head=head, cutoff=cutoff, elements=elements, strict=strict)
    chosen = [check for check in CHECKS if check.name in only or not only]
    return ConformanceReport(tested.name, tuple(_run(check, tested, left_out=check.name in skip) for check in chosen))


def assert_conforms(subject: Potential | BackboneConfig | type[Backbone] | str | Any, **options: Any) -> None:
    """Raise unless every check that applies passes; arguments as for :func:`run_conformance`.

    Raises:
        AssertionError: lists all failures.
    """
    report = run_conformance(subject, **options)
    if not report.passed:
        raise AssertionError("\n".join([f"{report.subject} does not conform:", *map(str, report.failures)]))


def as_subject(
    subject: Any,
    *,
    head: str | None = None,
    cutoff: float | None = None,
    elements: Collection[str] | None = None,
    strict: bool = False,
) -> Subject:
    """What is to be tested, from anything that :func:`run_conformance` takes.

    Raises:
        ValueError: something else, or an unknown head.
    """
    if isinstance(subject, Subject):
        return subject
    config = _backbone_settings(subject)
    if config is not None:
        return potential_subject(random_potential(config), head, name=type(config).__name__)
    if isinstance(subject, Potential):
        return potential_subject(subject, head)
    if hasattr(subject, "get_property"):
        return calculator_subject(subject, cutoff, elements, strict=strict)
    raise ValueError(f"expected a Potential, a backbone or an ASE calculator, got {type(subject).__name__}")


def _backbone_settings(subject: Any) -> BackboneConfig | None:
    if isinstance(subject, str):
        subject = backbone_class(subject)
    if isinstance(subject, type) and issubclass(subject, Backbone):
        subject = subject.Config()
    return subject if isinstance(subject, BackboneConfig) else None


def _run(check: Check, subject: Subject, *, left_out: bool) -> CheckResult:
    if left_out:
        return CheckResult(check.name, None, check.tolerance, True, "skipped: left out by the caller")
    errors: list[tuple[str, float]] = []
    try:
        for where, error in check.measure(subject):
            errors.append((where, math.inf if math.isnan(error) else error))
    except NotApplicable as reason:
        if not errors:
            return CheckResult(check.name, None, check.tolerance, True, f"skipped: {reason}")
        errors.append((f"{reason}, unlike others", math.inf))
    except Exception as error:  # a subject that breaks down fails this check, and the others still run
        errors.append((f"raised {type(error).__name__}: {error}", math.inf))
    measured = max(error for _, error in errors)
    return CheckResult(
        check.name, measured, check.tolerance, measured <= check.tolerance, _worst(errors, check.tolerance)
    )


def _worst(errors: Sequence[tuple[str, float]], tolerance: float, most: int = 3) -> str:
    """The places that fail, or else the one with the largest error."""
    ranked = sorted(errors, key=lambda error: -error[1])
    if ranked[0][1] == 0.0:
        return f"exact, cases: {len(errors)}"
    failing = [where for where, error in ranked if error > tolerance]
    more = [f"and {len(failing) - most} more"] if len(failing) > most else []
    return "; ".join([*failing[:most], *more] if failing else [ranked[0][0]])


def _check_names(names: Collection[str]) -> None:
    known = [check.name for check in CHECKS]
    for name in names:
        if name not in known:
            raise ValueError(f"no check {name!r}{did_you_mean(name, known)}")
