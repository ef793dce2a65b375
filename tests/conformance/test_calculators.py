"""ASE calculators: known good ones conform, and each of many faults is found by the check that is meant for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT, parameters
from ase.calculators.lj import LennardJones

from gfmpot.calculators import GFMCalculator
from gfmpot.models import Potential
from gfmpot.testing import assert_conforms, run_conformance

METALS = ("Cu", "Al", "Ni", "Ag", "Au", "Pd", "Pt")
POTENTIAL_ONLY = {"batch = singles", "training = answering", "double backward", "parameters learn", "charge and spin"}
Results = dict[str, Any]


def test_emt_conforms() -> None:
    report = run_conformance(EMT(), elements=parameters)
    assert report.passed, report.table()
    skipped = {result.name for result in report.skipped}
    assert skipped == POTENTIAL_ONLY | {"smooth at cutoff", "nothing at cutoff", "refusals"}
    assert all(result.note.startswith("skipped: ") for result in report.skipped)


def test_our_calculator_conforms(painn: Potential) -> None:
    report = run_conformance(GFMCalculator(painn, precision="fp64"))
    assert report.passed, report.table()
    assert {result.name for result in report.skipped} == POTENTIAL_ONLY


def test_single_precision_is_not_judged_by_tolerances_of_double(painn: Potential) -> None:
    with pytest.raises(ValueError, match=r"measured in float64, got torch.float32: use precision='fp64'"):
        run_conformance(GFMCalculator(painn, precision="fp32"))


SMOOTHNESS = ("smooth at cutoff", "nothing at cutoff")


def test_smooth_lennard_jones_conforms() -> None:
    assert_conforms(LennardJones(sigma=2.3, epsilon=0.4, rc=6.0, smooth=True), cutoff=6.0)


def test_truncated_lennard_jones_has_a_jump_in_its_forces() -> None:
    report = run_conformance(LennardJones(sigma=2.3, epsilon=0.4, rc=6.0, smooth=False), cutoff=6.0)
    assert [result.name for result in report.failures] == list(SMOOTHNESS)
    assert report.failures[0].note == "forces"


class Spoilt(EMT):  # type: ignore[misc]
    """EMT whose results pass through a fault."""

    def __init__(self, fault: Callable[[Results, Atoms], None]) -> None:
        super().__init__()
        self.fault = fault

    def calculate(self, atoms: Atoms | None = None, *args: Any) -> None:
        super().calculate(atoms, *args)
        self.results = {key: np.array(value) for key, value in self.results.items()}
        self.fault(self.results, atoms)


def forces_of_wrong_sign(results: Results, atoms: Atoms) -> None:
    results["forces"] *= -1


def forces_slightly_too_large(results: Results, atoms: Atoms) -> None:
    results["forces"] *= 1.00001


def force_of_one_atom_lost(results: Results, atoms: Atoms) -> None:
    results["forces"][-1] = 0


def absolute_position(results: Results, atoms: Atoms) -> None:
    results["free_energy"] += 1e-4 * atoms.positions[:, 0].sum()


def wrapped_positions(results: Results, atoms: Atoms) -> None:
    if atoms.pbc.any():
        results["free_energy"] += 1e-4 * (atoms.positions[:, 0] // 10.0).sum()


def orientation(results: Results, atoms: Atoms) -> None:
    results["forces"][:, 2] *= 1.00001


def mirror_image(results: Results, atoms: Atoms) -> None:
    if len(atoms) > 3:
        a, b, c = atoms.positions[1:4] - atoms.positions[0]
        results["free_energy"] += 1e-4 * np.sign(np.dot(a, np.cross(b, c)))


def order_of_atoms(results: Results, atoms: Atoms) -> None:
    results["forces"][0] *= 1.00001


def stress_of_wrong_sign(results: Results, atoms: Atoms) -> None:
    if "stress" in results:
        results["stress"] *= -1


def stress_in_another_order(results: Results, atoms: Atoms) -> None:
    if "stress" in results:
        results["stress"] = results["stress"][[0, 1, 2, 5, 4, 3]]


def stress_times_volume(results: Results, atoms: Atoms) -> None:
    if "stress" in results:
        results["stress"] *= atoms.cell.volume


def handedness_of_the_cell(results: Results, atoms: Atoms) -> None:
    if "stress" in results:
        results["stress"] *= np.sign(np.linalg.det(atoms.cell))


def square_of_the_size(results: Results, atoms: Atoms) -> None:
    results["free_energy"] += 1e-6 * len(atoms) ** 2


def shares_that_do_not_add_up(results: Results, atoms: Atoms) -> None:
    results["energies"] += 1e-4


def noise(results: Results, atoms: Atoms) -> None:
    results["forces"] += NOISE.normal(scale=1e-13, size=results["forces"].shape)


def nan_for_lone_atoms(results: Results, atoms: Atoms) -> None:
    if len(atoms) == 1:
        results["forces"] *= np.nan


def self_interaction(results: Results, atoms: Atoms) -> None:
    if len(atoms) == 1 and atoms.pbc.any():
        results["free_energy"] += 1e-4


def meaning_of_dummy_cells(results: Results, atoms: Atoms) -> None:
    if atoms.cell.rank == 3 and not atoms.pbc.any():
        results["free_energy"] += 1e-4


def notes_in_info(results: Results, atoms: Atoms) -> None:
    atoms.info["energy"] = float(results["energy"])


def wraps_the_callers_atoms(results: Results, atoms: Atoms) -> None:
    atoms.wrap()


def symmetry_broken(results: Results, atoms: Atoms) -> None:
    results["forces"][:, 0] += 1e-7


NOISE = np.random.default_rng(0)
FAULTS: dict[Callable[[Results, Atoms], None], str] = {
    forces_of_wrong_sign: "forces = differences",
    forces_slightly_too_large: "forces = differences",
    force_of_one_atom_lost: "forces = differences",
    absolute_position: "translation",
    wrapped_positions: "lattice translations",
    orientation: "rotation",
    mirror_image: "reflection",
    order_of_atoms: "permutation",
    stress_of_wrong_sign: "stress = differences",
    stress_in_another_order: "stress = differences",
    stress_times_volume: "stress = differences",
    handedness_of_the_cell: "cell basis",
    square_of_the_size: "two copies",
    shares_that_do_not_add_up: "energies add up",
    noise: "repeatability",
    nan_for_lone_atoms: "edge cases",
    self_interaction: "isolation",
    meaning_of_dummy_cells: "dummy cell",
    notes_in_info: "atoms left alone",
    wraps_the_callers_atoms: "atoms left alone",
    symmetry_broken: "perfect crystals",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_of_calculators_are_found(fault: Callable[[Results, Atoms], None]) -> None:
    (result,) = run_conformance(Spoilt(fault), elements=METALS, only=[FAULTS[fault]]).results
    assert not result.passed, str(result)
    assert result.measured is not None
    assert result.measured > result.tolerance


class HardCutoff(EMT):  # type: ignore[misc]
    """EMT plus a constant for every pair closer than 4.5 Å: forces do not know."""

    def calculate(self, atoms: Atoms | None = None, *args: Any) -> None:
        super().calculate(atoms, *args)
        distances = self.atoms.get_all_distances()
        self.results["free_energy"] += 1e-3 * ((distances < 4.5).sum() - len(distances)) / 2


def test_a_jump_of_the_energy_is_found() -> None:
    report = run_conformance(HardCutoff(), elements=METALS, cutoff=4.5, only=SMOOTHNESS)
    assert [result.name for result in report.failures] == list(SMOOTHNESS)
    assert report.failures[0].note == "energy"


def test_missing_stress_is_no_fault_of_a_calculator_that_never_has_it() -> None:
    class WithoutStress(EMT):  # type: ignore[misc]
        implemented_properties = ("energy", "free_energy", "forces")

    (result,) = run_conformance(WithoutStress(), elements=METALS, only=["stress = differences"]).results
    assert result.skipped
    assert result.note == "skipped: gives no stress for bulk"


def test_stress_for_some_structures_only_is_not_passed_over() -> None:
    class SometimesWithoutStress(EMT):  # type: ignore[misc]
        def get_property(self, name: str, atoms: Atoms, allow_calculation: bool = True) -> Any:
            if name == "stress" and not atoms.pbc.all():
                raise PropertyNotImplementedError
            return super().get_property(name, atoms, allow_calculation)

    (result,) = run_conformance(SometimesWithoutStress(), elements=METALS, only=["stress = differences"]).results
    assert not result.passed
    assert result.note == "gives no stress for slab, unlike others"


def test_foreign_calculators_can_be_held_to_clear_errors() -> None:
    (result,) = run_conformance(EMT(), elements=METALS, strict=True, only=["refusals"]).results
    assert not result.passed
    assert "unknown element: NotImplementedError: No EMT-potential for X" in result.note
