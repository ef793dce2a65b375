"""``precision="auto"``: what is chosen, on what, and that it stays."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gfmpot import GFMCalculator
from gfmpot.graph import AtomGraph, BatchBudget, InvalidStructureError, graph_from_atoms
from gfmpot.inference import AutoPredictor, Choice, Predictor, Tolerance, auto_precision, build_predictor
from gfmpot.inference.auto_precision import SAMPLE, WORTH, choose_precision
from gfmpot.models import Potential
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.testing import random_potential

LOOSE, STRICT = {"energy": 10.0, "forces": 10.0}, {"energy": 1e-13, "forces": 1e-13}


@pytest.fixture(scope="module")
def potential() -> Potential:
    return random_potential(PaiNNConfig(hidden=8, layers=2, radial_basis=4, cutoff=4.0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that an evaluation seems to take, by precision."""
    seconds = {"bf16": 1.0, "fp32": 1.0, "fp64": 1.0}
    monkeypatch.setattr(auto_precision, "_seconds", lambda predictors, graph: seconds)
    return seconds


def salt(seed: int = 1) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


def graph(atoms: Atoms) -> AtomGraph:
    return graph_from_atoms(atoms, cutoff=4.0)


class Stub:
    """A predictor with a given error in energy per atom and in forces; None for answers that are not finite."""

    errors: dict[str, tuple[float, float] | None]

    def __init__(self, precision: str, errors: dict[str, Any]) -> None:
        self.precision, self.error = precision, errors.get(precision, (0.0, 0.0))

    def __call__(self, graph: AtomGraph) -> list[dict[str, Any]]:
        if self.error is None:
            raise InvalidStructureError("not finite")
        energy, force = self.error
        forces = np.zeros((graph.n_atoms, 3))
        forces[-1, 2] = -force
        return [{"energy": -5.0 - energy * graph.n_atoms, "forces": forces}]


@pytest.mark.parametrize(
    ("errors", "times", "chosen"),
    [
        ({}, {}, "fp32"),
        ({}, {"bf16": WORTH - 0.01}, "bf16"),
        ({}, {"bf16": WORTH + 0.01}, "fp32"),
        ({}, {"fp64": 0.5}, "fp32"),
        ({}, {"bf16": 0.5, "fp64": 0.1}, "bf16"),
        ({"bf16": (2e-4, 0)}, {"bf16": 0.1}, "fp32"),
        ({"bf16": (0, 2e-3)}, {"bf16": 0.1}, "fp32"),
        ({"bf16": (0.9e-4, 0.9e-3)}, {"bf16": 0.1}, "bf16"),
        ({"bf16": None}, {"bf16": 0.1}, "fp32"),
        ({"fp32": (2e-4, 0)}, {"bf16": 0.1}, "fp64"),
        ({"fp32": (0, 2e-3), "bf16": (0, 2e-3)}, {"fp32": 0.1, "bf16": 0.1}, "fp64"),
        ({"fp32": None, "bf16": None}, {}, "fp64"),
    ],
)
def test_the_cheapest_within_the_tolerance(
    clock: dict[str, float], errors: dict[str, Any], times: dict[str, float], chosen: str
) -> None:
    clock.update(times)
    choice = choose_precision(graph(salt()), Tolerance(), lambda precision: Stub(precision, errors))
    assert choice.precision == chosen
    assert [trial.precision for trial in choice.trials] == ["fp32", "bf16", "fp64"]
    for trial in choice.trials:
        expected = errors.get(trial.precision, (0.0, 0.0)) or (np.inf, np.inf)
        assert (trial.energy, trial.forces) == pytest.approx(expected, abs=1e-12)
    assert str(choice).startswith(f"precision auto: {chosen} (tolerance 0.0001 eV/atom, 0.001 eV/Å; fp32 ")


def test_answers_that_do_not_repeat_leave_float64(clock: dict[str, float]) -> None:
    """As with sums on a GPU whose order is left to chance, and a tolerance below that."""
    calls = itertools.count()

    class Restless(Stub):
        def __call__(self, graph: AtomGraph) -> list[dict[str, Any]]:
            self.error = (1e-12 * next(calls), 0.0)
            return super().__call__(graph)

    tiny = Tolerance(energy=1e-15, forces=1e-15)
    choice = choose_precision(graph(salt()), tiny, lambda precision: Restless(precision, {}))
    assert choice.precision == "fp64"
    assert not any(trial.within(tiny) for trial in choice.trials)


