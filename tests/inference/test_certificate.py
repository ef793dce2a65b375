"""Certificates: every number reacts to the fault that it is there to find, and to no other."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from gfmpot import GFMCalculator
from gfmpot.graph import AtomGraph, edge_vectors, sum_per_structure
from gfmpot.inference import Predictor, paths
from gfmpot.inference.certificate import Certificate, Measurement
from gfmpot.inference.certificate_text import PATHS, QUANTITIES, worst
from gfmpot.inference.certification import certify
from gfmpot.models import HeadConfig, Potential, PotentialConfig, Prediction
from gfmpot.models.backbones.painn import PaiNN, PaiNNConfig
from gfmpot.testing import random_potential

SIZE = 0.03
"""eV or eV/Å, or that share, of the faults."""


def potential(fault: Fault | None = None, readout: Any = "atomwise") -> Potential:
    head = HeadConfig(shared_layers=0, branch_width=8, readout=readout)
    made = random_potential(PotentialConfig(PaiNNConfig(hidden=8, layers=2, radial_basis=4, cutoff=4.0), head))
    if fault is not None:
        made.__class__ = type("Faulty", (Potential,), {"forward": _faulty(fault)})
    return made


Fault = Callable[[AtomGraph, Prediction, torch.dtype], dict[str, Tensor]]
"""What is wrong with the prediction for a graph, in a dtype: the fields to exchange."""


def _faulty(fault: Fault) -> Callable[..., Prediction]:
    def forward(self: Potential, graph: AtomGraph, **options: Any) -> Prediction:
        prediction = Potential.forward(self, graph, **options)
        return dataclasses.replace(prediction, **fault(graph, prediction, self.dtype))

    return forward


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", 5.64)
    atoms.rattle(0.1, seed=1)
    return atoms


def measured(fault: Fault | None = None, atoms: Atoms | None = None, precision: str = "fp64") -> Measurement:
    (found,) = certify(potential(fault), [("it", atoms or salt())], precisions=[precision], device="cpu").measurements
    return found


def values(measurement: Measurement) -> dict[str, float | None]:
    return {quantity.name: quantity.value(measurement) for quantity in QUANTITIES}


def energy(shift: Callable[[AtomGraph], Tensor]) -> Fault:
    return lambda graph, found, dtype: {"energy": found.energy + SIZE * shift(graph)}


def rounded(fault: Fault) -> Fault:
    """Wrong in all but float64."""
    return lambda graph, found, dtype: {} if dtype == torch.float64 else fault(graph, found, dtype)


def scaled(field: str, share: float = SIZE) -> Fault:
    return lambda graph, found, dtype: {field: (1 + share) * getattr(found, field)}


def places(graph: AtomGraph) -> Tensor:
    """(N,) the place of each atom in its structure."""
    starts = torch.cumsum(graph.atoms_per_structure, 0) - graph.atoms_per_structure
    return torch.arange(graph.n_atoms) - starts[graph.structure_of_atom]


def east(graph: AtomGraph) -> Tensor:
    """(G,) depends on the direction of edges, and on nothing else."""
    x = edge_vectors(graph)[:, 0] ** 2
    return torch.zeros(graph.n_structures, dtype=torch.float64).index_add(0, graph.structure_of_edge, x)


FAULTS: dict[str, tuple[Fault, str, set[str]]] = {
    "energy in float32": (rounded(energy(lambda graph: graph.atoms_per_structure)), "fp32", {"energy against fp64"}),
    "forces in float32": (
        rounded(scaled("forces", 10 * SIZE)),
        "fp32",
        {"forces against fp64", "forces against finite differences"},
    ),
    "stress in float32": (
        rounded(scaled("stress", 10 * SIZE)),
        "fp32",
        {"stress against fp64", "stress against finite differences"},
    ),
    "forces are no gradient": (scaled("forces"), "fp64", {"forces against finite differences"}),
    "stress is no gradient": (scaled("stress"), "fp64", {"stress against finite differences"}),
    "direction": (
        energy(east),
        "fp64",
        {"rotation and reflection, energy", "forces against finite differences", "stress against finite differences"},
    ),
    "origin": (
        energy(lambda graph: sum_per_structure(graph.positions[:, 0].detach(), graph)),
        "fp64",
        {
            *("translation, energy", "rotation and reflection, energy", "forces against finite differences"),
            "stress against finite differences",
        },
    ),
    "order": (
        energy(lambda graph: sum_per_structure(places(graph) * graph.atomic_numbers.double(), graph)),
        "fp64",
        {"permutation, energy", "size extensivity"},
    ),
    "order, forces": (
        lambda graph, found, dtype: {"forces": found.forces + SIZE * places(graph).unsqueeze(1)},
        "fp64",
        {"permutation, forces", "rotation and reflection, forces", "forces against finite differences"},
    ),
    "company": (
        energy(lambda graph: torch.full((graph.n_structures,), float(graph.n_structures == 3))),
        "fp64",
        {"batch against single, energy"},
    ),
    "company, forces": (
        lambda graph, found, dtype: {"forces": found.forces + SIZE * (graph.n_structures == 3)},
        "fp64",
        {"batch against single, forces"},
    ),
    "size": (energy(lambda graph: graph.atoms_per_structure.double() ** 2), "fp64", {"size extensivity"}),
}
"""The fault, the precision to look at, and what must find it."""


@pytest.fixture(scope="module")
def sound() -> dict[str, Measurement]:
    return {precision: measured(precision=precision) for precision in ("bf16", "fp32", "fp64")}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_where_they_belong(name: str, sound: dict[str, Measurement]) -> None:
    fault, precision, expected = FAULTS[name]
    found, without = values(measured(fault, precision=precision)), values(sound[precision])
    limit = 1e-4 if precision == "fp32" else 1e-7
    reacted = {key for key, value in found.items() if value is not None and abs(value) > limit + 4 * abs(without[key])}
    assert reacted == expected


def test_every_number_has_its_fault() -> None:
    """Those of dynamics, repeats and times are tested below."""
    found = set().union(*(expected for _, _, expected in FAULTS.values()))
    assert {q.name for q in QUANTITIES} - found == {"NVE drift", "NVE scatter", "translation, forces"}


def test_forces_that_know_the_origin_are_found() -> None:
    found = measured(lambda graph, found, dtype: {"forces": found.forces + SIZE * torch.sin(graph.positions)})
    assert found.translation.forces > SIZE / 100
    assert found.translation.energy < 1e-9


def test_noise_is_not_repeatable(sound: dict[str, Measurement]) -> None:
    calls: list[None] = []

    def noisy(graph: AtomGraph, found: Prediction, dtype: torch.dtype) -> dict[str, Tensor]:
        calls.append(None)
        return {"energy": found.energy + 1e-13 * len(calls)}

    assert all(measurement.repeatable for measurement in sound.values())
    assert not measured(noisy).repeatable


def test_a_sound_potential(sound: dict[str, Measurement]) -> None:
    for precision, limit in (("fp64", 1e-7), ("fp32", 0.01)):
        assert all(value is None or abs(value) < limit for value in values(sound[precision]).values())
    assert max(dataclasses.astuple(sound["fp64"].from_fp64)) < 1e-12
    assert 0 < sound["fp32"].from_fp64.forces < 1e-5
    assert 1e-5 < sound["bf16"].from_fp64.forces < 0.5
    assert sound["bf16"].seconds > 0
    assert (sound["fp32"].formula, sound["fp32"].natoms, sound["fp32"].structure) == ("ClNa", 2, "it")


def test_what_does_not_apply_says_why() -> None:
    ion = molecule("CH3OH")
    ion.info.update(charge=0, spin=3)
    found = measured(atoms=ion)
    assert found.extensivity is None
    assert found.stress_differences is found.from_fp64.stress is None
    assert "charge or multiplicity" in found.remarks[0]
    assert measured(atoms=molecule("CH3OH")).extensivity < 1e-10
    certificate = certify(potential(readout="graph"), [("a", salt())], precisions=["fp64"], device="cpu")
    assert "not size-extensive: a (fp64)" in certificate.table()


@pytest.mark.parametrize("atoms", [Atoms("Cu"), bulk("Cu"), Atoms("Cu", cell=[9, 9, 9], pbc=(True, False, False))])
def test_small_structures_can_be_certified(atoms: Atoms) -> None:
    calculator = GFMCalculator(potential(), precision="fp64", device="cpu")
    (found,) = calculator.certify(atoms).measurements
    assert all(value is None or abs(value) < 1e-9 for value in values(found).values())
    assert found.drift is None
    assert "one atom has nothing to vibrate against" in found.remarks[0]


def test_dynamics_find_forces_that_do_work_on_a_cycle() -> None:
    """A force that turns around an axis; the drift of the sound potential is that of the integrator."""

    def curl(graph: AtomGraph, found: Prediction, dtype: torch.dtype) -> dict[str, Tensor]:
        x, y, _ = (graph.positions - graph.positions.mean(dim=0)).unbind(1)
        return {"forces": found.forces + 10 * SIZE * torch.stack([-y, x, torch.zeros_like(x)], dim=1)}

    drifts = []
    for fault in (None, curl):
        calculator = GFMCalculator(potential(fault), precision="fp64", device="cpu")
        (found,) = calculator.certify(salt() * (2, 2, 1), md_steps=50, temperature=100).measurements
        assert (found.drift.steps, found.drift.timestep) == (50, 1.0)
        assert found.drift.temperature > 0
        drifts.append(abs(found.drift.slope))
    assert drifts[0] < 1.0
    assert drifts[1] > 20 * drifts[0]


def test_hydrogen_takes_shorter_steps_and_exploding_runs_are_told() -> None:
    calculator = GFMCalculator(potential(), precision="fp64", device="cpu")
    (found,) = calculator.certify(molecule("CH4"), md_steps=4).measurements
    assert found.drift.timestep == 0.5

    def violent(graph: AtomGraph, found: Prediction, dtype: torch.dtype) -> dict[str, Tensor]:
        return {"forces": 1e4 * found.forces}

    calculator = GFMCalculator(potential(violent), precision="fp64", device="cpu")
    (found,) = calculator.certify(molecule("CH4"), md_steps=20).measurements
    assert found.drift is None
    assert found.remarks[0].startswith("no drift of the energy: the run exploded after step")
    assert "keeps the frames" not in found.remarks[0]


def test_json_round_trip() -> None:
    certificate = certify(
        potential(), [("a", salt()), ("b", molecule("CH4"))], precisions=["fp32", "fp64"], device="cpu"
    )
    assert Certificate.from_json(certificate.to_json()) == certificate
    document = json.loads(certificate.to_json())
    assert document["version_hash"] == certificate.provenance.version
    assert document["measurements"][0]["from_fp64"]["forces"] == certificate.measurements[0].from_fp64.forces
    assert certificate.precisions == ["fp32", "fp64"]
    assert [m.structure for m in certificate.of("fp64")] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no certificate"),
        ('{"format": "gfmpot certificate", "version": 9}', "version 9; this gfmpot reads version 2"),
        ('{"format": "gfmpot certificate", "version": 2, "measurments": []}', "did you mean 'measurements'"),
        ("nonsense", "Expecting value"),
    ],
)
def test_other_documents_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Certificate.from_json(text)


def test_texts_say_the_worst_of_all_structures() -> None:
    certificate = certify(
        potential(), [("a", salt()), ("b", molecule("CH4"))], precisions=["bf16", "fp32"], device="cpu"
    )
    table, text, p = certificate.table(), certificate.markdown(), certificate.provenance
    for quantity in QUANTITIES:
        found = [value for m in certificate.of("bf16") if (value := quantity.value(m)) is not None]
        largest = worst(quantity, certificate.of("bf16"))
        assert largest == max(found, key=abs, default=None)
        (line,) = (line for line in table.splitlines() if line.startswith(f"{quantity.name}  "))
        assert ("–" if largest is None else f"{largest:.1e}" if largest else "0") in line.split()
        assert f"| {quantity.name} | {quantity.unit} |" in text
    for part in (p.version, p.model_sha256[:12], p.hardware, "2 structures of 2 to 5 atoms", "in bf16 (geometry"):
        assert part in text
    assert text.count("Energies, forces and stresses were computed") == 2
    assert "NVE runs" not in text


def test_the_version_follows_model_and_answer() -> None:
    def version(model: Potential, **options: Any) -> str:
        return certify(model, [("a", Atoms("Cu"))], precisions=["fp64"], device="cpu", **options).provenance.version

    other = potential()
    with torch.no_grad():
        other.heads.layers[-1].bias += 1e-6
    versions = [version(potential()), version(other), version(potential(), head="second-y")]
    assert len(set(versions)) == 3
    assert version(potential()) == versions[0]


def test_the_version_follows_what_numbers_depend_on() -> None:
    """``skin``, the margin of neighbour lists, is none of it."""

    def made(md_steps: int = 0, temperature: float = 300.0, **options: Any) -> Certificate:
        calculator = GFMCalculator(potential(), device="cpu", **options)
        return calculator.certify(Atoms("Cu"), precisions=["fp64"], md_steps=md_steps, temperature=temperature)

    changes: list[dict[str, Any]] = [
        *({}, {"skip": 0.3}, {"allow_unsupported": True}, {"charge": 1}, {"spin": 2}, {"uncertainty": "forces"}),
        *({"md_steps": 3}, {"md_steps": 3, "temperature": 10.0}),
        *({"weights": {"first-x": 1.0, "second-y": weight}} for weight in (1.0, 1.0 + 1e-9)),
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* never saw total charge", UserWarning)
        certificates = [made(**change) for change in changes]
    assert len({certificate.provenance.version for certificate in certificates}) == len(changes)
    assert made().provenance.version == made(skin=0.1).provenance.version == certificates[0].provenance.version
    for certificate in certificates:
        again = Certificate.from_json(certificate.to_json())
        assert again.provenance.version == certificate.provenance.version


def test_dynamics_of_all_structures_share_a_calculator(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calculator = [], GFMCalculator(potential(), device="cpu")
    in_precision = calculator._in_precision

    def counted(precision: str) -> GFMCalculator:
        made.append(precision)
        return in_precision(precision)

    monkeypatch.setattr(calculator, "_in_precision", counted)
    calculator.certify([salt(), molecule("H2O")], precisions=["fp32", "fp64"], md_steps=3)
    assert made == ["fp32", "fp64"]


def test_an_empty_certificate_says_so() -> None:
    calculator = GFMCalculator(potential(), device="cpu")
    none = calculator.certify(Atoms("Rn"), precisions=["fp64"], on_failure=lambda name, error: None)
    assert none.measurements == ()
    assert none.table().splitlines()[0].endswith(": nothing was measured")
    assert "nothing was measured" in none.markdown()
    assert Certificate.from_json(none.to_json()) == none


def test_the_answer_is_that_of_the_settings() -> None:
    """Head, weights, charge and spin are those of the calculator."""
    atoms = molecule("CH3OH")
    calculator = GFMCalculator(potential(), head="second-y", spin=3, device="cpu")
    certificate = calculator.certify(atoms, precisions=["fp32"], md_steps=0)
    assert certificate.provenance.answer == "head second-y"
    assert "charge or multiplicity" in certificate.measurements[0].remarks[0]
    blended = GFMCalculator(potential(), weights={"first-x": 1, "second-y": 3}, device="cpu")
    assert blended.certify(atoms, md_steps=0).provenance.answer == "weights first-x 1, second-y 3"


def test_the_way_of_evaluation_is_told() -> None:
    for options in ({}, {"kernels": False}):
        certificate = certify(potential(), [("a", Atoms("Cu"))], precisions=["fp64"], device="cpu", **options)
        (found,) = certificate.measurements
        assert found.path == Predictor(potential(), precision="fp64", device="cpu", **options).path
        assert f" by {PATHS[found.path]}, with PyTorch" in certificate.markdown()
    assert found.path == "plain"


def test_no_certificate_changes_its_path_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """``compile="auto"`` compiles what has no kernels after a number of evaluations."""
    monkeypatch.setattr(paths, "COMPILE_AT", 2)
    monkeypatch.setattr(paths.Paths, "_try", lambda *_: pytest.fail("compiled on the way"))
    certify(potential(), [("a", Atoms("Cu"))], precisions=["fp64"], device="cpu", kernels=False, compile="auto")
    monkeypatch.setattr(PaiNN, "kernels", lambda *_: None)
    GFMCalculator(potential(), device="cpu", compile="auto").certify(salt(), md_steps=5)


def test_mistakes() -> None:
    calculator, good, bad = GFMCalculator(potential(), device="cpu"), salt(), Atoms("Rn")
    with pytest.raises(ValueError, match="no structures"):
        calculator.certify([])
    with pytest.raises(ValueError, match="no precision 'fp23'; did you mean 'fp32'"):
        calculator.certify(good, precisions=["fp23"])
    with pytest.raises(ValueError, match="1 Rn, in fp32: no branch supports"):
        calculator.certify([good, bad])
    with pytest.raises(ValueError, match="at least 3 steps"):
        calculator.certify(good, md_steps=2)
    failures: list[str] = []
    found = calculator.certify(
        {"good": good, "bad": bad}, precisions=["fp32", "fp64"], md_steps=0, on_failure=lambda n, e: failures.append(n)
    )
    assert failures == ["bad"]
    assert [m.structure for m in found.measurements] == ["good", "good"]


def test_the_caller_and_the_structures_are_left_alone() -> None:
    calculator, atoms = GFMCalculator(potential(), device="cpu"), salt()
    before, parameters = atoms.copy(), dict(calculator.parameters)
    calculator.certify(atoms, precisions=["bf16", "fp64"], md_steps=3)
    assert atoms == before
    assert atoms.calc is None
    assert not np.any(atoms.get_momenta())
    assert calculator.parameters == parameters
    assert calculator.precision == "fp32"
