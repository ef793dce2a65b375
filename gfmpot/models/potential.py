"""The potential: energies of all branches and of their blend, with forces and stress through one gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gfmpot.config import did_you_mean
from gfmpot.graph import AtomGraph, edge_vectors, in_plain_operations, sum_per_structure
from gfmpot.graph.ops import forces_from_edge_gradients, stress_from_edge_gradients
from gfmpot.graph.sparse import gradients_of, want_weights_only
from gfmpot.models.answering import Answering
from gfmpot.models.backbone import Evaluator
from gfmpot.models.branch_weights import BranchWeightMLP, masked_softmax
from gfmpot.models.branches import BranchHeads, BranchInfo
from gfmpot.models.error_estimate import ErrorEstimate
from gfmpot.models.potential_config import PotentialConfig
from gfmpot.models.prediction import Prediction
from gfmpot.models.references import References
from gfmpot.models.repulsion import ScreenedRepulsion
from gfmpot.models.trunk import Trunk

Spread = Literal["none", "energy", "forces"]
Network = Callable[[Tensor, AtomGraph], Tensor]
Joint = Callable[[Tensor, Tensor, AtomGraph, Tensor], tuple[Tensor, Tensor, Tensor]]

BOUND = 200.0
"""eV, of what a network may say of an atom; in squeezed crystals with labels it is down to -150."""


class Potential(Trunk):
    """A shared backbone, one branch per dataset, and the network that blends them by composition.

    Args:
        config: shapes.
        branches: one entry per branch, in the order of the weights.
        e0_blend: reference energy (eV) per element of the blend.
        metadata: free-form facts kept in the checkpoint (training, metrics, data, card).
    """

    def __init__(
        self,
        config: PotentialConfig,
        branches: Sequence[BranchInfo],
        e0_blend: Mapping[str, float] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        _check_names(branches)
        super().__init__(config.backbone)
        self.config, self.branches = config, tuple(branches)
        self.e0_blend, self.metadata = dict(e0_blend or {}), dict(metadata or {})
        self.heads = BranchHeads(len(branches), self.backbone.out_features, config.head)
        self.weights = BranchWeightMLP(len(branches), config.weight_hidden)
        self.references = References(branches, self.e0_blend)
        self.repulsion = ScreenedRepulsion(config.backbone.cutoff) if config.repulsion == "zbl" else None
        width, features = config.error_hidden, self.backbone.out_features
        self.errors = None if width is None else ErrorEstimate(features, len(branches), width)

    @property
    def branch_names(self) -> list[str]:
        """Names of the branches, in order."""
        return [branch.name for branch in self.branches]

    @property
    def atomwise(self) -> bool:
        """Whether the energy is a sum over atoms."""
        return self.config.head.readout == "atomwise"

    @property
    def forces_learnt(self) -> bool:
        """Whether forces or stresses were trained, too; not what the derivatives of a model of energies alone are."""
        loss = self.metadata.get("training", {}).get("settings", {}).get("loss", {})
        return any(loss.get(name, 1.0) != 0 for name in ("forces", "stress"))

    def forward(
        self,
        graph: AtomGraph,
        *,
        head: str | None = None,
        weights: Tensor | None = None,
        derivatives: bool = True,
        spread: Spread = "energy",
        allow_unsupported: bool = False,
        skip: float = 0.0,
        answering: Answering | None = None,
        evaluate: Evaluator | None = None,
        joint: Joint | None = None,
    ) -> Prediction:
        """Energies of all branches and of the answer, with the answer's forces and stress.

        The answer is the blend by composition, or the blend by ``weights``, or one branch's total energy on its own
        theory's scale (``head``).

        Args:
            graph: structures.
            head: name of the branch that answers.
            weights: (B,) or (G, B), not negative; unsupported branches are left out and the rest renormalised.
            derivatives: compute forces and stress.
            spread: which uncertainty to compute; ``"forces"`` costs one more backward pass per branch where errors are
                not estimated.
            allow_unsupported: answer for elements that no branch has learnt, too.
            skip: leave out branches of less weight than this in a structure, and renormalise the others. With δ the sum
                of weights left out, the energy changes by at most δ times the largest distance of a branch left out
                from the answer, and forces likewise. Such branches have no energy (NaN) and no part in the spread.
            answering: what :meth:`answering` gave for the same atoms, wherever they were; it replaces ``head``,
                ``weights`` and ``allow_unsupported``.
            evaluate: what stands in for the backbone, e.g. its kernels.
            joint: what stands in for backbone, heads and gradient: from initial features, edge vectors, graph and
                weights to features (N, F), the outputs of all branches (as :meth:`contributions`) and the gradient
                (E, 3). Not with ``skip``, nor for ``forces_std`` where errors are not estimated.

        Raises:
            UnsupportedElementsError: no branch (or not the chosen one) supports every element of a structure.
            ValueError: unknown head, or weights of the wrong shape.
        """
        if answering is None:
            answering = self.answering(
                graph, head=head, weights=weights, allow_unsupported=allow_unsupported, skip=skip
            )
        vectors = edge_vectors(graph).requires_grad_(derivatives)
        gradient = None
        with torch.set_grad_enabled(derivatives):
            if joint:
                features, eps, gradient = joint(answering.initial, vectors.detach(), graph, answering.weights)
            else:
                features = self.atom_features(answering.initial, vectors, graph, evaluate)
                eps = self.contributions(features, graph, answering.wanted if skip else None)
            aligned = self._per_structure(eps, graph) + answering.shifts
            blended = (answering.weights * aligned).sum(dim=1)
        repelling, apart = self.repelling(vectors, graph)
        between = sum_per_structure(repelling, graph)
        forces = stress = forces_std = None
        if derivatives:
            if gradient is None:
                retain = spread == "forces" and self.errors is None
                gradient = _gradient(blended, vectors, graph, retain=retain)
            if spread == "forces" and self.errors is None:
                learnt = forces_from_edge_gradients(gradient, graph)
                forces_std = self._forces_std(learnt, aligned, vectors, answering, graph)
            gradient = gradient + apart
            forces = forces_from_edge_gradients(gradient, graph)
            stress = stress_from_edge_gradients(gradient, vectors.detach(), graph)
        aligned, blended = aligned.detach(), blended.detach()
        own = aligned - answering.shifts + answering.totals + between.unsqueeze(1)
        energy_std = novelty = None
        if spread != "none" and self.errors is None:
            energy_std = answering.spread(aligned, blended)
        elif spread != "none" and self.errors is not None:
            energy_std, estimated, novelty = self.errors.of_answers(features, answering.weights, graph)
            forces_std = estimated if derivatives and spread == "forces" else None
        return Prediction(
            energy=blended + answering.offset + between,
            energies=self._atomic_energies(eps.detach(), answering, repelling, graph),
            forces=forces,
            stress=stress,
            branch_energies=own.masked_fill(~answering.supporting, torch.nan),
            branch_weights=answering.weights,
            energy_std=energy_std,
            forces_std=forces_std,
            novelty=novelty,
        )

    def labelled(
        self,
        graph: AtomGraph,
        *,
        derivatives: bool = True,
        create_graph: bool = True,
        network: Network | None = None,
        evaluate: Evaluator | None = None,
    ) -> Prediction:
        """Each structure by the branch that labelled it (``graph.branch``), for training: no other branch is computed.

        Args:
            graph: structures with ``branch``.
            derivatives: compute forces and stress.
            create_graph: keep what a loss on forces and stress needs to reach the weights.
            network: what stands in for :meth:`own_branch`, e.g. a copy of it that is spread over ranks.
            evaluate: what stands in for the backbone, e.g. its kernels, where ``create_graph`` is not needed.
        """
        assert graph.branch is not None, "training needs AtomGraph.branch"
        vectors = edge_vectors(graph)
        vectors = (vectors if evaluate else vectors.to(self.dtype)).requires_grad_(derivatives)
        with torch.enable_grad():
            learnt = self.learnt(vectors, graph, network=network, evaluate=evaluate)
        repelling, apart = self.repelling(vectors, graph)
        reference = self.references.own(graph.branch[graph.structure_of_atom], graph.atomic_numbers)
        energy = learnt + sum_per_structure(reference + repelling, graph)
        if not derivatives:
            return Prediction(energy=energy)
        gradient = _gradient(learnt, vectors, graph, retain=create_graph, create_graph=create_graph)
        if create_graph:
            want_weights_only(graph)  # what is to come is a loss: edges need no gradient any more
        gradient = gradient + apart
        return Prediction(
            energy=energy,
            forces=forces_from_edge_gradients(gradient, graph),
            stress=stress_from_edge_gradients(gradient, vectors.double(), graph),
        )

    def learnt(
        self, vectors: Tensor, graph: AtomGraph, *, network: Network | None = None, evaluate: Evaluator | None = None
    ) -> Tensor:
        """(G,) eV, what the branch that labelled each structure adds to reference energies and repulsion.

        Arguments are those of :meth:`labelled`.
        """
        assert graph.branch is not None
        rows = graph.branch[graph.structure_of_atom] if self.atomwise else graph.branch
        own = network(vectors, graph) if network else self.own_branch(vectors, graph, evaluate)
        return self._per_structure(self.bounded(own.double() * self.references.scales[rows]), graph)

    def own_branch(self, vectors: Tensor, graph: AtomGraph, evaluate: Evaluator | None = None) -> Tensor:
        """(N,), or (G,) with ``readout="graph"``: the output of the branch that labelled each structure, unscaled."""
        assert graph.branch is not None
        features = self.atom_features(self.embedding(graph), vectors, graph, evaluate)
        if not self.atomwise:
            return self.heads.select(sum_per_structure(features, graph), graph.branch)
        return self.heads.select(features, graph.branch[graph.structure_of_atom])

    def every_branch(
        self, graph: AtomGraph, *, derivatives: bool = True, evaluate: Evaluator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What each branch and the repulsion add to the reference energies on the common scale.

        Branches that do not support the elements are there, too.

        Returns:
            (G, B) eV, and (N, 3, B) eV/Å forces (None without ``derivatives``).
        """
        vectors = edge_vectors(graph).requires_grad_(derivatives)
        with torch.set_grad_enabled(derivatives):
            features = self.atom_features(self.embedding(graph), vectors, graph, evaluate)
            aligned = self._per_structure(self.contributions(features, graph), graph) + self.references.shifts(graph)
        repelling, apart = self.repelling(vectors, graph)
        energies = aligned.detach() + sum_per_structure(repelling, graph).unsqueeze(1)
        if not derivatives:
            return energies, None
        forces = [_branch_forces(aligned, vectors, graph, b) for b in range(len(self.branches))]
        return energies, torch.stack(forces, dim=2) + forces_from_edge_gradients(apart, graph).unsqueeze(2)

    def branch_weights(self, graph: AtomGraph, supporting: Tensor | None = None) -> Tensor:
        """(G, B) float64 weights from the composition, over the branches that support it (G, B)."""
        counts = graph.composition
        logits = self.weights(counts / counts.sum(dim=1, keepdim=True))
        return masked_softmax(logits, self.references.supporting(graph) if supporting is None else supporting)

    def branch_index(self, head: str) -> int:
        """Position of a branch.

        Raises:
            ValueError: unknown name.
        """
        if head not in self.branch_names:
            raise ValueError(f"no head {head!r}{did_you_mean(head, self.branch_names)}")
        return self.branch_names.index(head)

    def answering(
        self,
        graph: AtomGraph,
        *,
        head: str | None = None,
        weights: Tensor | None = None,
        allow_unsupported: bool = False,
        skip: float = 0.0,
    ) -> Answering:
        """All of the answer that does not depend on positions; arguments and errors are those of :meth:`forward`."""
        if head is not None and weights is not None:
            raise ValueError("give either head or weights, not both")
        supporting = self.references.supporting(graph)
        usable = supporting | self.references.closest(graph) if allow_unsupported else supporting
        self.references.require(graph, usable)
        reference = self.references.e0_blend
        if head is not None:
            index = self.branch_index(head)
            if not allow_unsupported:
                self.references.require_branch(graph, index)
            chosen = torch.zeros_like(usable, dtype=torch.float64)
            chosen[:, index] = 1.0
            reference = self.references.e0[index] - self.references.alignment[index]
        elif weights is not None:
            chosen = self._normalised(weights, usable, graph)
        else:
            chosen = self.branch_weights(graph, usable).detach()
        atoms, counts, references = graph.atomic_numbers, graph.composition, self.references
        return Answering(
            weights=chosen,
            supporting=supporting,
            reference=reference[atoms],
            offset=counts @ reference[1:],
            alignment=references.alignment[:, atoms].T,
            shifts=references.shifts(graph),
            totals=references.totals(graph),
            initial=self.embedding(graph).detach(),
        ).without(skip)

    def _normalised(self, weights: Tensor, usable: Tensor, graph: AtomGraph) -> Tensor:
        if weights.shape[-1] != len(self.branches) or (weights < 0).any():
            raise ValueError(f"expected {len(self.branches)} weights that are not negative, got {weights.tolist()}")
        masked = weights.to(usable.device, torch.float64).expand(usable.shape) * usable
        self.references.require(graph, masked > 0, "no branch that was given weight")
        return masked / masked.sum(dim=1, keepdim=True)

    def contributions(self, features: Tensor, graph: AtomGraph, wanted: Tensor | None = None) -> Tensor:
        """ε of all branches, eV in float64: (N, B) by atom, or (G, B) with ``readout="graph"``.

        Args:
            features: (N, F) of the backbone.
            graph: structures.
            wanted: (G, B) bool, which branches to evaluate in which structures; the others give 0. None is all.
        """
        pooled = features if self.atomwise else sum_per_structure(features, graph)
        rows = wanted[graph.structure_of_atom] if wanted is not None and self.atomwise else wanted
        eps: Tensor = self.heads(pooled) if rows is None else self.heads.some(pooled, rows)
        return self.bounded(eps.double() * self.references.scales)

    def bounded(self, eps: Tensor) -> Tensor:
        """Energies of atoms (eV) between -2 and 2 :data:`BOUND`, as they are between -1 and 1.

        Where atoms are nearer to each other than any data, a network may say anything. A bound limits how deep false
        minima are, and lets the repulsion of nuclei, which has none, rule where that is larger.
        """
        if not self.atomwise:
            return eps
        far = eps.abs() > BOUND
        if not in_plain_operations() and not far.any():
            return eps
        beyond = torch.where(far, eps, 0.0).abs() / BOUND - 1  # NaN of a branch that has no say stays out of gradients
        return torch.where(far, eps.sign() * BOUND * (1 + torch.tanh(beyond)), eps)

    def _per_structure(self, eps: Tensor, graph: AtomGraph) -> Tensor:
        return sum_per_structure(eps, graph) if self.atomwise else eps

    def repelling(self, vectors: Tensor, graph: AtomGraph) -> tuple[Tensor, Tensor]:
        """(N,) eV and (E, 3) eV/Å, in float64: see :class:`ScreenedRepulsion`."""
        if self.repulsion is None:
            return vectors.new_zeros(graph.n_atoms, dtype=torch.float64), torch.zeros_like(vectors, dtype=torch.float64)
        energies, gradient = self.repulsion(vectors.double(), graph)
        return energies, gradient

    def _atomic_energies(self, eps: Tensor, answering: Answering, repelling: Tensor, graph: AtomGraph) -> Tensor | None:
        """(N,) shares of the answer; they add up to its energy."""
        if not self.atomwise:
            return None
        weights = answering.weights[graph.structure_of_atom]
        return answering.reference + (weights * (eps + answering.alignment)).sum(dim=1) + repelling

    def _forces_std(
        self, forces: Tensor, aligned: Tensor, vectors: Tensor, answering: Answering, graph: AtomGraph
    ) -> Tensor:
        """(N, 3) eV/Å: spread of the branches' forces, as :meth:`Answering.spread` is of their energies."""
        share = answering.equal_shares()[graph.structure_of_atom]
        variance = torch.zeros_like(forces)
        for b in torch.nonzero(answering.supporting.any(dim=0)).flatten().tolist():
            deviation = _branch_forces(aligned, vectors, graph, b) - forces
            variance += share[:, b : b + 1].nan_to_num() * deviation**2
        return variance.sqrt().masked_fill(share[:, :1].isnan(), torch.nan)


