"""Many structures at once take the steps that each takes alone through ASE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixBondLength
from ase.filters import FrechetCellFilter
from ase.io import read
from many import TWO_AT_A_TIME, left_handed, mixture, shaken, slab
from scipy.linalg import expm_frechet

from gfmpot import GFMCalculator
from gfmpot.calculators.batch_coordinates import Coordinates, Start, exponential_derivative, free_coordinates
from gfmpot.calculators.batch_progress import progress_bar
from gfmpot.calculators.batched import BatchRelaxed, dynamics_many, relax_as_done, relax_many
from gfmpot.calculators.dynamics import MDConfig
from gfmpot.calculators.relaxation import Relaxed, relax
from gfmpot.graph import AtomGraph, BatchBudget, InvalidStructureError
from gfmpot.inference import Predictor, Results
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig
from gfmpot.models.backbones.painn import PaiNNConfig


@pytest.fixture(scope="module")
def calculator() -> GFMCalculator:
    return GFMCalculator(precision="fp64")


def alone(calculator: GFMCalculator, atoms: Atoms, **settings: Any) -> Relaxed:
    copy = atoms.copy()
    copy.calc = calculator
    return relax(copy, **settings)


def assert_same(found: BatchRelaxed, want: Relaxed, tolerance: float) -> None:
    assert found.error is None
    assert (found.converged, found.steps) == (want.converged, want.steps)
    assert found.energies == pytest.approx(want.energies, abs=tolerance)
    assert found.energy == found.energies[-1]
    assert found.atoms.positions == pytest.approx(want.atoms.positions, abs=tolerance)
    assert found.atoms.cell.array == pytest.approx(want.atoms.cell.array, abs=tolerance)
    assert found.atoms.get_forces() == pytest.approx(want.frames[-1].get_forces(), abs=10 * tolerance)
    assert ("stress" in found.atoms.calc.results) == ("stress" in want.frames[-1].calc.results)


@pytest.mark.parametrize("optimizer", ["FIRE", "LBFGS"])
def test_every_step_is_that_of_ase(calculator: GFMCalculator, optimizer: str) -> None:
    structures, cells = zip(*mixture(), strict=True)
    settings = {"fmax": 0.01, "steps": 60, "optimizer": optimizer}
    found = relax_many(structures, calculator, cell=cells, **settings)
    for one, atoms, cell in zip(found, structures, cells, strict=True):
        assert_same(one, alone(calculator, atoms, cell=cell, **settings), tolerance=1e-7)
    assert sum(one.converged for one in found) >= 6


@pytest.mark.parametrize("optimizer", ["FIRE", "LBFGS"])
def test_what_else_is_in_flight_does_not_matter(calculator: GFMCalculator, optimizer: str) -> None:
    structures, cells = zip(*mixture(), strict=True)
    settings = {"cell": cells, "fmax": 0.02, "steps": 40, "optimizer": optimizer}
    together = relax_many(structures, calculator, **settings)
    for budget in (TWO_AT_A_TIME, BatchBudget(max_edges=700)):
        for one, other in zip(together, relax_many(structures, calculator, budget=budget, **settings), strict=True):
            assert one.steps == other.steps
            assert one.energies == pytest.approx(other.energies, abs=1e-8)
            assert one.atoms.positions == pytest.approx(other.atoms.positions, abs=1e-7)


def test_longer_than_the_memory_of_lbfgs(calculator: GFMCalculator, monkeypatch: pytest.MonkeyPatch) -> None:
    from gfmpot.calculators.batch_optimizers import LBFGS

    whole = relax_many([mixture()[0][0]], calculator, cell=True, fmax=1e-4, steps=40, optimizer="LBFGS")
    monkeypatch.setattr(LBFGS, "memory", 4)
    short = relax_many([mixture()[0][0]], calculator, cell=True, fmax=1e-4, steps=80, optimizer="LBFGS")
    assert whole[0].energies[:5] == pytest.approx(short[0].energies[:5], abs=1e-10)
    assert whole[0].energies[8:12] != pytest.approx(short[0].energies[8:12], abs=1e-10)
    assert short[0].energies[-1] == pytest.approx(whole[0].energies[-1], abs=1e-5)


def test_single_precision_finds_the_same_minima(calculator: GFMCalculator) -> None:
    structures, cells = zip(*(pair for pair in mixture() if len(pair[0]) in (3, 6, 8)), strict=True)
    found = relax_many(structures, GFMCalculator(precision="fp32"), cell=cells, fmax=0.01)
    for one, atoms, cell in zip(found, structures, cells, strict=True):
        want = alone(calculator, atoms, cell=cell, fmax=0.01)
        assert one.converged
        assert one.energy / len(atoms) == pytest.approx(want.energies[-1] / len(atoms), abs=1e-4)
        if cell:
            assert one.atoms.get_volume() == pytest.approx(want.atoms.get_volume(), rel=2e-3)


def test_capped_neighbours_as_alone() -> None:
    e0 = {"Mg": -1.0, "O": -2.0}
    backbone = PaiNNConfig(hidden=8, layers=2, radial_basis=4, cutoff=4.0, mean_neighbours=12)
    config = PotentialConfig(backbone, HeadConfig(shared_layers=0, branch_layers=1, branch_width=8), max_neighbours=7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        potential = Potential(config, [BranchInfo("a", "PBE", e0=e0)], e0_blend=e0)
    with pytest.warns(UserWarning, match="keeps only the 7 nearest neighbours"):
        calculator = GFMCalculator(potential, precision="fp64")
    structures = [shaken(bulk("MgO", "rocksalt", 4.3, cubic=True), seed) for seed in (0, 1)]
    found = relax_many(structures, calculator, fmax=1e-3, steps=6)
    for one, atoms in zip(found, structures, strict=True):
        assert_same(one, alone(calculator, atoms, fmax=1e-3, steps=6), tolerance=1e-8)


def test_starts_are_not_changed(calculator: GFMCalculator) -> None:
    structures = [atoms for atoms, _ in mixture()]
    before = [(atoms.positions.copy(), atoms.cell.array.copy(), dict(atoms.info)) for atoms in structures]
    found = relax_many(structures, calculator, steps=3)
    for atoms, one, (positions, cell, info) in zip(structures, found, before, strict=True):
        assert np.array_equal(atoms.positions, positions)
        assert np.array_equal(atoms.cell.array, cell)
        assert atoms.info == info
        assert atoms.calc is None
        assert one.start.get_potential_energy() == one.energies[0]
        assert np.array_equal(one.start.positions, positions)
        assert len(one.atoms.constraints) == len(atoms.constraints)


def test_steps_end_a_relaxation(calculator: GFMCalculator) -> None:
    one, still = relax_many([mixture()[0][0], Atoms("Mg")], calculator, fmax=1e-9, steps=4)
    assert (one.converged, one.steps, len(one.energies)) == (False, 4, 5)
    assert (still.converged, still.steps) == (True, 0)
    (none,) = relax_many([mixture()[0][0]], calculator, steps=0)
    assert (none.converged, none.steps) == (False, 0)


def test_trajectories_hold_every_step(calculator: GFMCalculator, tmp_path: Path) -> None:
    structures = [mixture()[0][0], molecule("H2O")]
    found = relax_many(structures, calculator, steps=5, trajectories=tmp_path / "steps", names=["oxide", "water"])
    for name, one in zip(("oxide", "water"), found, strict=True):
        frames = read(tmp_path / "steps" / f"{name}.traj", ":")
        assert [frame.get_potential_energy() for frame in frames] == pytest.approx(one.energies, abs=1e-12)
        assert frames[-1].positions == pytest.approx(one.atoms.positions)
    assert "stress" in read(tmp_path / "steps" / "oxide.traj").calc.results


def test_bad_structures_do_not_stop_the_others(calculator: GFMCalculator) -> None:
    clash, strange, hinged = molecule("H2O"), Atoms("Og2", [[0, 0, 0], [0, 0, 2.5]]), molecule("H2O")
    clash.positions[1] = clash.positions[0]
    hinged.set_constraint(FixBondLength(0, 1))
    good = molecule("CH4")
    structures = [clash, good, strange, hinged, Atoms(), molecule("NH3")]
    found = relax_many(structures, calculator, cell=[False, False, False, False, False, True])
    assert found[1].converged
    reasons = [one.error or "" for one in found]
    assert "atoms 0 (Z=8) and 1 (Z=1) are 0 Å apart" in reasons[0]
    assert "Og" in reasons[2]
    assert "FixBondLengths is not known to batches" in reasons[3]
    assert "the structure has no atoms" in reasons[4]
    assert "a structure without a volume has no cell to relax" in reasons[5]
    assert np.isnan(found[0].energy)
    assert found[0].atoms is clash
    assert not any(one.converged for i, one in enumerate(found) if i != 1)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the fourth call on, the model has no answer for copper."""
    answer, calls = Predictor.__call__, iter(range(10_000))

    def call(self: Predictor, graph: AtomGraph) -> list[Results]:
        if next(calls) >= 3 and (graph.atomic_numbers == 29).any():
            raise InvalidStructureError("no answer")
        return answer(self, graph)

    monkeypatch.setattr(Predictor, "__call__", call)


