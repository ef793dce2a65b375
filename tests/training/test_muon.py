"""Muon in the precision of the weights beside PyTorch's in bfloat16."""

from __future__ import annotations

import pytest
import torch

from gfmpot.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(48, 48), (32, 96), (96, 32)])
def test_singular_values_become_about_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, (u, _, v) = orthogonal(matrix), torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    # Singular vectors stay: in the basis of those of the matrix, what was found is diagonal.
    inside = u.T @ found @ v.T
    assert (inside - inside.diagonal().diag()).abs().max() < 1e-10
    assert orthogonal(torch.zeros(shape)).abs().max() == 0


@pytest.mark.parametrize("shape", [(32, 96), (96, 32)])
def test_steps_are_those_of_pytorch(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    start, gradients = torch.randn(shape, generator=generator), torch.randn(4, *shape, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    settings = {"lr": 0.05, "weight_decay": 0.1}
    first = Muon([ours], **settings)
    second = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
    for gradient in gradients:
        for p, optimizer in ((ours, first), (theirs, second)):
            p.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # bfloat16 has eight bits
    assert moved > 1.0


def test_what_has_no_gradient_stays() -> None:
    p = torch.nn.Parameter(torch.ones(32, 32))
    Muon([p]).step()
    assert torch.equal(p, torch.ones(32, 32))
