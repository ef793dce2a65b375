"""The ASE calculator with the embedded model: physics, conventions, what users do with calculators."""

from __future__ import annotations

import copy
import json
import pickle
import re
import warnings
from pathlib import Path

import ase.db
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import FIRE

from gfmpot import GFMCalculator
from gfmpot.calculators.batched import relax_many
from gfmpot.calculators.dynamics import draw_velocities
from gfmpot.graph import BatchBudget, InvalidStructureError
from gfmpot.models import BranchInfo, Potential, UnsupportedElementsError, preset
from gfmpot.models.potential import rebuilt


@pytest.fixture(scope="module")
def fp64() -> GFMCalculator:
    return GFMCalculator(precision="fp64")


def shaken(atoms: Atoms, seed: int = 1) -> Atoms:
    atoms.rattle(0.08, seed=seed)
    return atoms


def mgo() -> Atoms:
    return shaken(bulk("MgO", "rocksalt", 4.21, cubic=True))


def energy(atoms: Atoms, calc: GFMCalculator) -> float:
    atoms = atoms.copy()
    atoms.calc = calc
    return float(atoms.get_potential_energy())


def test_results_have_ases_shapes() -> None:
    atoms = mgo()
    atoms.calc = GFMCalculator(uncertainty="forces")
    assert isinstance(atoms.get_potential_energy(), float)
    assert atoms.get_forces().shape == (8, 3)
    assert atoms.get_forces().dtype == np.float64
    assert atoms.get_stress().shape == (6,)
    assert atoms.get_stress(voigt=False).shape == (3, 3)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    results = atoms.calc.results
    assert set(results["branch_weights"]) == set(atoms.calc.potential.branch_names)
    assert sum(results["branch_weights"].values()) == pytest.approx(1.0)
    assert results["energy_std"] > 0
    assert results["forces_std"].shape == (8, 3)
    assert set(results["branch_energies"]) == {"mptrj-pbe-u@chgnet", "mp-r2scan@chgnet", "mp-pbe-u"}


def test_one_evaluation_fills_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms, calls = mgo(), []
    atoms.calc = GFMCalculator()
    original = GFMCalculator.calculate
    monkeypatch.setattr(GFMCalculator, "calculate", lambda self, *a, **k: calls.append(1) or original(self, *a, **k))
    for _ in range(2):
        atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energy(), atoms.get_potential_energies()
    assert len(calls) == 1


def test_head_is_a_theory_of_its_own() -> None:
    atoms = mgo()
    atoms.calc = GFMCalculator(head="mp-pbe-u")
    assert atoms.get_potential_energy() == pytest.approx(atoms.calc.results["branch_energies"]["mp-pbe-u"], abs=1e-6)
    assert atoms.calc.results["branch_weights"]["mp-pbe-u"] == 1.0


def test_size_consistency(fp64: GFMCalculator) -> None:
    cell = bulk("Cu")
    assert abs(energy(cell * (3, 3, 3), fp64) / 27 - energy(cell, fp64)) <= 1e-10
    water = molecule("H2O")
    far = water.copy()
    far.translate([60, 0, 0])
    assert abs(energy(water + far, fp64) - 2 * energy(water, fp64)) <= 1e-10


def test_molecule_without_and_with_a_dummy_cell(fp64: GFMCalculator) -> None:
    water = molecule("H2O")
    boxed = water.copy()
    boxed.cell = np.eye(3)
    assert energy(boxed, fp64) == energy(water, fp64)
    for atoms in (water, boxed):
        atoms.calc = fp64
        with pytest.raises(PropertyNotImplementedError, match="volume"):
            atoms.get_stress()
        assert np.isfinite(atoms.get_forces()).all()


def test_translation_by_100_angstrom(fp64: GFMCalculator) -> None:
    for atoms in (mgo(), molecule("C2H6")):
        moved = atoms.copy()
        moved.translate([100, -100, 100])
        assert energy(moved, fp64) == pytest.approx(energy(atoms, fp64), abs=1e-9)


def test_slab_stress_needs_a_third_vector(fp64: GFMCalculator) -> None:
    slab = fcc111("Al", (2, 2, 3), vacuum=8)
    slab.pbc = (True, True, False)
    slab.calc = fp64
    assert np.isfinite(slab.get_stress()).all()
    slab.cell[2] = 0
    assert np.isfinite(slab.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError, match="volume"):
        slab.get_stress()


