"""Estimates of errors: branches without a say are not asked, which changes nothing."""

from __future__ import annotations

import torch
from ase.build import bulk

from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.models.error_estimate import ErrorEstimate


def estimate() -> ErrorEstimate:
    torch.manual_seed(0)
    made = ErrorEstimate(features=6, branches=3, hidden=4).double()
    made.own_mean.copy_(torch.randn(3, 6))
    made.own_whitening.copy_(torch.randn(3, 6, 6))
    made.reach.copy_(torch.tensor([0.5, 1.0, 2.0]))
    made.known.fill_(1.0)
    return made


def two_crystals() -> AtomGraph:
    return AtomGraph.batch([graph_from_atoms(bulk(name, cubic=True), cutoff=3.0) for name in ("Cu", "Si")])


def test_silent_branches_are_not_asked_and_answers_stay() -> None:
    graph, errors = two_crystals(), estimate()
    features = torch.randn(len(graph.atomic_numbers), 6, dtype=torch.float64)
    weights = torch.tensor([[0.3, 0.0, 0.7], [1.0, 0.0, 0.0]], dtype=torch.float64)
    found = errors.of_answers(features, weights, graph)
    faint = torch.tensor([0.0, 1e-300, 0.0], dtype=torch.float64)  # which has to be asked
    expected = errors.of_answers(features, weights + faint, graph)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)
    distance = errors.distance(features)
    asked = errors.distance(features, [True, False, True])
    torch.testing.assert_close(asked[:, [0, 2]], distance[:, [0, 2]], rtol=0, atol=0)
    assert (asked[:, 1] == 0).all()
    assert (distance > 0).all()