@pytest.mark.parametrize("when", ["made", "called"])
def test_what_the_hardware_does_not_have_is_not_taken(
    clock: dict[str, float], caplog: pytest.LogCaptureFixture, when: str
) -> None:
    message = "mkldnn_bf16 device check failed\nand a trace"

    class Refusing(Stub):
        def __call__(self, graph: AtomGraph) -> list[dict[str, Any]]:
            if self.precision == "bf16":
                raise RuntimeError(message)
            return super().__call__(graph)

    def make(precision: str) -> Stub:
        if when == "made" and precision == "bf16":
            raise RuntimeError(message)
        return Refusing(precision, {})

    clock.pop("bf16")  # nothing that does not run is timed
    choice = choose_precision(graph(salt()), Tolerance(), make)
    assert choice.precision == "fp32"
    assert choice.trials[1].seconds == choice.trials[1].energy == np.inf
    (record,) = caplog.records
    assert record.getMessage() == "precision auto: bf16 does not run here (mkldnn_bf16 device check failed)"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_want_of_memory_is_no_property_of_a_precision(error: RuntimeError) -> None:
    def make(precision: str) -> Stub:
        if precision == "bf16":
            raise error
        return Stub(precision, {})

    with pytest.raises(RuntimeError, match="memory"):
        choose_precision(graph(salt()), Tolerance(), make)


def test_errors_are_measured(potential: Potential, clock: dict[str, float]) -> None:
    atoms, results = salt(), {}
    predictor = AutoPredictor(potential, tolerance=Tolerance(), device="cpu")
    choice = predictor.decide(graph(atoms))
    for precision in ("fp32", "bf16", "fp64"):
        (results[precision],) = Predictor(potential, precision=precision, device="cpu")(graph(atoms))
    for trial in choice.trials:
        found, exact = results[trial.precision], results["fp64"]
        assert trial.energy == abs(found["energy"] - exact["energy"]) / len(atoms)
        assert trial.forces == np.abs(found["forces"] - exact["forces"]).max()
    assert choice.trials[1].forces > choice.trials[0].forces > choice.trials[2].forces == 0


@pytest.mark.parametrize(("tolerance", "chosen"), [(STRICT, "fp64"), (None, "fp32"), (LOOSE, "bf16")])
def test_the_tolerance_decides(
    potential: Potential, clock: dict[str, float], tolerance: dict[str, float] | None, chosen: str
) -> None:
    clock["bf16"] = 0.5
    predictor = build_predictor(potential, precision="auto", tolerance=tolerance, device="cpu")
    assert predictor.precision == "fp64"  # of what was computed before there was anything to choose on
    (found,) = predictor(graph(salt()))
    assert predictor.precision == chosen
    (expected,) = Predictor(potential, precision=chosen, device="cpu")(graph(salt()))
    assert found["energy"] == expected["energy"]
    assert np.array_equal(found["forces"], expected["forces"])


def test_times_are_measured(potential: Potential) -> None:
    choice = AutoPredictor(potential, tolerance=Tolerance(), device="cpu").decide(graph(salt()))
    assert all(1e-5 < trial.seconds < 10 for trial in choice.trials)