def test_isolated_atom() -> None:
    atoms = Atoms("Cu")
    atoms.calc = GFMCalculator()
    assert np.isfinite(atoms.get_potential_energy())
    assert (atoms.get_forces() == 0).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_five_repeats_are_bitwise_equal(threads: int, precision: str) -> None:
    before, forces = torch.get_num_threads(), []
    torch.set_num_threads(threads)
    try:
        for _ in range(5):
            atoms = shaken(mgo() * 2)
            atoms.calc = GFMCalculator(precision=precision)
            forces.append(atoms.get_forces())
    finally:
        torch.set_num_threads(before)
    assert all((f == forces[0]).all() for f in forces)


@pytest.mark.parametrize(("precision", "limit"), [("fp64", 0.02), ("fp32", 0.1)])
def test_energy_is_conserved(precision: str, limit: float) -> None:
    """1 ps of 16 atoms; ``benchmarks/dynamics.py`` runs 5 ps of 64."""
    atoms, totals = mgo() * (2, 1, 1), []
    draw_velocities(atoms, 300, np.random.default_rng(0))
    atoms.calc = GFMCalculator(precision=precision)
    dynamics = VelocityVerlet(atoms, 1.0 * units.fs)
    dynamics.attach(lambda: totals.append(1000 * atoms.get_total_energy() / len(atoms)))
    dynamics.run(1000)
    drift, _ = np.polyfit(np.arange(len(totals)) / 1000, totals, 1)
    assert abs(drift) <= limit


def test_batch_equals_singles(fp64: GFMCalculator) -> None:
    structures = [mgo(), molecule("C2H6"), Atoms("H"), bulk("Si"), mgo() * (2, 1, 1)]
    for atoms, batched in zip(structures, fp64.evaluate_many(structures), strict=True):
        atoms.calc = fp64
        assert batched["energy"] == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
        np.testing.assert_allclose(batched["forces"], atoms.get_forces(), rtol=0, atol=1e-11)
        assert set(batched) == set(fp64.results)


def test_batch_names_the_culprit() -> None:
    with pytest.raises(InvalidStructureError, match=r"structure 1 \(H2\): atoms 0"):
        GFMCalculator().evaluate_many([molecule("H2O"), Atoms("H2")])


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.01]]), "atoms 0 .* and 1 .* 0.01 Å apart"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.nan]]), "atom 1 has a position that is not finite"),
        (Atoms(), "no atoms"),
        (Atoms("X"), "atom 0 has atomic number 0"),
        (Atoms("Cu", pbc=True), "cell vector is zero"),
        (Atoms("H", info={"charge": 0.5}), "charge must be a whole number"),
        (Atoms("H", info={"spin": 1}), "multiplicity 1 is impossible with 1 electrons"),
        (Atoms("H", info={"charge": 3}), "removes more electrons"),
    ],
)
def test_bad_structures(atoms: Atoms, message: str) -> None:
    atoms.calc = GFMCalculator()
    with pytest.raises(InvalidStructureError, match=message):
        atoms.get_forces()


