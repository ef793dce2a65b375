"""The adapter for torch-sim gives what the ASE calculator gives, whatever torch-sim does with its states."""

from __future__ import annotations

import importlib
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet

from gfmpot import GFMCalculator
from gfmpot.calculators.dynamics import draw_velocities
from gfmpot.calculators.relaxation import relax
from gfmpot.graph import BatchBudget, InvalidStructureError

with warnings.catch_warnings():  # torch-sim 0.3 imports what PyTorch and vesin have deprecated since
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
    warnings.filterwarnings("ignore", "`vesin.torch` is deprecated", DeprecationWarning)
    ts = pytest.importorskip("torch_sim", reason='torch-sim is not installed: pip install "gfmpot[md]"')

from torch_sim.models.interface import validate_model_outputs

from gfmpot.calculators.torch_sim import TorchSimModel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def calculator() -> GFMCalculator:
    return GFMCalculator(precision="fp64")


@pytest.fixture
def model(calculator: GFMCalculator) -> TorchSimModel:
    return TorchSimModel(calculator.potential, precision="fp64")


def shaken(atoms: Atoms, seed: int = 0) -> Atoms:
    rng, copy = np.random.default_rng(seed), atoms.copy()
    copy.set_cell(copy.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
    copy.positions += rng.normal(scale=0.05, size=copy.positions.shape)
    return copy


def crystals() -> list[Atoms]:
    oxide, salt = bulk("MgO", "rocksalt", 4.3, cubic=True), bulk("NaCl", "rocksalt", 5.7)
    return [shaken(oxide), shaken(salt), shaken(oxide, 1), shaken(bulk("Al") * (2, 1, 1)), shaken(oxide, 2)]


def state_of(structures: list[Atoms], dtype: torch.dtype = torch.float64) -> Any:
    return ts.io.atoms_to_state(structures, CPU, dtype)


def alone(calculator: GFMCalculator, structures: list[Atoms]) -> list[Any]:
    return calculator.evaluate_many(structures)


def assert_as_alone(found: dict[str, torch.Tensor], calculator: GFMCalculator, structures: list[Atoms]) -> None:
    want = alone(calculator, structures)
    assert found["energy"].numpy() == pytest.approx([one["energy"] for one in want], abs=1e-9)
    assert found["forces"].numpy() == pytest.approx(np.concatenate([one["forces"] for one in want]), abs=1e-9)
    for stress, one in zip(found["stress"].numpy(), want, strict=True):
        voigt = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        assert voigt == pytest.approx(one.get("stress", np.full(6, np.nan)), abs=1e-10, nan_ok=True)
        assert np.array_equal(stress, stress.T, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_passes_the_validation_of_torch_sim(calculator: GFMCalculator, dtype: torch.dtype) -> None:
    model = TorchSimModel(calculator.potential, dtype=dtype, precision="fp64" if dtype == torch.float64 else "fp32")
    validate_model_outputs(model, CPU, dtype)
    output = model(state_of(crystals(), dtype))
    assert all(value.dtype == dtype for value in output.values())
    assert not any(value.requires_grad for value in output.values())


def test_equals_the_calculator(model: TorchSimModel, calculator: GFMCalculator) -> None:
    """Skewed cells: with rows taken for columns nothing would fit."""
    assert_as_alone(model(state_of(crystals())), calculator, crystals())


def test_molecules_have_no_stress(model: TorchSimModel, calculator: GFMCalculator) -> None:
    molecules = [molecule("H2O"), molecule("CH4")]
    output = model(state_of(molecules))
    assert_as_alone(output, calculator, molecules)
    assert output["stress"].isnan().all()


def test_states_as_dictionaries(model: TorchSimModel) -> None:
    state = state_of(crystals()[:2])
    names = ("positions", "masses", "cell", "pbc", "atomic_numbers", "system_idx")
    assert torch.equal(model({name: getattr(state, name) for name in names})["energy"], model(state)["energy"])


def test_systems_are_exchanged(model: TorchSimModel, calculator: GFMCalculator) -> None:
    """Lists of those that stay are kept, also of equal composition; those of others are not taken for theirs."""
    structures = crystals()
    for chosen in ([0, 1, 2, 3], [1, 2, 3], [2, 3, 4, 0], [4, 2], [1, 2, 4], [4, 2, 1]):
        present = [structures[i] for i in chosen]
        assert_as_alone(model(state_of(present)), calculator, present)
        for atoms in structures:
            atoms.positions += 0.01
    assert [verlet.n_searches for verlet in model._evaluator.neighbours.lists] == [1, 1, 1]


def test_wrapping_costs_no_search(model: TorchSimModel, calculator: GFMCalculator) -> None:
    structures, rng = crystals(), np.random.default_rng(0)
    model(state_of(structures))
    for atoms in structures:
        atoms.positions += rng.normal(scale=0.02, size=atoms.positions.shape)
        atoms.wrap()
    assert_as_alone(model(state_of(structures)), calculator, structures)
    assert [verlet.n_searches for verlet in model._evaluator.neighbours.lists] == [1] * len(structures)


def test_long_walks_are_searched_anew(model: TorchSimModel, calculator: GFMCalculator) -> None:
    structures, rng = crystals()[:2], np.random.default_rng(0)
    for _ in range(4):
        assert_as_alone(model(state_of(structures)), calculator, structures)
        for atoms in structures:
            atoms.positions += rng.normal(scale=0.2, size=atoms.positions.shape)
    assert all(verlet.n_searches > 1 for verlet in model._evaluator.neighbours.lists)


def charged(state: Any, charge: list[float], spin: list[float]) -> Any:
    """The state with charge and spin: torch-sim 0.3 has none of its own, later ones take them as tensors."""
    if not hasattr(state, "charge"):

        @dataclass(init=False)
        class Charged(ts.SimState):  # type: ignore[misc, name-defined]
            charge: torch.Tensor = field(default_factory=torch.empty)
            spin: torch.Tensor = field(default_factory=torch.empty)
            _system_attributes: ClassVar[set[str]] = {"cell", "charge", "spin"}

        state.__class__ = Charged
    state.charge, state.spin = torch.tensor(charge).double(), torch.tensor(spin).double()
    return state


@pytest.mark.filterwarnings("ignore:.* never saw multiplicity 1 of total charge")
def test_charge_and_spin_of_states(model: TorchSimModel, calculator: GFMCalculator) -> None:
    structures = [molecule("H2O"), molecule("H2O"), molecule("CH3O")]
    state = charged(state_of(structures), [0, 1, -1], [0, 2, 1])
    for atoms, charge, spin in zip(structures, (0, 1, -1), (None, 2, 1), strict=True):
        atoms.info.update(charge=charge, spin=spin)
    assert_as_alone(model(state), calculator, structures)
    with pytest.raises(InvalidStructureError, match="system 1: multiplicity 1 is impossible with 9 electrons"):
        model(charged(state_of(structures), [0, 1, -1], [0, 1, 1]))
    with pytest.raises(InvalidStructureError, match=r"system 1: charge must be a whole number, got 0\.5"):
        model(charged(state_of(structures), [0, 0.5, -1], [0, 2, 1]))
    with pytest.raises(InvalidStructureError, match=r"spin must be a whole number, got 1\.5"):
        TorchSimModel(calculator.potential, spin=1.5)


def test_charge_and_spin_by_default(calculator: GFMCalculator) -> None:
    model = TorchSimModel(calculator.potential, precision="fp64", charge=1, spin=2)
    state, water = state_of([molecule("H2O")]), molecule("H2O")
    if hasattr(state, "charge"):
        pytest.skip("states of this torch-sim always state a charge")
    water.info.update(charge=1, spin=2)
    assert_as_alone(model(state), calculator, [water])


def test_what_the_model_cannot_answer(model: TorchSimModel) -> None:
    strange, clash, lost = crystals()[:2], crystals()[:2], crystals()[:2]
    strange[1].numbers[:] = 118
    with pytest.raises(InvalidStructureError, match=r"system 1: .*Og"):
        model(state_of(strange))
    clash[1].positions[0] = clash[1].positions[1]
    with pytest.raises(InvalidStructureError, match=r"system 1: atoms 0 .* are 0 Å apart"):
        model(state_of(clash))
    model(state_of(crystals()[:2]))
    lost[0].positions[3] = np.nan
    with pytest.raises(InvalidStructureError, match="system 0: positions or cell are not finite"):
        model(state_of(lost))


def test_settings(calculator: GFMCalculator) -> None:
    with pytest.raises(ValueError, match=r"dtype must be torch\.float64 or torch\.float32, got torch\.float16"):
        TorchSimModel(calculator.potential, dtype=torch.float16)
    with pytest.raises(ValueError, match="no head"):
        TorchSimModel(calculator.potential, head="nonsense")
    head = calculator.potential.branch_names[0]
    water = molecule("H2O")
    energy = TorchSimModel(calculator.potential, head=head, precision="fp64")(state_of([water]))["energy"]
    assert float(energy) == pytest.approx(alone(calculator, [water])[0]["branch_energies"][head], abs=1e-9)


def optimized(structures: list[Atoms], model: TorchSimModel, fmax: float, **options: Any) -> Any:
    """FIRE with Frechet cells, in the words of torch-sim 0.3 and of later ones."""
    criterion = ts.generate_force_convergence_fn(fmax, include_cell_forces=True)
    if hasattr(ts, "frechet_cell_fire"):
        how: dict[str, Any] = {"optimizer": ts.frechet_cell_fire}
    else:
        how = {"optimizer": ts.Optimizer.fire, "init_kwargs": {"cell_filter": ts.CellFilter.frechet}}
    return ts.optimize(structures, model, convergence_fn=criterion, steps_between_swaps=1, **how, **options)


def test_relaxations_find_the_minima_of_ase(model: TorchSimModel, calculator: GFMCalculator) -> None:
    """With two in flight, so that systems are swapped."""
    structures = [crystals()[i] for i in (0, 1, 2)]
    budget = BatchBudget(max_edges=1000)
    final = optimized(structures, model, 0.01, max_steps=300, autobatcher=model.in_flight_batcher(budget))
    for i, atoms in enumerate(structures):
        atoms.calc = calculator
        want = relax(atoms, cell=True, fmax=0.01)
        assert want.converged
        assert float(final.energy[i]) / len(atoms) == pytest.approx(want.energies[-1] / len(atoms), abs=1e-4)
        volume = float(torch.linalg.det(final.cell[i]).abs())
        assert volume == pytest.approx(want.atoms.get_volume(), rel=2e-3)


def test_dynamics_are_those_of_ase(model: TorchSimModel, calculator: GFMCalculator) -> None:
    """NVE over 100 steps; torch-sim wraps positions, so distances are compared modulo lattice vectors."""
    structures = [crystals()[0], crystals()[3]]
    for seed, atoms in enumerate(structures):
        draw_velocities(atoms, 300.0, np.random.default_rng(seed))
    timestep = torch.tensor(1.0 * units.fs, dtype=torch.float64)
    state = nve(structures, model, timestep, steps=100)
    ends = [atoms.positions for atoms in state.to_atoms()]
    for atoms, found in zip(structures, ends, strict=True):
        atoms.calc = calculator
        VelocityVerlet(atoms, 1.0 * units.fs).run(100)
        away = np.linalg.solve(atoms.cell.array.T, (found - atoms.positions).T).T
        assert np.abs((away - away.round()) @ atoms.cell.array).max() < 1e-6


def nve(structures: list[Atoms], model: TorchSimModel, timestep: torch.Tensor, steps: int) -> Any:
    kelvin = torch.tensor(0.03, dtype=torch.float64)
    state = state_of(structures)
    if hasattr(ts, "nve"):
        begin, step = ts.nve(model, dt=timestep, kT=kelvin)
        moving = begin(state)
    else:
        moving = ts.nve_init(state, model, kT=kelvin)

        def step(state: Any) -> Any:
            return ts.nve_step(state, model, dt=timestep)

    moving.momenta = torch.from_numpy(np.concatenate([atoms.get_momenta() for atoms in structures]))
    for _ in range(steps):
        moving = step(moving)
    return moving


def test_batches_by_edges(model: TorchSimModel, calculator: GFMCalculator) -> None:
    structures = crystals() * 2
    edges = [calculator._graph(atoms).n_edges for atoms in structures]
    batcher = model.binning_batcher(BatchBudget(max_edges=1000))
    batcher.return_indices = True  # later ones always do
    batcher.load_states(state_of(structures))
    bins = [indices for _, indices in batcher]
    assert sorted(i for indices in bins for i in indices) == list(range(10))
    assert len(bins) > 2
    assert all(sum(edges[i] for i in indices) < 1200 for indices in bins)  # estimated from the density
    assert max(sum(edges[i] for i in indices) for indices in bins) > 700


def test_absence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    monkeypatch.delitem(sys.modules, "gfmpot.calculators.torch_sim")
    with pytest.raises(ImportError, match=r'torch-sim is not installed: pip install "gfmpot\[md\]"'):
        importlib.import_module("gfmpot.calculators.torch_sim")