def test_the_choice_is_made_once(
    potential: Potential, clock: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gfmpot")
    calculator = GFMCalculator(potential, precision="auto", device="cpu")
    assert calculator.precision_choice is None
    atoms = salt()
    atoms.calc = calculator
    atoms.get_forces()
    choice = calculator.precision_choice
    assert calculator.precision == choice.precision == "fp32"
    clock["bf16"] = 1e-3
    for seed in range(3):
        calculator.get_property("energy", salt(seed))
    calculator.evaluate_many([salt(5), molecule("H2O")])
    assert calculator.precision_choice is choice
    assert [record.getMessage() for record in caplog.records] == [str(choice)]


def test_of_many_the_first_few_decide(potential: Potential, clock: dict[str, float]) -> None:
    taken: list[None] = []

    def stream() -> Iterator[AtomGraph]:
        for seed in range(2 * SAMPLE):
            taken.append(None)
            yield graph(salt(seed))

    predictor = AutoPredictor(potential, tolerance=Tolerance(), device="cpu")
    found = list(predictor.many(stream()))
    assert len(found) == len(taken) == 2 * SAMPLE
    first = AtomGraph.batch([graph(salt(seed)) for seed in range(SAMPLE)])
    other = AutoPredictor(potential, tolerance=Tolerance(), device="cpu")
    assert predictor.choice == other.decide(first)
    plain = Predictor(potential, device="cpu")
    graphs = [graph(salt(seed)) for seed in range(2 * SAMPLE)]
    energies = [results["energy"] for results in plain.many(graphs)]
    assert [results["energy"] for results in found] == pytest.approx(energies, abs=1e-5)
    # One by one, products of other sizes round otherwise: by less than float32 can tell of such energies.
    energies = [plain(one)[0]["energy"] for one in graphs]
    assert [results["energy"] for results in found] == pytest.approx(
        energies, rel=float(np.finfo(np.float32).eps), abs=0
    )
    assert list(AutoPredictor(potential, tolerance=Tolerance(), device="cpu").many([])) == []
    one = BatchBudget(max_structures=1)
    limited = AutoPredictor(potential, tolerance=Tolerance(), device="cpu", budget=one)
    assert len(list(limited.many(stream()))) == 2 * SAMPLE
    assert limited.choice == AutoPredictor(potential, tolerance=Tolerance(), device="cpu").decide(graph(salt(0)))


def test_a_structure_without_an_answer_decides_nothing(potential: Potential) -> None:
    calculator = GFMCalculator(potential, precision="auto", device="cpu")
    with pytest.raises(ValueError, match="Rn"):
        calculator.get_property("energy", Atoms("Rn"))
    assert calculator.precision_choice is None
    calculator.get_property("energy", salt())
    assert calculator.precision_choice is not None


@pytest.mark.parametrize("decided", [False, True])
def test_copies_keep_the_choice(potential: Potential, clock: dict[str, float], decided: bool) -> None:
    clock["bf16"] = 0.5
    calculator = GFMCalculator(potential, precision="auto", tolerance=LOOSE, device="cpu")
    if decided:
        calculator.get_property("energy", salt())
        clock["bf16"] = 2.0
    for twin in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        twin.get_property("energy", salt(2))
        assert twin.precision == "bf16"


def test_settings_leave_the_choice_alone_unless_they_concern_it(potential: Potential, clock: dict[str, float]) -> None:
    clock["bf16"] = 0.5
    calculator = GFMCalculator(potential, precision="auto", tolerance=LOOSE, device="cpu")
    calculator.get_property("energy", salt())
    choice = calculator.precision_choice
    clock["bf16"] = 2.0
    calculator.set(head="second-y", charge=0, skin=0.3)
    assert calculator.precision_choice is choice
    assert calculator.precision == "bf16"
    calculator.set(head=None, tolerance=None)
    assert calculator.precision_choice is None
    calculator.get_property("energy", salt())
    assert calculator.precision == "fp32"
    calculator.set(precision="bf16")
    assert (calculator.precision, calculator.precision_choice) == ("bf16", None)


def test_parameters_survive_json(potential: Potential) -> None:
    calculator = GFMCalculator(potential, precision="auto", tolerance={"forces": 1e-4}, device="cpu")
    parameters = json.loads(json.dumps(calculator.todict()))
    again = GFMCalculator(potential, **{key: parameters[key] for key in ("precision", "tolerance", "device")})
    assert isinstance(again.predictor, AutoPredictor)
    assert again.predictor.tolerance == Tolerance(energy=1e-4, forces=1e-4)


def test_a_choice_made_before_is_taken(potential: Potential) -> None:
    choice = Choice("fp64", Tolerance(), ())
    predictor = AutoPredictor(potential, tolerance=Tolerance(), choice=choice, device="cpu")
    assert predictor.precision == "fp64"
    predictor(graph(salt()))
    assert predictor.choice is choice


def test_certificates_of_auto_are_of_its_choice(potential: Potential, clock: dict[str, float]) -> None:
    calculator = GFMCalculator(potential, precision="auto", tolerance=STRICT, device="cpu")
    assert calculator.certify(salt(), md_steps=0).precisions == ["fp64"]
    assert calculator.precision_choice is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp32", "tolerance": {"energy": 1e-3}}, "a tolerance is for precision 'auto'"),
        ({"precision": "auto", "tolerance": {"force": 1e-3}}, "tolerance: unknown key 'force'; did you mean 'forces'"),
        ({"precision": "auto", "tolerance": {"energy": -1.0}}, "tolerance.energy must be positive, got -1"),
        ({"precision": "auto", "tolerance": {"forces": float("nan")}}, "tolerance.forces must be positive"),
        ({"precision": "atuo"}, "no precision 'atuo'; did you mean 'auto'"),
        ({"precision": "auto", "head": "thrid-z"}, "no head 'thrid-z'"),
    ],
)
def test_mistakes(potential: Potential, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GFMCalculator(potential, device="cpu", **options)