@pytest.mark.usefixtures("failing")
def test_a_structure_that_fails_on_the_way_leaves_the_others_alone(tmp_path: Path) -> None:
    calculator = GFMCalculator("default", precision="fp64")
    copper, oxide = shaken(bulk("Cu") * (2, 1, 1)), mixture()[0][0]
    structures = [molecule("H2O"), copper, oxide, copper, molecule("CH4")]
    found = relax_many(structures, calculator, fmax=1e-6, steps=10, trajectories=tmp_path)
    for one in (found[1], found[3]):
        assert one.error == "after step 2: no answer"
        assert (one.steps, len(one.energies), one.converged) == (2, 3, False)
        assert np.array_equal(one.atoms.positions, copper.positions)
    assert len(read(tmp_path / "1.traj", ":")) == 3
    want = relax_many([structures[i] for i in (0, 2, 4)], calculator, fmax=1e-6, steps=10)
    for i, one in zip((0, 2, 4), want, strict=True):
        assert found[i].energies == pytest.approx(one.energies, abs=1e-9)


def test_batches_that_do_not_fit_into_memory(calculator: GFMCalculator, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are divided; one structure that does not fit fails, and the others go on."""
    structures = [shaken(bulk("MgO", "rocksalt", 4.3, cubic=True) * size, 1) for size in ((1, 1, 1), (2, 2, 1))]
    small = [shaken(structures[0], seed) for seed in range(4)]
    want = relax_many(small, calculator, steps=4)
    forward, sizes = Potential.forward, []

    def call(self: Potential, graph: AtomGraph, **options: Any) -> Any:
        sizes.append(graph.n_edges)
        if graph.n_edges > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, graph, **options)

    monkeypatch.setattr(Potential, "forward", call)
    found = relax_many([*small, structures[1]], calculator, steps=4)
    for one, other in zip(found, want, strict=False):
        assert one.energies == pytest.approx(other.energies, abs=1e-9)
    assert "do not fit into the memory of cpu" in (found[4].error or "")
    assert sum(size > 1000 for size in sizes) < 12  # what does not fit is not tried at every one of five steps


def test_structures_are_read_as_there_is_room(calculator: GFMCalculator) -> None:
    taken: list[Atoms] = []

    def endless() -> Iterator[Atoms]:
        while True:
            taken.append(Atoms("Mg") if taken else shaken(molecule("CH3OH")))
            yield taken[-1]

    done = relax_as_done(endless(), calculator, fmax=0.01, budget=TWO_AT_A_TIME)
    assert [next(done)[0] for _ in range(4)] == [1, 2, 3, 4]  # single atoms overtake the first
    assert len(taken) <= 6


def test_files_are_closed_when_nobody_asks_for_more(calculator: GFMCalculator, tmp_path: Path) -> None:
    structures = [shaken(molecule("CH3OH")), shaken(molecule("CH3OH"), 1), molecule("H2O")]
    done = relax_as_done(structures, calculator, fmax=0.1, trajectories=tmp_path)
    next(done)
    open_files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    done.close()
    if open_files:
        assert len(list(Path("/proc/self/fd").iterdir())) < open_files
    assert len(read(tmp_path / "0.traj", ":")) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "BFGS"}, "no optimizer 'BFGS' for batches"),
        ({"fmax": 0.0}, "fmax must be positive"),
        ({"fmax": float("nan")}, "fmax must be positive and steps not negative, got nan eV/Å"),
        ({"steps": -1}, "steps not negative"),
        ({"names": ["a"]}, "names: expected one for each of the 2 structures, got 1"),
        ({"cell": [True] * 3}, "cell: expected one for each of the 2 structures, got 3"),
        ({"trajectories": "x", "names": ["a", "a"]}, "names of files must differ, got 'a' twice"),
    ],
)
def test_settings_that_make_no_sense(calculator: GFMCalculator, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        relax_many([molecule("H2O")] * 2, calculator, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "lbgfs"}, "no optimizer 'lbgfs'; did you mean 'LBFGS'"),
        ({"fmax": float("nan")}, "fmax must be positive and steps not negative, got nan eV/Å"),
        ({"steps": -1}, "steps not negative"),
    ],
)
def test_settings_that_make_no_sense_alone(calculator: GFMCalculator, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        alone(calculator, molecule("H2O"), **settings)


def test_no_structures(calculator: GFMCalculator, tmp_path: Path) -> None:
    assert relax_many([], calculator) == []
    assert dynamics_many([], calculator, MDConfig(), tmp_path) == []


def test_generalised_forces_are_those_of_the_cell_filter(calculator: GFMCalculator) -> None:
    """At large deformations, for partly and wholly relaxed cells of either handedness."""
    rng = np.random.default_rng(3)
    for atoms, strains in ((mixture()[0][0], 6), (slab(), 3), (left_handed(), 6)):
        mask = [True] * 6 if strains == 6 else [True, True, False, False, False, True]
        free = free_coordinates(atoms)
        full = np.array(mask)[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        coordinates = Coordinates(torch.device("cpu"))
        coordinates.join([Start(atoms.positions, atoms.cell.array, free, full)])
        atoms.calc = calculator
        filtered = FrechetCellFilter(atoms, mask=mask)
        rows = filtered.get_positions()
        rows[-3:] = np.eye(3) * 0.0  # ASE adds a constant of its own
        rows += rng.normal(scale=[[0.1]] * len(atoms) + [[0.3 * len(atoms)]] * 3, size=rows.shape) * 0.5
        rows[:-3] = np.where(free, rows[:-3], atoms.positions)
        coordinates.move(torch.from_numpy(rows))
        positions, cell = coordinates.place()
        atoms.set_cell(cell[0].numpy())
        atoms.positions = positions.numpy()
        forces, stress = (
            torch.from_numpy(atoms.get_forces(apply_constraint=False)),
            torch.from_numpy(atoms.get_stress()),
        )
        found = coordinates.forces(forces, stress[None]).numpy()
        assert found == pytest.approx(filtered.get_forces(), abs=1e-9)
        assert np.abs(found[-3:]).max() > 1e-3


def test_derivative_of_the_exponential() -> None:
    rng = np.random.default_rng(0)
    at, direction = rng.normal(scale=0.3, size=(4, 3, 3)), rng.normal(size=(4, 3, 3))
    found = exponential_derivative(torch.from_numpy(at), torch.from_numpy(direction)).numpy()
    want = [expm_frechet(a, e, compute_expm=False) for a, e in zip(at, direction, strict=True)]
    assert found == pytest.approx(np.array(want), abs=1e-12)


def test_the_bar_is_for_terminals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def count(shown: bool) -> str:
        with progress_bar(3, shown) as bar:
            bar.advance(2)
            bar.tell(good=True)
            bar.tell(good=False)
        return capsys.readouterr().err

    assert count(shown=True) == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert count(shown=False) == ""
    text = count(shown=True)
    assert "2/3" in text
    assert "2 structures done, 1 of them not as wanted" in text


def test_cells_of_layers_that_are_turned_are_refused(calculator: GFMCalculator) -> None:
    """Their strain would be that of the vacuum."""
    layer = slab()
    layer.rotate(90, "x", rotate_cell=True)
    layer.calc = calculator
    with pytest.raises(ValueError, match="periodic along ab, which must lie along xy"):
        relax(layer, cell=True)
    assert relax_many([layer], calculator, cell=True)[0].error.startswith("the cell is periodic along ab")
    assert relax(layer, steps=0).steps == 0
