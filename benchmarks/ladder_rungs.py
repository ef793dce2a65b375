"""The paper's ladder of inference (§VII-F, Table XV), rung by rung: from one pass per branch to the fast path.

Every rung answers the same question for the same batch with the same weights: the blend of all branches, its forces and
its stress. Rungs 0 to 4 use PyTorch's own operations, in the dense form (a row per edge and feature); parameters need
no gradients anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gfmpot.graph import AtomGraph, edge_vectors, plain_operations, sum_per_structure
from gfmpot.graph.ops import forces_from_edge_gradients, stress_from_edge_gradients
from gfmpot.inference import Predictor
from gfmpot.inference.precision import dense_layers_in
from gfmpot.models import Potential

ELEMENTS = (1, 6, 7, 8, 12, 26)
"""Of the workload (training_step.py)."""

NEGLIGIBLE = 0.01
"""Branches of less weight are skipped."""

WEIGHTS = torch.tensor([0.52, 0.29, 0.138, *[0.004] * 13], dtype=torch.float64)
"""Of the 16 branches, fixed: 13 of 16 (81 %) are negligible, as the paper says of its own."""

RUNGS = ("naive", "encoder reuse", "branch skip", "fused gradient", "compiled", "gfmpot")


@dataclass(frozen=True)
class Answer:
    """What every rung gives."""

    energy: Tensor  # (G,) eV, without reference energies
    forces: Tensor  # (N, 3) eV/Å
    stress: Tensor  # (G, 6) eV/Å³


class Ladder:
    """One model in one precision on all rungs."""

    def __init__(self, potential: Potential, precision: str, device: str = "cpu") -> None:
        self.predictor = Predictor(potential, precision=precision, kernels=False, device=device)
        self.fast = Predictor(potential, precision=precision, device=device, allow_unsupported=True)
        self.potential, self.precision = self.predictor.potential, precision
        self.compiled: Callable[..., Tensor] | None = None
        known = self.potential.references.supported[:, list(ELEMENTS)].all(dim=1).double().cpu()
        weights = WEIGHTS if len(known) == len(WEIGHTS) else known  # the branches of a trained model that know them all
        self.weights = (weights / weights.sum()).to(device)

    def __call__(self, rung: str, graph: AtomGraph) -> Answer:
        """The answer for a batch by one rung."""
        run = {
            "naive": self._naive,
            "encoder reuse": self._reuse,
            "branch skip": self._skip,
            "fused gradient": self._fused,
            "compiled": self._compiled,
            "gfmpot": self._fast,
        }[rung]
        fresh = graph.replace()  # nothing that an earlier rung has prepared
        if rung == "gfmpot":
            return run(fresh)
        with plain_operations(), dense_layers_in(self.precision):
            return run(fresh)

    def _naive(self, graph: AtomGraph) -> Answer:
        """Encoder, decoder and backward pass, once per branch."""
        return self._branch_by_branch(graph, range(len(self.weights)), reuse=False)

    def _reuse(self, graph: AtomGraph) -> Answer:
        """One encoder pass, then decoder and backward pass per branch."""
        return self._branch_by_branch(graph, range(len(self.weights)), reuse=True)

    def _skip(self, graph: AtomGraph) -> Answer:
        """The same for branches that have weight in some structure; weights here are the same for all of them."""
        return self._branch_by_branch(graph, torch.nonzero(self.weights >= NEGLIGIBLE).flatten().tolist(), reuse=True)

    def _fused(self, graph: AtomGraph) -> Answer:
        """One encoder pass, all decoders together, one backward pass of the weighted sum."""
        vectors = edge_vectors(graph).requires_grad_()
        features = self._features(vectors, graph)
        return self._answer((self._energies(features, graph) * self.weights).sum(dim=1), vectors, graph)

    def _compiled(self, graph: AtomGraph) -> Answer:
        """The same with the encoder compiled by TorchInductor, as in the paper."""
        if self.compiled is None:
            self.compiled = torch.compile(self.potential.backbone, dynamic=True)
        vectors = edge_vectors(graph).requires_grad_()
        features = self.compiled(self.potential.embedding(graph), vectors.to(self.potential.dtype), graph)
        return self._answer((self._energies(features, graph) * self.weights).sum(dim=1), vectors, graph)

    def _fast(self, graph: AtomGraph) -> Answer:
        """What the package does."""
        self.fast.weights, self.fast._last = self.weights, None
        prediction = self.fast._predict(graph)
        assert prediction.forces is not None
        assert prediction.stress is not None
        answering = self.fast._answering(graph)
        references = answering.offset + (answering.weights * answering.shifts).sum(dim=1)
        return Answer(prediction.energy - references, prediction.forces, prediction.stress)

    def _branch_by_branch(self, graph: AtomGraph, branches: range | list[int], *, reuse: bool) -> Answer:
        weights = self.weights[list(branches)] / self.weights[list(branches)].sum()
        parts, shared = [], None
        for b in branches:
            if shared is None or not reuse:
                vectors = edge_vectors(graph).requires_grad_()
                shared = vectors, self._features(vectors, graph)
            vectors, features = shared
            parts.append(self._answer(self._energies(features, graph, b), vectors, graph, retain=reuse))
        return Answer(
            *(
                sum(w * getattr(part, name) for w, part in zip(weights, parts, strict=True))
                for name in ("energy", "forces", "stress")
            )
        )

    def _features(self, vectors: Tensor, graph: AtomGraph) -> Tensor:
        return self.potential.atom_features(self.potential.embedding(graph), vectors, graph)

    def _energies(self, features: Tensor, graph: AtomGraph, branch: int | None = None) -> Tensor:
        """(G, B) of all branches, or (G,) of one."""
        heads, atomwise = self.potential.heads, self.potential.atomwise
        x = features if atomwise else sum_per_structure(features, graph)
        if branch is None:
            eps = heads(x).double() * self.potential.references.scales
        else:
            of_row = torch.full((len(x),), branch, device=x.device)
            eps = heads.select(x, of_row).double() * self.potential.references.scales[branch]
        return sum_per_structure(self.potential.bounded(eps), graph) if atomwise else eps

    def _answer(self, energy: Tensor, vectors: Tensor, graph: AtomGraph, *, retain: bool = False) -> Answer:
        (gradient,) = torch.autograd.grad(energy.sum(), vectors, retain_graph=retain)
        forces = forces_from_edge_gradients(gradient, graph)
        return Answer(energy.detach(), forces, stress_from_edge_gradients(gradient, vectors.detach(), graph))
