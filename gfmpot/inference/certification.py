"""Measures what goes into a certificate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from gfmpot.config import did_you_mean
from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.graph.build import charge_and_spin
from gfmpot.inference.certificate import Certificate, Deviation, Drift, Measurement
from gfmpot.inference.precision import Precision
from gfmpot.inference.predictor import Predictor
from gfmpot.inference.predictor import Results as Answer
from gfmpot.inference.provenance import provenance
from gfmpot.models import Potential
from gfmpot.testing import Results
from gfmpot.testing.compare import NotApplicable, largest, reordered, turned
from gfmpot.testing.derivatives import STEP, STRAIN, force_error, stress_error
from gfmpot.testing.locality import APART
from gfmpot.testing.structures import has_volume, rattled, rotated, scattered
from gfmpot.testing.symmetry import TRANSLATION, orthogonal

T = TypeVar("T")

REPEATS = 5
"""Evaluations that must agree bit for bit, and whose median time is reported."""

PLAIN = {"compile": False, "kernels": False}
"""Options of the predictor that all others are measured against: PyTorch's operations, one by one."""

COARSER = {"fp64": 1.0, "fp32": 50.0, "bf16": 250.0}
"""Steps of finite differences over those for float64: where rounding of the energy and curvature weigh alike. What is
left with float32 and bfloat16 is mostly the rounding of the energies, divided by the step."""

OnFailure = Callable[[str, ValueError], None]


class Dynamics(Protocol):
    """Runs a structure in a precision."""

    @property
    def settings(self) -> Mapping[str, float]:
        """What the runs depend on."""

    def __call__(self, precision: str, atoms: Atoms) -> Drift:
        """Run it.

        Raises:
            NotApplicable: there is nothing to run.
        """


def certify(
    model: str | Path | Potential,
    structures: Sequence[tuple[str, Atoms]],
    *,
    precisions: Sequence[str] = ("fp32",),
    charge: int = 0,
    spin: int | None = None,
    dynamics: Dynamics | None = None,
    on_failure: OnFailure | None = None,
    **options: Any,
) -> Certificate:
    """Measure a model's rounding on some structures.

    A structure takes about 100 evaluations in each precision, beside the dynamics.

    Args:
        model: as for :class:`Predictor`.
        structures: with a name for each.
        precisions: ``bf16``, ``fp32``, ``fp64``.
        charge: of structures that state none.
        spin: multiplicity of structures that state none.
        dynamics: what measures the drift of the energy; None leaves it out.
        on_failure: called with the name of a structure that the model cannot answer for, and the error, instead of
            raising it.
        options: those of :class:`Predictor`, e.g. ``head``. ``compile="auto"`` stands for what is taken at once: a
            certificate is of one path.

    Raises:
        ValueError: no structures, unknown precision, or a structure that the model cannot answer for in one of them;
            the message names it.
    """
    _check(structures, precisions)
    options["compile"] = options.get("compile") is True
    exact = _Bench(Predictor(model, precision="fp64", **{**options, **PLAIN}), charge, spin)
    found: list[Measurement] = []
    failed: set[str] = set()
    for precision in precisions:
        bench = _Bench(Predictor(model, precision=precision, **options), charge, spin)
        for name, atoms in structures:
            try:
                found += [] if name in failed else [_measure(bench, exact, name, atoms, dynamics)]
            except ValueError as error:
                failed.add(name)
                _report(error, name, precision, on_failure)
    who = {key: options.get(key) for key in ("head", "weights")}
    settings = _settings(exact, dynamics, options)
    return Certificate(provenance(model, exact.predictor.potential, **who, settings=settings), tuple(found))


@dataclass(frozen=True)
class _Bench:
    """A predictor for ``ase.Atoms``."""

    predictor: Predictor
    charge: int
    spin: int | None

    def graph(self, atoms: Atoms) -> AtomGraph:
        """With the predictor's cutoff and cap."""
        p = self.predictor
        return graph_from_atoms(
            atoms, cutoff=p.cutoff, max_neighbours=p.max_neighbours, charge=self.charge, spin=self.spin
        )

    def evaluate(self, atoms: Atoms) -> Results:
        """One structure alone."""
        (answer,) = self.predictor(self.graph(atoms))
        return _results(answer)

    def energies(self, structures: Sequence[Atoms]) -> NDArray[np.float64]:
        """(G,) eV, in batches."""
        answers = self.predictor.many(map(self.graph, structures))
        return np.array([answer["energy"] for answer in answers])

    def in_company(self, atoms: Atoms) -> Results:
        """The structure in a batch, between a distorted copy of it and a lone atom."""
        lone = graph_from_atoms(Atoms(atoms.symbols[:1]), cutoff=self.predictor.cutoff)
        batch = AtomGraph.batch([self.graph(rattled(atoms, 0.02)), self.graph(atoms), lone])
        return _results(self.predictor(batch)[1])