def test_unknown_element() -> None:
    atoms = Atoms("Og")
    atoms.calc = GFMCalculator()
    with pytest.raises(UnsupportedElementsError, match="no branch supports all of Og"):
        atoms.get_potential_energy()
    atoms.calc = GFMCalculator(allow_unsupported=True)
    assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "defualt"}, "did you mean 'default'"),
        ({"head": "mp-pbe"}, "did you mean 'mp-pbe-u'"),
        ({"precision": "fp23"}, "did you mean 'fp32'"),
        ({"weights": {"nothing": 1.0}}, "no branch 'nothing'"),
        ({"weights": {"mp-pbe-u": -1.0}}, "not negative"),
        ({"device": "cdua"}, "did you mean 'cuda'"),
        ({"uncertainty": "all"}, "'energy' or 'forces'"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GFMCalculator(**options)  # type: ignore[arg-type]


def test_set_rebuilds() -> None:
    atoms = mgo()
    atoms.calc = GFMCalculator()
    blend = atoms.get_potential_energy()
    atoms.calc.set(head="mp-pbe-u")
    assert atoms.get_potential_energy() != blend
    with pytest.raises(ValueError, match="did you mean 'head'"):
        atoms.calc.set(haed="x")
    kept = dict(atoms.calc.parameters)
    with pytest.raises(ValueError, match="did you mean 'mp-pbe-u'"):
        atoms.calc.set(head="mp-pbe")
    assert dict(atoms.calc.parameters) == kept
    atoms.calc.set(head=None, weights={"mptrj-pbe-u@chgnet": 0.5, "mp-pbe-u": 0.5})
    assert atoms.get_potential_energy() != blend


def test_heads_are_named() -> None:
    calculator = GFMCalculator()
    assert calculator.heads == calculator.potential.branch_names
    assert GFMCalculator(head=calculator.heads[-1]).heads == calculator.heads


@pytest.mark.filterwarnings("ignore:.* never saw multiplicity 1 of total charge")
def test_charge_and_spin_trigger_recomputation() -> None:
    atoms = molecule("CH3")
    atoms.calc = GFMCalculator()
    neutral = atoms.get_potential_energy()
    atoms.info["charge"] = 1
    with pytest.warns(UserWarning, match="give spin"):
        cation = atoms.get_potential_energy()
    atoms.info["spin"] = 1
    singlet = atoms.get_potential_energy()
    assert len({neutral, cation, singlet}) == 3
    assert atoms.info == {"charge": 1, "spin": 1}
    fixed = molecule("CH3")
    fixed.calc = GFMCalculator(charge=1, spin=1)
    assert fixed.get_potential_energy() == singlet
    assert fixed.info == {}


def test_untrained_charge_warns_once() -> None:
    atoms = mgo()
    atoms.info["charge"] = 5
    atoms.calc = GFMCalculator()
    with (
        pytest.warns(
            UserWarning, match="are far from all that .* learnt from"
        ),  # such ions have no features like others
        pytest.warns(UserWarning, match=r"never saw total charge \+5 in training") as caught,
    ):
        atoms.get_forces()
    assert {warning.filename for warning in caught} == {__file__}  # neither ours nor one of ASE
    atoms.rattle(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_forces()


@pytest.mark.parametrize(
    ("charge", "spin", "doubt"),
    [
        (0, None, None),
        (0, 3, None),
        (1, 2, None),
        (1, None, r"learnt multiplicity 1 and 2 of total charge \+1: give spin"),
        (1, 4, r"never saw multiplicity 4 of total charge \+1 in training"),
        (0, 5, "never saw multiplicity 5 in training"),
        (-2, 1, "never saw total charge -2 in training"),
    ],
)
def test_untrained_multiplicities_warn(charge: int, spin: int | None, doubt: str | None) -> None:
    atoms = molecule("C2H6")
    atoms.calc = GFMCalculator(head="molecules-gfn2", charge=charge, spin=spin)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        atoms.get_potential_energy()
    said = [str(one.message) for one in caught if "molecules-gfn2" in str(one.message)]
    said = [text for text in said if "surroundings" not in text]  # are far from all that it learnt from
    assert len(said) == (doubt is not None)
    assert doubt is None or re.search(f"molecules-gfn2 {doubt}", said[0])


def said_of_boundaries(calculator: GFMCalculator, *structures: Atoms) -> list[str]:
    """The warnings of a calculator that is asked about all at once, and then again."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calculator.evaluate_many(list(structures))
        calculator.evaluate_many(list(structures))
    return [str(one.message) for one in caught if "boundaries" in str(one.message)]


def test_molecules_that_a_branch_of_crystals_answers_for_warn_once() -> None:
    ethane, dioxide = molecule("C2H6"), molecule("CO2")
    (text,) = said_of_boundaries(GFMCalculator(), Atoms("O"), ethane, dioxide, molecule("CF4"))
    assert re.match(r"CO2 has no periodic boundaries, but mptrj-pbe-u@chgnet, .* has \d+% of the say", text)
    assert "give head='molecules-gfn2'" in text
    assert said_of_boundaries(GFMCalculator(skip=0.1), dioxide)  # which leaves the other branch out
    boxed = Atoms(dioxide, cell=[8, 8, 8], pbc=(True, False, False))
    for structures in ([ethane], [boxed], [mgo()], [molecule("NaCl")]):  # no branch that answers knows such salts
        assert not said_of_boundaries(GFMCalculator(), *structures)
    for chosen in ({"head": "mptrj-pbe-u@chgnet"}, {"weights": {"mptrj-pbe-u@chgnet": 1.0}}):
        assert not said_of_boundaries(GFMCalculator(**chosen), dioxide)


def test_weights_that_are_frozen_to_those_of_such_a_molecule_warn() -> None:
    with pytest.warns(UserWarning, match="CO2 has no periodic boundaries"):
        GFMCalculator().freeze_weights(molecule("CO2"))


def test_weights_of_a_blend_that_nobody_asked_for_are_not_frozen() -> None:
    calculator = GFMCalculator(head="molecules-gfn2")
    with pytest.raises(ValueError, match="freezes the blend, but head='molecules-gfn2' answers alone"):
        calculator.freeze_weights(molecule("C2H6"))


@pytest.mark.parametrize(
    ("crystals", "molecules", "weight", "warns"),
    [
        (1.0, 0.03, 0.2, True),
        (1.0, 0.03, 0.05, False),
        (0.995, 0.0, 0.2, True),
        (0.9, 0.0, 0.2, False),
        (1.0, 0.9, 0.2, False),
        (None, 0.0, 0.2, False),
        (1.0, None, 0.2, False),
    ],
)
def test_which_branches_are_of_crystals(
    crystals: float | None, molecules: float | None, weight: float, warns: bool
) -> None:
    e0 = {"C": -1.0, "O": -2.0}
    branches = [BranchInfo("crystals", e0=e0, periodic=crystals), BranchInfo("molecules", e0=e0, periodic=molecules)]
    potential = Potential(preset("small"), branches)
    for layer in potential.weights.layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        potential.weights.layers[-1].bias[0] = np.log(weight / (1 - weight))
    said = said_of_boundaries(GFMCalculator(potential), molecule("CO2"))
    assert ["crystals, which by its composition has 20% of the say" in text for text in said] == [True] * warns
    potential.weights.silence([1])
    assert not said_of_boundaries(GFMCalculator(potential), molecule("CO2"))


def test_forces_that_were_not_learnt_warn() -> None:
    shipped = GFMCalculator().potential
    training = {"settings": {"loss": {"energy": 1.0, "forces": 0.0, "stress": 0.0}}}
    atoms = mgo()
    atoms.calc = GFMCalculator(rebuilt(shipped, metadata={**shipped.metadata, "training": training}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
    atoms.calc.reset()
    with pytest.warns(UserWarning, match="trained on energies alone") as caught:
        atoms.get_forces()
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="trained on energies alone"):
        relax_many([atoms], atoms.calc, steps=1)


def test_pickle_and_deepcopy() -> None:
    atoms = mgo()
    atoms.calc = GFMCalculator(head="mp-pbe-u")
    forces = atoms.get_forces()
    for twin in (pickle.loads(pickle.dumps(atoms.calc)), copy.deepcopy(atoms.calc)):
        again = mgo()
        again.calc = twin
        assert (again.get_forces() == forces).all()


def test_todict_goes_through_json_and_back() -> None:
    calc = GFMCalculator(head="mp-pbe-u", precision="fp64", charge=1)
    description = json.loads(json.dumps(calc.todict()))
    assert GFMCalculator(**description).todict() == calc.todict()


def test_ase_db(tmp_path: Path) -> None:
    atoms = mgo()
    atoms.calc = GFMCalculator()
    atoms.get_forces()
    with ase.db.connect(tmp_path / "x.db") as db:
        row = db.get(db.write(atoms))
    assert row.calculator == "gfmpot"
    assert row.energy == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(row.forces, atoms.get_forces())


def test_cell_relaxation() -> None:
    atoms = bulk("MgO", "rocksalt", 4.3)
    atoms.calc = GFMCalculator(precision="fp64")
    assert FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=300)
    assert np.abs(atoms.get_stress()).max() < 0.01


def test_neb_with_a_shared_calculator(fp64: GFMCalculator) -> None:
    start = bulk("Cu", cubic=True) * (2, 2, 1)
    del start[0]
    end = start.copy()
    end.positions[3] += 0.5
    images = [start, *[start.copy() for _ in range(3)], end]
    for image in images:
        image.calc = fp64
    neb = NEB(images, allow_shared_calculator=True, method="improvedtangent")
    neb.interpolate()
    forces = neb.get_forces()
    assert np.isfinite(forces).all()
    alone = images[2].copy()
    alone.calc = GFMCalculator(precision="fp64")
    images[2].calc = fp64
    np.testing.assert_allclose(images[2].get_forces(), alone.get_forces(), atol=1e-12)


def test_sum_calculator(fp64: GFMCalculator) -> None:
    atoms = mgo()
    lj = LennardJones(sigma=1.5, epsilon=0.01)
    parts = []
    for calc in (fp64, lj):
        atoms.calc = calc
        parts.append(atoms.get_forces())
    atoms.calc = SumCalculator([fp64, lj])
    np.testing.assert_allclose(atoms.get_forces(), sum(parts), atol=1e-10)


def test_frozen_weights_make_fragments_add(fp64: GFMCalculator) -> None:
    methane, oxygen = molecule("CH4"), molecule("O2")
    oxygen.translate([60, 0, 0])
    calc = GFMCalculator(precision="fp64")
    frozen = calc.freeze_weights(methane + oxygen)
    assert calc.parameters["weights"] == frozen
    apart = energy(methane, calc) + energy(oxygen, calc)
    assert energy(methane + oxygen, calc) == pytest.approx(apart, abs=1e-9)


def test_precisions_agree() -> None:
    reference = mgo()
    reference.calc = GFMCalculator(precision="fp64")
    for precision, tolerance in (("fp32", 1e-4), ("bf16", 0.5)):
        atoms = mgo()
        atoms.calc = GFMCalculator(precision=precision)
        np.testing.assert_allclose(atoms.get_forces(), reference.get_forces(), rtol=0, atol=tolerance)


def test_skin_list_does_not_change_a_trajectory() -> None:
    """Positions that wander, are wrapped and are strained, against a fresh calculator each time."""
    rng = np.random.default_rng(0)
    atoms = mgo() * (2, 1, 1)
    atoms.calc = GFMCalculator(precision="fp64")
    for step in range(12):
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        if step == 5:
            atoms.wrap()
        if step == 8:
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        fresh = atoms.copy()
        fresh.calc = GFMCalculator(precision="fp64")
        assert (atoms.get_forces() == fresh.get_forces()).all()
    assert atoms.calc._verlet.n_searches < 12


def test_compiled_equals_plain() -> None:
    plain, fast = mgo(), mgo()
    plain.calc, fast.calc = GFMCalculator(), GFMCalculator(compile=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        np.testing.assert_allclose(fast.get_forces(), plain.get_forces(), atol=1e-4)
    assert pickle.loads(pickle.dumps(fast.calc)).todict() == fast.calc.todict()


def test_results_are_recorded_in_single_points() -> None:
    atoms = mgo()
    atoms.calc = GFMCalculator()
    atoms.get_forces()
    frozen = SinglePointCalculator(atoms, energy=atoms.calc.results["energy"], forces=atoms.calc.results["forces"])
    assert frozen.get_potential_energy() == atoms.get_potential_energy()


def test_many_name_what_has_no_answer() -> None:
    calculator = GFMCalculator()
    calculator.predictor.budget = BatchBudget(max_structures=2)
    structures = [mgo(), mgo(), mgo(), bulk("Po", "sc", 3.35), mgo()]
    with pytest.raises(UnsupportedElementsError, match=r"^structure 3 \(Po\): .*Po"):
        calculator.evaluate_many(structures)


def test_weights_of_what_nobody_knows_cannot_be_frozen() -> None:
    foreign = Atoms("PoEs", [[0, 0, 0], [0, 0, 3]])
    with pytest.raises(UnsupportedElementsError, match="Po"):
        GFMCalculator().freeze_weights(foreign)
    frozen = GFMCalculator(allow_unsupported=True).freeze_weights(foreign)
    assert sum(frozen.values()) == pytest.approx(1.0)