def rebuilt(potential: Potential, **changes: Any) -> Potential:
    """A potential with the same weights and another description.

    ``changes`` are ``branches``, ``e0_blend``, ``metadata``, or a ``config`` that differs by ``error_hidden`` alone; an
    estimate of errors that was not there before is untrained.
    """
    names = ("config", "branches", "e0_blend", "metadata")
    parts = {name: getattr(potential, name) for name in names} | changes
    with torch.random.fork_rng(devices=[]):  # the fresh weights are overwritten; the user's random numbers stay
        copy = Potential(**parts).to(potential.device, potential.dtype)
    state = {name: tensor for name, tensor in potential.state_dict().items() if not name.startswith("errors.")}
    own = potential.errors if potential.config.error_hidden == copy.config.error_hidden else copy.errors
    if own is not None:
        state |= {f"errors.{name}": tensor for name, tensor in own.state_dict().items()}
    copy.load_state_dict(state)
    return copy


def _gradient(energy: Tensor, vectors: Tensor, graph: AtomGraph, *, retain: bool, create_graph: bool = False) -> Tensor:
    """(E, 3) ∂E/∂(edge vector) in float64; structures do not interact, so one call serves all."""
    with gradients_of(graph, "geometry"):
        (gradient,) = torch.autograd.grad(energy.sum(), vectors, retain_graph=retain, create_graph=create_graph)
    return gradient.double()


def _branch_forces(aligned: Tensor, vectors: Tensor, graph: AtomGraph, branch: int) -> Tensor:
    """(N, 3) eV/Å forces of one branch alone."""
    return forces_from_edge_gradients(_gradient(aligned[:, branch], vectors, graph, retain=True), graph)


def _check_names(branches: Sequence[BranchInfo]) -> None:
    names = [branch.name for branch in branches]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a potential needs branches of different names, got {names}")
