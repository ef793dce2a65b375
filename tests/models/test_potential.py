"""The potential: scales of branches and blend, masks, weights, spread."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from gfmpot.graph import AtomGraph, edge_vectors, graph_from_atoms
from gfmpot.models import (
    BranchInfo,
    HeadConfig,
    Potential,
    PotentialConfig,
    UnsupportedElementsError,
)
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.models.potential import BOUND
from gfmpot.models.presets import preset, untrained

METAL = BranchInfo("metal-pbe", "PBE", e0={"Cu": -3.0, "Al": -4.0, "O": -5.0}, alignment={"Cu": 0.1, "O": -0.2})
ORGANIC = BranchInfo("organic-gfn2", "GFN2", e0={"H": -10.0, "C": -50.0, "O": -100.0}, alignment={"O": 0.3})
BLEND = {"Cu": -3.0, "Al": -4.0, "O": -5.0, "H": -10.0, "C": -50.0}


def potential(readout: str = "atomwise", seed: int = 0) -> Potential:
    config = PotentialConfig(
        backbone=PaiNNConfig(hidden=16, layers=2, radial_basis=4, cutoff=4.0),
        head=HeadConfig(shared_layers=1, shared_width=8, branch_layers=1, branch_width=16, readout=readout),  # type: ignore[arg-type]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Potential(config, [METAL, ORGANIC], BLEND).double()


def graph(atoms: Atoms) -> AtomGraph:
    return graph_from_atoms(atoms, cutoff=4.0)


OXYGEN = molecule("O2")


def test_head_answers_with_its_own_total_energy() -> None:
    model = potential()
    answer = model(graph(OXYGEN), head="organic-gfn2")
    learnt, _ = model.every_branch(graph(OXYGEN))
    unaligned = learnt[0, 1] - 2 * ORGANIC.alignment["O"]
    assert answer.energy[0].item() == pytest.approx((2 * ORGANIC.e0["O"] + unaligned).item(), abs=1e-12)
    assert answer.branch_energies[0, 1].item() == pytest.approx(answer.energy[0].item(), abs=1e-12)


def test_blend_is_the_weighted_sum_on_the_common_scale() -> None:
    model = potential()
    answer = model(graph(OXYGEN))
    learnt, forces = model.every_branch(graph(OXYGEN))
    weights = answer.branch_weights[0]
    assert weights.sum().item() == pytest.approx(1.0)
    assert (weights > 0).all()
    assert answer.energy[0].item() == pytest.approx((2 * BLEND["O"] + (weights * learnt[0]).sum()).item(), abs=1e-12)
    torch.testing.assert_close(answer.forces, (forces * weights).sum(dim=2), rtol=0, atol=1e-12)
    assert answer.energies.sum().item() == pytest.approx(answer.energy[0].item(), abs=1e-12)


def test_spread_is_about_the_answer() -> None:
    model = potential()
    answer = model(graph(OXYGEN), spread="forces")
    learnt, forces = model.every_branch(graph(OXYGEN))
    blended = (answer.branch_weights[0] * learnt[0]).sum()
    expected = (learnt[0] - blended).square().mean().sqrt()
    assert answer.energy_std[0].item() == pytest.approx(expected.item(), abs=1e-12)
    deviation = (forces - answer.forces.unsqueeze(2)).square().mean(dim=2).sqrt()
    torch.testing.assert_close(answer.forces_std, deviation, rtol=0, atol=1e-12)


def test_spread_of_a_single_branch_is_not_a_number() -> None:
    answer = potential()(graph(bulk("Cu", cubic=True)), spread="forces")
    assert torch.isnan(answer.energy_std).all()
    assert torch.isnan(answer.forces_std).all()
    assert torch.isnan(answer.branch_energies[0, 1])
    assert answer.branch_weights[0].tolist() == [1.0, 0.0]


def test_unsupported_elements_are_named() -> None:
    mixed = Atoms("CuH", [[0, 0, 0], [0, 0, 1.5]])
    with pytest.raises(UnsupportedElementsError, match=r"no branch supports all of H, Cu.*metal-pbe lacks H"):
        potential()(graph(mixed))
    with pytest.raises(UnsupportedElementsError, match=r"'organic-gfn2' lacks Cu.*metal-pbe"):
        potential()(graph(bulk("Cu")), head="organic-gfn2")
    guess = potential()(graph(mixed), allow_unsupported=True)
    assert torch.isfinite(guess.energy).all()
    assert torch.isnan(guess.branch_energies).all()


def test_weights_given_are_masked_and_normalised() -> None:
    model = potential()
    half = model(graph(OXYGEN), weights=torch.tensor([3.0, 1.0]))
    assert half.branch_weights[0].tolist() == [0.75, 0.25]
    copper = model(graph(bulk("Cu")), weights=torch.tensor([0.2, 0.8]))
    assert copper.branch_weights[0].tolist() == [1.0, 0.0]
    with pytest.raises(UnsupportedElementsError):
        model(graph(bulk("Cu")), weights=torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="not both"):
        model(graph(OXYGEN), head="metal-pbe", weights=torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="did you mean 'metal-pbe'"):
        model(graph(OXYGEN), head="metal-pbee")


def test_charge_does_not_grow_with_size() -> None:
    model, shifts = potential(), []
    for copies in (1, 2, 8):
        atoms = molecule("CH3OH")
        for i in range(1, copies):
            far = molecule("CH3OH")
            far.translate([20.0 * i, 0, 0])
            atoms += far
        ion = atoms.copy()
        ion.info["charge"] = 1
        shifts.append((model(graph(ion)).energy - model(graph(atoms)).energy).item())
    assert shifts[1:] == pytest.approx([shifts[0]] * 2, rel=0.5)


def test_weights_follow_fractions_not_counts() -> None:
    model, cell = potential(), bulk("Al") + Atoms("O", [[1.5, 1.5, 1.0]])
    one, eight = model.branch_weights(graph(cell)), model.branch_weights(graph(cell * (2, 2, 2)))
    torch.testing.assert_close(one, eight, rtol=0, atol=1e-14)


def test_labelled_uses_each_structures_own_branch() -> None:
    model = potential()
    frames = [bulk("Cu", cubic=True), molecule("H2O"), OXYGEN]
    branches = [0, 1, 1]
    batch = AtomGraph.batch([graph(a).replace(branch=torch.tensor([b])) for a, b in zip(frames, branches, strict=True)])
    labelled = model.labelled(batch, create_graph=False)
    for i, (atoms, branch) in enumerate(zip(frames, branches, strict=True)):
        alone = model(graph(atoms), head=model.branch_names[branch])
        assert labelled.energy[i].item() == pytest.approx(alone.energy[0].item(), abs=1e-10)
        torch.testing.assert_close(labelled.forces[batch.structure_of_atom == i], alone.forces, rtol=0, atol=1e-12)


def test_references_stay_float64() -> None:
    model = potential().to(torch.float32)
    assert model.references.e0.dtype == torch.float64
    assert model(graph(OXYGEN)).energy.dtype == torch.float64


@pytest.mark.parametrize("scale", [1.0, 2e4, 1e5, 1e30])
def test_a_network_cannot_say_anything_of_an_atom(scale: float) -> None:
    """As it is up to the bound, smoothly less beyond, and forces are still those of the energy."""
    model, acid = potential(), graph(molecule("CH3COOH"))
    features = model.atom_features(model.embedding(acid), edge_vectors(acid), acid)
    with torch.no_grad():
        model.heads.layers[-1].weight *= scale
        model.heads.layers[-1].bias *= scale
    said = model.heads(features) * model.references.scales
    bounded = model.contributions(features, acid)
    small = said.abs() <= BOUND
    assert torch.equal(bounded[small], said[small])
    assert bounded.abs().max() <= 2 * BOUND
    assert torch.equal(bounded.sign(), said.sign())
    assert torch.equal(bounded.abs()[~small] >= BOUND, torch.ones(int((~small).sum()), dtype=torch.bool))
    assert bool(small.all()) == (scale == 1.0)
    forces = model(acid, head="organic-gfn2").forces
    assert forces is not None
    for atom in range(3):
        energies = []
        for step in (1e-4, -1e-4):
            moved = acid.replace(positions=acid.positions.clone())
            moved.positions[atom, 0] += step
            energies.append(model(moved, head="organic-gfn2").energy[0].item())
        slope = (energies[0] - energies[1]) / 2e-4
        assert forces[atom, 0].item() == pytest.approx(-slope, rel=1e-4, abs=1e-5)


def test_graph_readout_has_no_energies_per_atom() -> None:
    answer = potential("graph")(graph(OXYGEN))
    assert answer.energies is None
    assert torch.isfinite(answer.energy).all()


def test_lead_preset_has_the_papers_size() -> None:
    lead = untrained(preset("lead"))
    parameters = sum(p.numel() for p in lead.parameters())
    assert abs(parameters / 12.1e6 - 1) <= 0.08
    assert 92 <= parameters * 8 / 2**20 <= 92 * 1.08
    assert len(lead.branch_names) == 16
    assert lead.config.head.readout == "graph"


def test_branch_weight_network_has_the_papers_size() -> None:
    parameters = sum(p.numel() for p in untrained(preset("lead")).weights.parameters())
    assert parameters == 24_528


def test_every_parameter_is_trained() -> None:
    model = potential()
    batch = graph(molecule("CH3OH")).replace(branch=torch.tensor([1]))
    charged = batch.replace(charge=torch.tensor([1]), spin=torch.tensor([2]))
    prediction = model.labelled(charged)
    (prediction.energy.sum() + prediction.forces.square().sum()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("weights."):
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_duplicate_branch_names_are_refused() -> None:
    with pytest.raises(ValueError, match="different names"):
        Potential(potential().config, [METAL, METAL])


def test_config_round_trip() -> None:
    config = preset("lead")
    assert PotentialConfig.from_mapping(config.to_mapping()) == config
    with pytest.raises(ValueError, match="did you mean 'painn'"):
        PotentialConfig.from_mapping({"backbone": {"name": "pain"}})
    with pytest.raises(ValueError, match="did you mean 'hidden'"):
        PotentialConfig.from_mapping({"backbone": {"name": "painn", "hiden": 3}})


def test_no_global_state_is_touched() -> None:
    torch.manual_seed(3)
    before, dtype = torch.rand(3), torch.get_default_dtype()
    torch.manual_seed(3)
    np.random.seed(0)  # noqa: NPY002 (the legacy global state is what must not move)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    potential()(graph(OXYGEN))
    assert torch.equal(before, torch.rand(3))
    assert torch.get_default_dtype() == dtype
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
