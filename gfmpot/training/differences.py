r"""Gradients of a loss on forces without second derivatives.

The loss L of a batch depends on energies E, forces and stresses; these two are linear in :math:`g = \partial E /
\partial r`, r being the edge vectors. With :math:`u = \partial L / \partial g`, moved from r by a small step,

    :math:`dL/d\theta = \partial_\theta (\partial L / \partial E \cdot E + u \cdot g)
    = \partial_\theta [c_+ E(r + \epsilon u) + c_- E(r - \epsilon u)] + O(\epsilon^2)`,
    :math:`c_\pm = \tfrac12 \partial L / \partial E \pm 1 / 2 \epsilon`

so that first derivatives are all that is needed, which kernels have. Each structure has a step of its own, by which no
edge changes by more than :data:`STEP`. On untrained and trained networks the gradient is then within 1e-3 of the exact
one in float32, rounding included (``tests/training/test_differences.py``), far less than what batches differ by.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gfmpot.graph import AtomGraph, edge_vectors
from gfmpot.models import Potential, Prediction
from gfmpot.models.backbone import Evaluator
from gfmpot.training.loss import LossConfig, LossSums, loss_sums

STEP = 0.005
"""Å. In float32 the error is smallest here: rounding grows below, curvature above."""


def sums_by_differences(potential: Potential, graph: AtomGraph, loss: LossConfig) -> LossSums:
    """What ``loss_sums`` gives for ``potential.labelled(graph)``, with gradients by differences."""
    weights = [weight for weight in potential.parameters() if weight.requires_grad]
    return LossSums(*_Sums.apply(potential, graph, loss, *weights))  # type: ignore[no-untyped-call]


class _Sums(torch.autograd.Function):
    """The fields of :class:`LossSums`; the first has a gradient."""

    @staticmethod
    def forward(
        ctx: Any, potential: Potential, graph: AtomGraph, loss: LossConfig, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kernels = potential.backbone.training_kernels()
        with torch.enable_grad():
            prediction = potential.labelled(graph, create_graph=False, evaluate=kernels.by_vectors if kernels else None)
        prediction = Prediction(prediction.energy.detach(), forces=prediction.forces, stress=prediction.stress)
        sums = loss_sums(prediction, graph, loss, len(potential.branches))
        ctx.given = (potential, graph, loss, prediction, kernels.by_weights if kernels else None)
        ctx.save_for_backward(*weights)
        ctx.mark_non_differentiable(sums.counts, sums.errors, sums.labelled)
        return sums.values, sums.counts, sums.errors, sums.labelled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        potential, graph, loss, prediction, evaluate = ctx.given
        weights = ctx.saved_tensors
        to_energy, to_forces, to_stress = _by_prediction(prediction, graph, loss, gradient, len(potential.branches))
        vectors = edge_vectors(graph)
        direction = _edge_directions(to_forces, to_stress, vectors, graph)
        with torch.enable_grad():
            surrogate = _surrogate(potential, graph, vectors, direction, to_energy, evaluate)
            found = torch.autograd.grad(surrogate, weights, allow_unused=True)
        # A branch that is not in the batch: all ranks must reduce the same tensors.
        return None, None, None, *(torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True))


def _by_prediction(
    prediction: Prediction, graph: AtomGraph, loss: LossConfig, gradient: Tensor, branches: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the loss by energies (G,), forces (N, 3) and stresses (G, 6)."""
    leaves = [x.detach().requires_grad_() for x in (prediction.energy, prediction.forces, prediction.stress)]  # type: ignore[union-attr]
    with torch.enable_grad():
        energy, forces, stress = leaves
        values = loss_sums(Prediction(energy, forces=forces, stress=stress), graph, loss, branches).values
        by = torch.autograd.grad(values, leaves, gradient)
    return by[0], by[1], by[2]


def _edge_directions(to_forces: Tensor, to_stress: Tensor, vectors: Tensor, graph: AtomGraph) -> Tensor:
    """(E, 3) u: how edges change when atoms move along ``to_forces`` and cells are strained along ``to_stress``."""
    # A force is −∂E/∂r of its atom, an edge vector is receiver minus sender.
    moved = to_forces[graph.senders] - to_forces[graph.receivers]
    xx, yy, zz, yz, xz, xy = to_stress.unbind(dim=1)
    rows = ((xx, xy / 2, xz / 2), (xy / 2, yy, yz / 2), (xz / 2, yz / 2, zz))
    strain = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    strain = strain / graph.volume.nan_to_num(nan=1.0).view(-1, 1, 1)
    return moved + torch.einsum("eab,eb->ea", strain[graph.structure_of_edge], vectors)


def _surrogate(
    potential: Potential,
    graph: AtomGraph,
    vectors: Tensor,
    direction: Tensor,
    to_energy: Tensor,
    evaluate: Evaluator | None,
) -> Tensor:
    """The sum of energies whose gradient by the weights is that of the loss."""
    longest = torch.zeros_like(to_energy)
    longest = longest.scatter_reduce(0, graph.structure_of_edge, torch.linalg.vector_norm(direction, dim=1), "amax")
    moves = direction * (STEP / longest.clamp(min=torch.finfo(longest.dtype).tiny))[graph.structure_of_edge].unsqueeze(
        1
    )
    slope = longest / (2 * STEP)  # 1 / 2ε; 0 where nothing moves

    def energies(where: Tensor) -> Tensor:
        return potential.learnt(where if evaluate else where.to(potential.dtype), graph, evaluate=evaluate)

    ahead, behind = energies(vectors + moves), energies(vectors - moves)
    return ((to_energy / 2 + slope) * ahead + (to_energy / 2 - slope) * behind).sum()
