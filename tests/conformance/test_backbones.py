"""Every backbone, with random weights in float64, against the whole list; and faults that the list must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gfmpot.graph import AtomGraph
from gfmpot.models import BackboneConfig, HeadConfig, Potential, PotentialConfig, available_backbones
from gfmpot.models.backbones.painn import PaiNNConfig
from gfmpot.testing import CHECKS, Subject, as_subject, random_potential, run_conformance


@pytest.fixture(scope="module")
def backbone(small_backbone: BackboneConfig) -> Subject:
    return as_subject(small_backbone)


@pytest.mark.parametrize("check", [check.name for check in CHECKS])
@pytest.mark.parametrize("small_backbone", available_backbones(), indirect=True)
def test_backbone(backbone: Subject, check: str) -> None:
    (result,) = run_conformance(backbone, only=[check]).results
    assert result.passed, str(result)
    assert not result.skipped, str(result)


@pytest.mark.parametrize("transform", ["agnesi", "both"])
def test_lengths_relative_to_radii(transform: Any) -> None:
    config = PaiNNConfig(hidden=16, layers=2, radial_basis=6, cutoff=4.0, distance_transform=transform)
    report = run_conformance(random_potential(config))
    assert report.passed, report.table()


def test_each_head(painn: Potential) -> None:
    for head in painn.branch_names:
        report = run_conformance(painn, head=head, only=["rotation", "forces = differences", "stress = differences"])
        assert report.passed, report.table()
        assert head in report.subject


def test_random_forces_are_not_tiny(painn: Potential) -> None:
    subject = as_subject(painn)
    forces = subject.evaluate(subject.samples.molecule())["forces"]
    assert abs(forces).max() == pytest.approx(2.0, rel=1e-6)


def test_random_weights_leave_the_global_generator_alone(small_painn: BackboneConfig) -> None:
    before = torch.random.get_rng_state()
    first, second = random_potential(small_painn), random_potential(small_painn)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_does_not_apply_is_skipped_with_the_reason(small_painn: BackboneConfig) -> None:
    config = PotentialConfig(small_painn, head=HeadConfig(readout="graph"), max_neighbours=20)
    report = run_conformance(random_potential(config))
    assert report.passed, report.table()
    assert {result.name: result.note for result in report.skipped} == {
        "smooth at cutoff": "skipped: max_neighbours: the energy jumps by construction",
        "nothing at cutoff": "skipped: max_neighbours: the energy jumps by construction",
        "two copies": "skipped: readout='graph' is not size-extensive",
        "supercell": "skipped: readout='graph' is not size-extensive",
        "energies add up": "skipped: readout='graph' has no energies of atoms",
    }


class WithoutEnvelope(nn.Module):
    def __init__(self, basis: nn.Module) -> None:
        super().__init__()
        self.out_features, self.cutoff, self.transform = basis.out_features, basis.cutoff, "none"

    def forward(self, distances: Tensor, graph: AtomGraph) -> Tensor:
        powers = torch.arange(self.out_features, dtype=distances.dtype)
        return torch.cos(powers * distances.unsqueeze(1) / self.cutoff)


def hard_cutoff(potential: Potential) -> None:
    potential.backbone.basis = WithoutEnvelope(potential.backbone.basis)  # type: ignore[arg-type]


def bias_on_vectors(potential: Potential) -> None:
    mix: Any = potential.backbone.updates[0].mix  # type: ignore[index, union-attr]
    mix.bias = nn.Parameter(torch.full((mix.out_features,), 0.1, dtype=torch.float64))


def idle_parameter(potential: Potential) -> None:
    potential.backbone.idle = nn.Parameter(torch.ones(3, dtype=torch.float64))


def deaf_to_charge(potential: Potential) -> None:
    potential.embedding.forward = lambda graph: potential.embedding.elements(graph.atomic_numbers)


def normalised_over_the_batch(potential: Potential) -> None:
    wrap_backbone(potential, lambda features, vectors, graph: features - features.mean(dim=0))


def absolute_orientation(potential: Potential) -> None:
    def lean(features: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
        return features + 1e-5 * features.new_zeros(features.shape).index_add(
            0, graph.receivers, vectors[:, :1].square().expand(-1, features.shape[1])
        )

    wrap_backbone(potential, lean)


def detached_edges(potential: Potential) -> None:
    wrap_backbone(potential, lambda features, vectors, graph: 0.9 * features + 0.1 * features.detach())


def wrap_backbone(potential: Potential, change: Callable[[Tensor, Tensor, AtomGraph], Tensor]) -> None:
    plain = potential.backbone.forward
    potential.backbone.forward = lambda initial, vectors, graph: change(plain(initial, vectors, graph), vectors, graph)


FAULTS: dict[Callable[[Potential], None], set[str]] = {
    hard_cutoff: {"smooth at cutoff", "nothing at cutoff"},
    bias_on_vectors: {"rotation", "reflection", "perfect crystals"},
    idle_parameter: {"double backward", "parameters learn"},
    deaf_to_charge: {"charge and spin"},
    normalised_over_the_batch: {"batch = singles", "training = answering"},
    absolute_orientation: {"rotation", "reflection", "nothing at cutoff"},
    detached_edges: {"forces = differences", "stress = differences"},
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_faults_of_backbones_are_found(painn: Potential, fault: Callable[[Potential], None]) -> None:
    subject = as_subject(painn)
    assert subject.potential is not None
    fault(subject.potential)
    report = run_conformance(subject, only=FAULTS[fault])
    assert {result.name for result in report.failures} == FAULTS[fault], report.table()


def test_a_norm_that_is_not_smooth_at_zero_is_found(painn: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors of isolated atoms are zero, where the derivative of a plain norm is 0/0."""
    monkeypatch.setattr("gfmpot.models.backbones.painn.NORM_SOFTNESS", 0.0)
    (result,) = run_conformance(painn, only=["double backward"]).results
    assert not result.passed
    assert "isolated atom, not finite: backbone." in result.note