def _settings(bench: _Bench, dynamics: Dynamics | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """All that the numbers of a certificate depend on, beside model, program and structures."""
    predictor, weights = bench.predictor, options.get("weights")
    return {
        "weights": weights and {name: float(weight) for name, weight in weights.items()},  # with all their digits
        "skip": predictor.skip,
        "allow_unsupported": predictor.allow_unsupported,
        "uncertainty": predictor.uncertainty,
        "compile": options["compile"],
        "kernels": options.get("kernels", True),
        "charge": bench.charge,
        "spin": bench.spin,
        "dynamics": None if dynamics is None else dict(dynamics.settings),
    }


def _measure(bench: _Bench, exact: _Bench, name: str, atoms: Atoms, dynamics: Dynamics | None) -> Measurement:
    precision, reference = bench.predictor.precision, exact.evaluate(atoms)
    results, seconds, repeatable = _repeated(bench, atoms)
    remarks: list[str] = []
    return Measurement(
        structure=name,
        formula=atoms.get_chemical_formula(),
        natoms=len(atoms),
        precision=precision,
        seconds=seconds,
        from_fp64=_deviation(results, reference),
        force_differences=force_error(bench.energies, atoms, results["forces"], STEP * COARSER[precision]),
        stress_differences=_stress_differences(bench, atoms, results),
        rotation=_rotation(bench, atoms, results),
        translation=_translation(bench, atoms, results),
        permutation=_permutation(bench, atoms, results),
        batch=_deviation(bench.in_company(atoms), results),
        extensivity=_if_applicable(lambda: _extensivity(bench, atoms, results), remarks),
        repeatable=repeatable,
        drift=None if dynamics is None else _if_applicable(lambda: dynamics(precision, atoms), remarks),
        remarks=tuple(remarks),
        path=bench.predictor.path,
    )


def _repeated(bench: _Bench, atoms: Atoms) -> tuple[Results, float, bool]:
    """Results, the median time of an evaluation (s), and whether all repeats agree bit for bit."""
    first, times, same = bench.evaluate(atoms), [], True
    for _ in range(REPEATS - 1):
        begun = time.perf_counter()
        again = bench.evaluate(atoms)
        times.append(time.perf_counter() - begun)
        same &= again.keys() == first.keys() and all(np.array_equal(again[key], first[key]) for key in first)
    return first, float(np.median(times)), same


def _stress_differences(bench: _Bench, atoms: Atoms, results: Results) -> float | None:
    if not has_volume(atoms):
        return None
    return stress_error(bench.energies, atoms, results["stress"], STRAIN * COARSER[bench.predictor.precision])


def _rotation(bench: _Bench, atoms: Atoms, results: Results) -> Deviation:
    matrices = [orthogonal(3, determinant=1), orthogonal(4, determinant=-1)]
    return _worst(_deviation(bench.evaluate(rotated(atoms, m)), turned(results, m)) for m in matrices)


def _translation(bench: _Bench, atoms: Atoms, results: Results) -> Deviation:
    moved = atoms.copy()
    moved.translate(TRANSLATION)
    return _worst(_deviation(bench.evaluate(other), results) for other in (moved, scattered(atoms)))


def _permutation(bench: _Bench, atoms: Atoms, results: Results) -> Deviation:
    order = np.random.default_rng(5).permutation(len(atoms))
    return _deviation(bench.evaluate(atoms[order]), reordered(results, order))


def _extensivity(bench: _Bench, atoms: Atoms, results: Results) -> float:
    """eV/atom."""
    if not bench.predictor.potential.atomwise:
        raise NotApplicable("no extensivity: readout='graph' is not size-extensive")
    if charge_and_spin(atoms, bench.charge, bench.spin) != (0, None):
        raise NotApplicable("no extensivity: charge or multiplicity of two copies is not twice that of one")
    energy = float(bench.evaluate(_twice(atoms))["energy"])
    return abs(energy / 2 - float(results["energy"])) / len(atoms)


def _twice(atoms: Atoms) -> Atoms:
    """Two cells along a periodic direction, or two copies far apart."""
    if atoms.pbc.any():
        times = [1, 1, 1]
        times[int(np.argmax(atoms.pbc))] = 2
        return atoms.repeat(times)
    other = atoms.copy()
    other.translate([0.0, 0.0, APART + float(np.ptp(atoms.positions[:, 2]))])
    return atoms + other


def _deviation(found: Results, expected: Results) -> Deviation:
    difference = {key: largest(found[key] - expected[key]) for key in expected}
    return Deviation(difference["energy"] / len(expected["forces"]), difference["forces"], difference.get("stress"))


def _worst(deviations: Iterable[Deviation]) -> Deviation:
    found = list(deviations)
    stress = [d.stress for d in found if d.stress is not None]
    return Deviation(max(d.energy for d in found), max(d.forces for d in found), max(stress, default=None))


def _results(answer: Answer) -> Results:
    return {key: np.asarray(answer[key]) for key in ("energy", "forces", "stress") if key in answer}


def _if_applicable(measure: Callable[[], T], remarks: list[str]) -> T | None:
    """A measurement, or None and the reason among the remarks."""
    try:
        return measure()
    except NotApplicable as reason:
        remarks.append(str(reason))
        return None


def _report(error: ValueError, name: str, precision: str, on_failure: OnFailure | None) -> None:
    if on_failure is None:
        raise type(error)(f"{name}, in {precision}: {error}") from error
    on_failure(name, error)


def _check(structures: Sequence[tuple[str, Atoms]], precisions: Sequence[str]) -> None:
    if not structures:
        raise ValueError("no structures to certify a model on")
    if not precisions:
        raise ValueError(f"no precision to certify; known: {', '.join(get_args(Precision))}")
    for precision in precisions:
        if precision not in get_args(Precision):
            raise ValueError(f"no precision {precision!r}{did_you_mean(str(precision), get_args(Precision))}")
