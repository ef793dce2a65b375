"""What a run of the checks returns, and how it is asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT, parameters

from gfmpot.models import BackboneConfig, BranchInfo, Potential, PotentialConfig
from gfmpot.testing import CHECKS, Samples, Subject, as_subject, assert_conforms, run_conformance
from gfmpot.testing.compare import deviation
from gfmpot.testing.structures import has_volume
from gfmpot.testing.subject import Results, one_by_one

QUICK = ("two copies", "isolation")


def subject_of(energy: float, forces: float = 0.0) -> Subject:
    """Every structure has the same energy and the same force on every atom."""

    def evaluate(atoms: Atoms) -> Results:
        return {"energy": np.array(energy), "forces": np.full((len(atoms), 3), forces)}

    return Subject("constant", evaluate, one_by_one(evaluate), Samples(lambda symbols: True))


def test_table_lists_every_check_with_its_state() -> None:
    report = run_conformance(subject_of(1.0), skip=["rotation"])
    lines = report.table().splitlines()
    assert lines[0].startswith("constant: ")
    assert len(lines) == 1 + len(CHECKS)
    assert lines[1].startswith("skip  rotation")
    assert lines[1].endswith("skipped: left out by the caller")
    assert [line[:4] for line in lines[1:]] == [
        "skip" if result.skipped else "pass" if result.passed else "FAIL" for result in report.results
    ]


def test_constant_energy_is_not_extensive() -> None:
    report = run_conformance(subject_of(1.0), only=QUICK)
    assert [result.name for result in report.failures] == ["two copies"]
    assert report.failures[0].measured == pytest.approx(0.5)
    assert not report.passed


def test_assertion_lists_all_failures() -> None:
    with pytest.raises(AssertionError) as error:
        assert_conforms(subject_of(1.0, forces=1.0), only=QUICK)
    message = str(error.value)
    assert message.startswith("constant does not conform:")
    assert "FAIL  two copies" in message
    assert "FAIL  isolation" in message


@pytest.mark.parametrize("check", [check.name for check in CHECKS])
def test_nan_never_passes(check: str) -> None:
    nan = subject_of(math.nan, forces=math.nan)
    (result,) = run_conformance(nan, only=[check]).results
    assert result.skipped or not result.passed or check == "atoms left alone"


def test_breaking_down_is_a_failure_of_that_check_alone() -> None:
    def evaluate(atoms: Atoms) -> Results:
        if len(atoms) == 1:
            raise RuntimeError("one atom is not enough")
        return {"energy": np.array(0.0), "forces": np.zeros((len(atoms), 3))}

    fussy = Subject("fussy", evaluate, one_by_one(evaluate), Samples(lambda symbols: True))
    report = run_conformance(fussy, only=["permutation", "isolation"])
    assert [result.name for result in report.failures] == ["isolation"]
    assert report.failures[0].note == "raised RuntimeError: one atom is not enough"


def test_unknown_check() -> None:
    with pytest.raises(ValueError, match="no check 'rotatoin'; did you mean 'rotation'"):
        run_conformance(subject_of(1.0), only=["rotatoin"])


def test_unknown_head(painn: Potential) -> None:
    with pytest.raises(ValueError, match="no head 'first'; did you mean 'first-x'"):
        run_conformance(painn, head="first")


def test_unknown_backbone() -> None:
    with pytest.raises(ValueError, match="no backbone 'pain'; did you mean 'painn'"):
        run_conformance("pain")


def test_something_else() -> None:
    with pytest.raises(ValueError, match="expected a Potential, a backbone or an ASE calculator, got int"):
        run_conformance(3)


def test_potential_without_elements_is_refused(small_painn: BackboneConfig) -> None:
    untrained = Potential(PotentialConfig(small_painn), [BranchInfo("a-x")])
    with pytest.raises(ValueError, match="supports no element"):
        run_conformance(untrained)


def test_the_users_potential_is_not_changed(painn: Potential) -> None:
    single = painn.float().requires_grad_(False)
    assert run_conformance(single, only=["rotation", "double backward"]).passed
    assert {(p.dtype, p.requires_grad, p.grad) for p in single.parameters()} == {(torch.float32, False, None)}


def test_deviation_is_relative_to_what_geometry_can_change() -> None:
    """Total energies of all-electron theories do not excuse errors: 10 eV per atom is the largest scale."""
    forces = np.zeros((2, 3))
    a: Results = {"energy": np.array(-5e4), "forces": forces}
    b: Results = {"energy": np.array(-5e4 + 1e-3), "forces": forces}
    assert deviation(b, a) == pytest.approx(1e-3 / 20.0)
    assert deviation({"energy": np.array(1.0)}, {"energy": np.array(1.0), "forces": forces}) == math.inf
    assert deviation({"energy": np.array(math.nan)}, {"energy": np.array(1.0)}) == math.inf


@pytest.mark.parametrize(
    "elements",
    [None, list(parameters), ["H", "C", "N", "O", "F"], ["Na", "Cl"], ["Ar"], ["Fe"], ["U", "O"]],
    ids=lambda elements: "any" if elements is None else "-".join(elements),
)
def test_samples_keep_to_supported_elements(elements: list[str] | None) -> None:
    samples = as_subject(EMT(), elements=elements).samples
    structures = samples.general() | samples.edge_cases() | samples.symmetric() | {"ion": samples.ion()}
    for name, atoms in structures.items():
        assert elements is None or set(atoms.get_chemical_symbols()) <= set(elements), name
    distances = [
        atoms.get_all_distances(mic=atoms.pbc.any())[~np.eye(len(atoms), dtype=bool)] for atoms in structures.values()
    ]
    assert min(d.min() for d in distances if len(d)) > 0.5


def test_samples_cover_every_kind_of_cell() -> None:
    general = Samples(lambda symbols: True).general()
    assert {tuple(atoms.pbc.tolist()) for atoms in general.values()} == {
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    }
    assert np.linalg.det(general["left-handed"].cell) < 0 < np.linalg.det(general["triclinic"].cell)
    assert {name for name, atoms in general.items() if has_volume(atoms)} == {
        "bulk",
        "slab",
        "triclinic",
        "left-handed",
    }
