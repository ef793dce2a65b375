"""Conformance checks: put any backbone, potential or ASE calculator through the physics it must obey.

>>> from gfmpot.testing import run_conformance
>>> print(run_conformance(calculator, cutoff=5.0, elements=["Cu"]).table())  # doctest: +SKIP
"""

from gfmpot.testing.conformance import (
    CHECKS,
    Check,
    CheckResult,
    ConformanceReport,
    as_subject,
    assert_conforms,
    run_conformance,
)
from gfmpot.testing.structures import Samples
from gfmpot.testing.subject import Evaluate, Results, Subject, random_potential

__all__ = [
    "CHECKS",
    "Check",
    "CheckResult",
    "ConformanceReport",
    "Evaluate",
    "Results",
    "Samples",
    "Subject",
    "as_subject",
    "assert_conforms",
    "random_potential",
    "run_conformance",
]
