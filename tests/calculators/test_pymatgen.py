"""The pymatgen interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Molecule, Structure

from gfmpot import GFMCalculator, GFMPotential
from gfmpot.calculators.pymatgen import to_atoms
from gfmpot.graph import InvalidStructureError


@pytest.fixture(scope="module")
def potential() -> GFMPotential:
    return GFMPotential(precision="fp64")


def salt(a: float = 4.3) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def water(**options: int) -> Molecule:
    return Molecule(["O", "H", "H"], [[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]], **options)


def test_predict_equals_the_calculator(potential: GFMPotential) -> None:
    results = potential.predict(salt())
    atoms = to_atoms(salt())
    atoms.calc = GFMCalculator(precision="fp64")
    assert results["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert set(results) == set(atoms.calc.results)


def test_predict_many(potential: GFMPotential) -> None:
    salt_results, water_results = potential.predict([salt(), water()])
    assert salt_results["forces"].shape == (8, 3)
    assert "stress" in salt_results
    assert water_results["forces"].shape == (3, 3)
    assert "stress" not in water_results


def test_relax_structure(potential: GFMPotential, tmp_path: Path) -> None:
    start = salt(4.35)
    start.add_site_property("tag", list(range(8)))
    relaxed = potential.relax(start, fmax=0.01, trajectory=tmp_path / "x.traj")
    assert relaxed.converged
    assert relaxed.energies[-1] < relaxed.energies[0]
    assert relaxed.energy == relaxed.energies[-1]
    assert len(relaxed.trajectory) == len(relaxed.energies)
    assert relaxed.final_structure.volume != start.volume
    assert relaxed.final_structure.site_properties["tag"] == list(range(8))
    assert start == relaxed.trajectory[0]
    assert (tmp_path / "x.traj").stat().st_size > 0


def test_relax_molecule_keeps_charge_and_spin(potential: GFMPotential) -> None:
    cation = potential.relax(water(charge=1, spin_multiplicity=2), fmax=0.05).final_structure
    assert isinstance(cation, Molecule)
    assert (cation.charge, cation.spin_multiplicity) == (1, 2)


def test_charge_and_spin_reach_the_model(potential: GFMPotential) -> None:
    energies = [
        potential.predict(water(**options))["energy"]
        for options in ({}, {"charge": 1, "spin_multiplicity": 2}, {"spin_multiplicity": 3})
    ]
    assert len(set(energies)) == 3
    assert to_atoms(water(charge=1, spin_multiplicity=2)).info == {"charge": 1, "spin": 2}


def test_oxidation_states_are_no_charge() -> None:
    vacancy = salt()
    vacancy.add_oxidation_state_by_element({"Mg": 2, "O": -2})
    vacancy.remove_sites([0])
    assert to_atoms(vacancy).info == {}
    vacancy.set_charge(-2)
    assert to_atoms(vacancy).info == {"charge": -2}


def test_partial_periodicity_is_kept() -> None:
    slab = Structure(Lattice(np.diag([3, 3, 20]), pbc=(True, True, False)), ["Cu"], [[0, 0, 0.5]])
    assert to_atoms(slab).pbc.tolist() == [True, True, False]


def test_what_is_no_structure_is_refused(potential: GFMPotential) -> None:
    with pytest.raises(TypeError, match="expected a Structure or Molecule of pymatgen's, got str"):
        potential.predict("POSCAR")  # type: ignore[arg-type]


def test_disordered_structures_are_refused(potential: GFMPotential) -> None:
    alloy = Structure(Lattice.cubic(3.6), [{"Cu": 0.5, "Au": 0.5}], [[0, 0, 0]])
    with pytest.raises(InvalidStructureError, match=r"site 0 holds .*disordered"):
        potential.predict(alloy)


def test_what_is_no_element_is_refused(potential: GFMPotential) -> None:
    with pytest.raises(InvalidStructureError, match=r"site 0 holds Xx.*, which is no element"):
        potential.predict(Structure(Lattice.cubic(4.2), ["Xx", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]))


def test_pymatgens_own_entry_points() -> None:
    calc = GFMCalculator()
    relaxed = salt(4.35).relax(calculator=calc, fmax=0.05)
    assert relaxed.volume < salt(4.35).volume
    by_class = salt(4.35).relax(calculator=GFMCalculator, fmax=0.05)  # passes a stress_weight
    assert by_class.volume == pytest.approx(relaxed.volume, rel=1e-6)
    single = salt().calculate(calculator=calc)
    assert single.results["energy"] == pytest.approx(calc.evaluate_many([to_atoms(salt())])[0]["energy"], abs=1e-6)
    moved = water().relax(calculator=calc, fmax=0.05)
    assert isinstance(moved, Molecule)


def test_relax_many_is_relax_of_each(potential: GFMPotential, tmp_path: Path) -> None:
    tagged = salt(4.35)
    tagged.add_site_property("tag", list(range(8)))
    mixed = Structure(Lattice.cubic(4.2), [{"Mg": 0.5, "Ca": 0.5}, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    structures = [tagged, water(charge=1, spin_multiplicity=2), mixed, salt(4.2)]
    found = potential.relax_many(structures, fmax=0.02, trajectories=tmp_path)
    for structure, one in zip(structures, found, strict=True):
        if structure is mixed:
            continue
        want = potential.relax(structure, fmax=0.02)
        assert (one.error, one.converged) == (None, want.converged)
        assert one.energies == pytest.approx(want.energies, abs=1e-8)
        assert one.energy == one.energies[-1]
        assert one.final_structure.cart_coords == pytest.approx(want.final_structure.cart_coords, abs=1e-7)
        assert one.trajectory[0].cart_coords == pytest.approx(structure.cart_coords)
        assert len(one.trajectory) == 2
    assert found[0].final_structure.volume != tagged.volume
    assert found[0].final_structure.site_properties["tag"] == list(range(8))
    assert (found[1].final_structure.charge, found[1].final_structure.spin_multiplicity) == (1, 2)
    assert "disordered structures have no energy of their own" in (found[2].error or "")
    assert found[2].final_structure is mixed
    assert np.isnan(found[2].energy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.traj", "1.traj", "3.traj"]


def test_selective_dynamics_are_constraints(potential: GFMPotential) -> None:
    start = salt(4.35)
    start.translate_sites([0], [0.02, 0.01, 0.0], frac_coords=True)
    start.translate_sites([7], [0.02, 0.01, 0.0], frac_coords=True)
    start.translate_sites([1], [0.01, 0.02, 0.0], frac_coords=True)
    flags = [[True] * 3 for _ in start]
    flags[0], flags[7] = [False] * 3, [False, True, True]
    start.add_site_property("selective_dynamics", flags)
    alone = potential.relax(start, cell=False, fmax=0.05).final_structure
    (batched,) = potential.relax_many([start], cell=False, fmax=0.05)
    for end in (alone, batched.final_structure):
        moved = np.abs(end.cart_coords - start.cart_coords) > 1e-6
        assert not moved[0].any()
        assert moved[7].tolist()[:2] == [False, True]
        assert moved[1].any()
        assert end.site_properties["selective_dynamics"] == flags
