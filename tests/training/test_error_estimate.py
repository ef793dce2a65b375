"""The estimate of errors: it finds errors that were put there, knows what is unfamiliar, and stays with the model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gfmpot import GFMCalculator
from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.models import BranchInfo, HeadConfig, Potential, PotentialConfig, load, save
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.potential import rebuilt
from gfmpot.training.calibration import Estimated, estimated_errors
from gfmpot.training.error_estimate import BLOCKS, CHOOSING, FEWEST, Observed, _choosing, with_error_estimate

CUTOFF = 4.0
NOISE = {"Cu": 0.01, "Al": 0.10}
"""eV per atom and eV/Å, of the labels below."""


def untrained() -> Potential:
    config = PotentialConfig(
        backbone=PaiNNConfig(cutoff=CUTOFF, hidden=16, layers=2, radial_basis=4),
        head=HeadConfig(shared_layers=0, branch_layers=1, branch_width=8),
    )
    elements = dict.fromkeys(("Cu", "Al", "H", "C", "O"), -1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Potential(config, [BranchInfo("a-pbe", e0=elements), BranchInfo("b-gfn2", e0=elements)], elements).eval()


def metals(n: int, seed: int) -> Iterator[Atoms]:
    rng = np.random.default_rng(seed)
    for i in range(n):
        atoms = bulk(("Cu", "Al")[i % 2], cubic=True)
        atoms.set_cell(atoms.cell * rng.uniform(0.97, 1.03), scale_atoms=True)
        atoms.rattle(0.05, seed=int(rng.integers(10**6)))
        yield atoms


def labelled(model: Potential, n: int, seed: int) -> Iterator[AtomGraph]:
    """What the model says of metals, with errors that depend on the element; every tenth without energy or forces."""
    rng = np.random.default_rng(seed)
    for i, atoms in enumerate(metals(n, seed)):
        graph = graph_from_atoms(atoms, cutoff=CUTOFF).replace(branch=torch.tensor([0]))
        exact = model.labelled(graph, create_graph=False)
        assert exact.forces is not None
        assert exact.stress is not None
        size = NOISE[atoms.get_chemical_symbols()[0]]
        energy = exact.energy.detach() + len(atoms) * torch.from_numpy(rng.laplace(0, size, 1))
        forces = exact.forces + torch.from_numpy(rng.normal(0, size, (len(atoms), 3)))
        energy, forces = energy * (torch.nan if i % 10 == 3 else 1), forces * (torch.nan if i % 10 == 7 else 1)
        yield graph.replace(energy=energy, forces=forces, stress=exact.stress)


@pytest.fixture(scope="module")
def model() -> Potential:
    plain = untrained()
    return with_error_estimate(plain, labelled(plain, 40, 1), labelled(plain, 200, 2))


def test_neighbours_choose_together() -> None:
    for structures in (FEWEST, 43, 5_000):
        choosing = _choosing(structures)
        assert 0.15 < choosing.double().mean() < 0.25
        changes = int((choosing[1:] != choosing[:-1]).sum())
        assert changes <= 2 * BLOCKS / CHOOSING + 1


def test_some_structures_of_many() -> None:
    rng = torch.Generator().manual_seed(0)
    structure = torch.tensor([0, 0, 1, 2, 2, 2])
    whole = Observed(torch.rand(6, 3, generator=rng), structure, torch.arange(3.0), torch.arange(6.0))
    part = whole.of(torch.tensor([True, False, True]))
    assert torch.equal(part.features, whole.features[[0, 1, 3, 4, 5]])
    assert part.structure.tolist() == [0, 0, 1, 1, 1]
    assert part.energy.tolist() == [0.0, 2.0]
    assert part.forces.tolist() == [0.0, 1.0, 3.0, 4.0, 5.0]


def test_estimates_are_finite_where_squares_are_not(model: Potential) -> None:
    assert model.errors is not None
    features = torch.full((2, model.backbone.out_features), 1e25)
    energy, forces, distance = model.errors(features)
    assert distance.shape == (2, 2)
    assert distance.isfinite().all()
    assert energy[:, 0].isfinite().all()
    assert forces[:, 0].min() > 1e40


def test_errors_are_found(model: Potential) -> None:
    estimated = estimated_errors(model, labelled(model, 100, 3))
    assert list(estimated) == [0]
    summary = estimated[0].summary()
    assert summary["spearman_energy"] > 0.5
    assert summary["spearman_forces"] > 0.7
    assert 0.55 < summary["within_energy"] < 0.85
    assert 0.55 < summary["within_forces"] < 0.85
    assert summary["ratio_forces"] == pytest.approx(1.0, abs=0.25)


def test_answers_do_not_change(model: Potential) -> None:
    graph = graph_from_atoms(next(metals(1, 9)), cutoff=CUTOFF)
    before, after = untrained()(graph), model(graph)
    assert before.novelty is None
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=0)
    torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=0)


def test_estimates_are_extensive_and_blend(model: Potential) -> None:
    atoms = next(metals(1, 9))
    small, large = (model(graph_from_atoms(a, cutoff=CUTOFF), head="a-pbe") for a in (atoms, atoms * (2, 1, 1)))
    assert float(large.energy_std) == pytest.approx(2 * float(small.energy_std), rel=1e-4)
    graph = graph_from_atoms(atoms, cutoff=CUTOFF)
    both = copy.deepcopy(model)
    assert both.errors is not None
    both.errors.known.fill_(1.0)
    heads = [float(both(graph, head=name).energy_std) for name in model.branch_names]
    blend = both(graph, weights=torch.tensor([0.25, 0.75], dtype=torch.float64))
    assert float(blend.energy_std) == pytest.approx(0.25 * heads[0] + 0.75 * heads[1], rel=1e-5)
    assert both(graph, spread="forces").forces_std.shape == (4, 3)
    assert both(graph, spread="none").energy_std is None


def test_what_nobody_has_seen_is_not_a_number(model: Potential) -> None:
    """The second branch had no structures: neither it nor a blend that is mostly it has an estimate."""
    graph = graph_from_atoms(next(metals(1, 9)), cutoff=CUTOFF)
    assert float(model(graph, head="a-pbe").energy_std) > 0
    alone = model(graph, head="b-gfn2", spread="forces")
    assert torch.isnan(alone.energy_std).all()
    assert torch.isnan(alone.forces_std).all()
    mostly_seen, mostly_not = (torch.tensor(weights, dtype=torch.float64) for weights in ([0.9, 0.1], [0.4, 0.6]))
    assert torch.isnan(model(graph, weights=mostly_not).energy_std).all()
    seen = model(graph, head="a-pbe", spread="forces")
    blend = model(graph, weights=mostly_seen, spread="forces")
    torch.testing.assert_close(blend.energy_std, seen.energy_std)
    torch.testing.assert_close(blend.forces_std, seen.forces_std)


def test_each_branch_knows_what_it_learnt_from() -> None:
    plain = untrained()

    def of(branch: int, atoms: Iterator[Atoms]) -> Iterator[AtomGraph]:
        for one in atoms:
            graph = graph_from_atoms(one, cutoff=CUTOFF).replace(branch=torch.tensor([branch]))
            exact = plain.labelled(graph, create_graph=False)
            yield graph.replace(energy=exact.energy.detach(), forces=exact.forces, stress=exact.stress)

    def molecules(n: int, seed: int) -> Iterator[Atoms]:
        for i in range(n):
            atoms = molecule(("CH3OH", "C2H4", "CO2")[i % 3])
            atoms.rattle(0.05, seed=seed + i)
            yield atoms

    def both(n: int, seed: int) -> Iterator[AtomGraph]:
        yield from of(0, metals(n, seed))
        yield from of(1, molecules(n, seed))

    model = with_error_estimate(plain, both(150, 1), both(30, 2))
    metal, organic = (graph_from_atoms(next(kind), cutoff=CUTOFF) for kind in (metals(1, 900), molecules(1, 900)))
    for graph, own, other in ((metal, "a-pbe", "b-gfn2"), (organic, "b-gfn2", "a-pbe")):
        near, far = (model(graph, head=head) for head in (own, other))
        assert near.novelty.max() < 1.2
        assert far.novelty.max() > 1.4
        assert far.energy_std > 1.5 * near.energy_std
        mixed = model(graph, weights=torch.tensor([0.5, 0.5], dtype=torch.float64))
        torch.testing.assert_close(mixed.novelty, (near.novelty + far.novelty) / 2)


def test_few_atoms_of_a_branch_lean_on_all(model: Potential) -> None:
    """Those of a single structure: alone they would make everything else unfamiliar."""
    plain = untrained()
    one = next(metals(1, 1))
    few = graph_from_atoms(one, cutoff=CUTOFF).replace(branch=torch.tensor([1]))
    exact = plain.labelled(few, create_graph=False)
    few = few.replace(energy=exact.energy.detach(), forces=exact.forces, stress=exact.stress)
    found = with_error_estimate(plain, [*labelled(plain, 40, 1), few], labelled(plain, 200, 2))
    graph = graph_from_atoms(one, cutoff=CUTOFF)
    assert found(graph, head="b-gfn2").novelty.max() < 1.2
    assert found.errors is not None
    assert found.errors.own_whitening[1].isfinite().all()
    # A branch that nobody has seen structures of takes all of them for familiar.
    assert model(graph, head="b-gfn2").novelty.max() < 1.2


def test_too_few_to_learn_from(caplog: pytest.LogCaptureFixture) -> None:
    plain = untrained()
    assert with_error_estimate(plain, labelled(plain, 5, 1), labelled(plain, 5, 2)) is plain
    assert "will not estimate its errors (energy_std, forces_std)" in caplog.text
    alike = [next(labelled(plain, 1, 1))] * 3
    found = with_error_estimate(plain, alike, labelled(plain, 20, 2))
    assert torch.isfinite(found(alike[0], head="a-pbe").energy_std).all()


def test_the_unfamiliar_is_told_once(model: Potential) -> None:
    squeezed = bulk("Cu", cubic=True)
    squeezed.set_cell(0.7 * squeezed.cell, scale_atoms=True)
    calculator = GFMCalculator(model, head="a-pbe")
    familiar = next(metals(1, 11))
    familiar.calc = calculator
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        familiar.get_potential_energy()
    usual = calculator.results["energy_std"]
    assert calculator.results["novelty"].shape == (4,)
    assert calculator.results["novelty"].max() < 1.2
    for atoms in (squeezed, molecule("CH3OH")):
        atoms.calc = calculator
    with pytest.warns(
        UserWarning, match=r"the surroundings of atom \d \(Cu\) are far from all that a-pbe learnt from: "
    ):
        squeezed.get_potential_energy()
    assert calculator.results["novelty"].max() > 1.2
    assert calculator.results["energy_std"] > 2 * usual
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()


def test_it_stays_with_the_model(model: Potential, tmp_path: Path) -> None:
    again = load(save(model, tmp_path / "model.safetensors"))
    renamed = rebuilt(again, metadata={"name": "other"})
    graph = graph_from_atoms(next(metals(1, 9)), cutoff=CUTOFF)
    expected, *others = (m(graph, head="a-pbe", spread="forces") for m in (model, again, renamed))
    assert torch.isfinite(expected.forces_std).all()
    for found in others:
        for name in ("energy_std", "forces_std", "novelty"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)


def test_paths_agree(model: Potential) -> None:
    """Kernels and PyTorch's operations; tests/inference has compiled code."""
    from gfmpot.inference import Predictor

    graph = graph_from_atoms(next(metals(1, 9)) * (2, 2, 2), cutoff=CUTOFF)
    ways: list[dict[str, bool]] = [{"kernels": False, "compile": False}, {"kernels": True, "compile": False}]
    one, two = (Predictor(model, head="a-pbe", precision="fp64", **way)(graph)[0] for way in ways)  # type: ignore[arg-type]
    assert one["energy_std"] == pytest.approx(two["energy_std"], rel=1e-10)
    np.testing.assert_allclose(one["novelty"], two["novelty"], rtol=1e-10)


def test_summary_of_normal_errors() -> None:
    rng = np.random.default_rng(0)
    std = rng.uniform(0.01, 0.1, 20_000)
    three = rng.normal(0, 1, (20_000, 3)) * std[:, None]
    errors = rng.normal(0, std)
    errors[5] = np.nan
    summary = Estimated(errors, std, np.linalg.norm(three, axis=1), np.sqrt(3) * std).summary()
    assert summary["within_energy"] == pytest.approx(0.683, abs=0.01)
    assert summary["ratio_energy"] == pytest.approx(1.0, abs=0.02)
    assert summary["ratio_forces"] == pytest.approx(1.0, abs=0.02)
    assert summary["within_forces"] == pytest.approx(0.608, abs=0.01)
    assert 0.3 < summary["spearman_energy"] < 0.6
    same = Estimated(np.zeros(9), np.ones(9), np.zeros(9), np.ones(9)).summary()
    assert set(same) == {"within_energy", "ratio_energy", "within_forces", "ratio_forces"}
