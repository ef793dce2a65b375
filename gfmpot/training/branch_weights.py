"""Training of the network that blends the branches (paper §VII-E)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from gfmpot.graph import AtomGraph
from gfmpot.models import Potential
from gfmpot.models.branch_weights import BranchWeightMLP, masked_softmax
from gfmpot.ranks.launch import sum_over_ranks
from gfmpot.training.branch_cache import BranchCache

Kind = Literal["mae", "mse"]
Watch = Callable[[str, float, str], None]
"""Is told what is being done, which share of it is, and how it goes."""


@dataclass(frozen=True)
class WeightConfig:
    """Full-batch AdamW with ReduceLROnPlateau(0.5, 10), as in the paper; the defaults differ from it in two points.

    The loss is absolute, not squared: a branch can be wildly wrong on single structures that it has never seen the like
    of, and squares would let those decide. The teacher is the label, not the prediction of the branch that the
    structure comes from: where that branch is bad, another one may answer. The paper's are ``kind: mse`` and
    ``teacher: branch``.
    """

    kind: Kind = "mae"
    """``mae``: mean absolute energy error and mean norm of the force error. ``mse``: mean squares of both."""

    teacher: Literal["label", "branch"] = "label"
    """What the blend is compared with: the reference ``label``, or what the ``branch`` says that the structure comes
    from, which is the paper's one-hot assignment."""

    structures: int = 1500
    """Per branch and split, for alignment and weights, and for the errors of the finished model; estimates of errors
    learn from more."""

    silent: tuple[str, ...] = ()
    """Branches that neither teach nor answer, but where no other has the elements: of a composition that two theories
    label, the weights, which know the composition alone, would become a mixture of both."""

    epochs: int = 300
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    force_weight: float = 0.2
    """Of the force errors (eV/Å) beside the energy errors (eV/atom)."""

    def __post_init__(self) -> None:
        for name in ("structures", "epochs", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"branch_weights: {name} must be positive, got {getattr(self, name)}")
        if self.weight_decay < 0 or self.force_weight < 0:
            raise ValueError(
                "branch_weights: weight_decay and force_weight must not be negative, "
                f"got {self.weight_decay} and {self.force_weight}"
            )


@dataclass(frozen=True)
class BranchFit:
    """What blending does to the held-out structures that one branch labelled; None without labels."""

    structures: int
    loss_before: float
    loss_after: float
    own_weight: float
    """Mean weight of this branch."""

    energy_mae: float | None
    """Of the blend against the labels, eV/atom."""

    forces_mae: float | None
    """Mean norm of the error, eV/Å."""

    best_head: str
    """The single head of lowest errors against the labels, among those that support all these structures."""

    best_energy_mae: float | None
    best_forces_mae: float | None


@dataclass(frozen=True)
class WeightFit:
    """What training of the weights did."""

    before: float
    """Loss on held-out structures, with the weights as they were, silent branches aside, and the alignment as it is."""

    after: float
    branches: dict[str, BranchFit]


def train_branch_weights(
    potential: Potential,
    graphs: Iterable[AtomGraph],
    held_out: Iterable[AtomGraph],
    config: WeightConfig | None = None,
    watch: Watch = lambda what, share, note: None,
) -> WeightFit:
    """Fit ``potential.weights`` so that the blend of the frozen branches matches the teacher; collective.

    Labels count on their own branch's theory, moved to the common scale by that branch's reference energies and
    alignment; structures may lack energies or forces (NaN). Compositions are easily learnt by heart, so the weights
    that are best on ``held_out`` (other groups) are kept, which may be those at the start.

    Every rank gives structures of its own, and keeps what the branches say of them on the potential's device
    (:class:`BranchCache` says how much that is). All ranks end with the same weights, those that one rank with all the
    structures would find.

    Args:
        potential: its weights are changed.
        graphs: labelled structures with ``branch``, gone through once.
        held_out: the same, to choose among epochs.
        config: how to train.
        watch: is told of every epoch.

    Raises:
        UnsupportedElementsError: a structure whose own branch lacks an element.
        ValueError: no rank has a label in ``graphs``, or none in ``held_out``.
    """
    config = config or WeightConfig()
    known = _Objective(BranchCache.of(potential, graphs), config, "train")
    unseen = _Objective(BranchCache.of(potential, held_out), config, "held-out")
    # In float64 whatever the potential is in, so that ranks add up to one process.
    network = copy.deepcopy(potential.weights).double()
    silent = [potential.branch_names.index(name) for name in config.silent]
    network.silence(silent)
    begun, start, before = copy.deepcopy(network.state_dict()), unseen.weights(network), unseen.value(network)
    network.give_a_say(but=silent)
    after = _fit(network, known, unseen, config, watch)
    if after >= before:
        network.load_state_dict(begun)
        after = before
    potential.weights.load_state_dict(network.state_dict())
    return WeightFit(before, after, _branch_fits(potential.branch_names, unseen, start, unseen.weights(network)))


def _fit(network: BranchWeightMLP, known: _Objective, unseen: _Objective, config: WeightConfig, watch: Watch) -> float:
    """Train; returns the held-out loss of the best weights, which the network then has."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=10)
    best = unseen.value(network)
    kept = copy.deepcopy(network.state_dict())
    for epoch in range(1, config.epochs + 1):
        loss = _descend(network, known, optimizer)
        plateau.step(loss)
        value = unseen.value(network)
        if value < best:
            best, kept = value, copy.deepcopy(network.state_dict())
        watch("weights", epoch / config.epochs, f"loss {loss:.4g}, held-out {value:.4g}, best {best:.4g}")
    network.load_state_dict(kept)
    return best


def _descend(network: nn.Module, known: _Objective, optimizer: torch.optim.Optimizer) -> float:
    """One step by the gradient over the structures of all ranks; returns the loss before it."""
    optimizer.zero_grad()
    share = known.share(network)
    share.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    total = sum_over_ranks(torch.cat([share.detach().view(1), *[g.flatten() for g in gradients]]))
    loss, *parts = torch.split(total, [1, *[g.numel() for g in gradients]])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    optimizer.step()
    return float(loss)


class _Objective:
    """The loss of a blend over the structures of all ranks, of which this one holds a share."""

    def __init__(self, cache: BranchCache, config: WeightConfig, split: str) -> None:
        self.cache, self.config = cache, config
        self.labels = _Target(cache.energy_labels, cache.force_labels)
        self.teacher = self.labels if config.teacher == "label" else _Target(*cache.own_answers())
        counts = sum_over_ranks(torch.stack([self.teacher.has_energy.sum(), self.teacher.has_forces.sum()]))
        if not counts.any():
            raise ValueError(
                f"the {split} structures for branch weights have no energy and no forces; use labelled ones"
            )
        self._scale = counts.new_tensor([1.0, config.force_weight]) / counts.clamp(min=1)

    def weights(self, network: nn.Module) -> Tensor:
        """(S, B) of the blend."""
        with torch.no_grad():
            return masked_softmax(network(self.cache.fractions), self.cache.supporting)

    def share(self, network: nn.Module) -> Tensor:
        """This rank's part of the loss; the parts add up."""
        weights = masked_softmax(network(self.cache.fractions), self.cache.supporting)
        energy, forces = self.teacher.errors(weights, self.cache, self.config.kind)
        return torch.dot(torch.stack([energy.sum(), forces.sum()]), self._scale)

    def value(self, network: nn.Module) -> float:
        """The loss; collective."""
        with torch.no_grad():
            return float(sum_over_ranks(self.share(network)))

    def by_branch(self, weights: Tensor, *, against_labels: bool = False) -> Tensor:
        """(B, 2) mean errors of energies and forces by the branch that structures come from; collective.

        They are those of the loss, or with ``against_labels`` absolute errors against the labels.
        """
        cache = self.cache
        target = self.labels if against_labels else self.teacher
        kind = "mae" if against_labels else self.config.kind
        owners = (cache.branch, cache.branch[cache.structure_of_atom])
        values = zip(target.errors(weights, cache, kind), (target.has_energy, target.has_forces), strict=True)
        parts = [
            torch.stack([value.new_zeros(weights.shape[1]).index_add(0, owner, value) for value in pair])
            for owner, pair in zip(owners, values, strict=True)
        ]
        summed = sum_over_ranks(torch.stack(parts, dim=2))
        return summed[0] / summed[1]

    def combined(self, means: Tensor) -> Tensor:
        """(..., 2) mean errors of energies and forces to (...) losses; what is not labelled (NaN) does not count."""
        return torch.matmul(means.nan_to_num(), means.new_tensor([1.0, self.config.force_weight]))


class _Target:
    """Energies (S,) in eV/atom and forces (N, 3) in eV/Å to be matched; NaN where there are none."""

    def __init__(self, energy: Tensor, forces: Tensor) -> None:
        self.has_energy, self.has_forces = energy.isfinite().double(), forces.isfinite().all(dim=1).double()
        self._energy = energy.masked_fill(self.has_energy == 0, 0.0)
        self._forces = forces.masked_fill(self.has_forces.unsqueeze(1) == 0, 0.0)

    def errors(self, weights: Tensor, cache: BranchCache, kind: Kind) -> tuple[Tensor, Tensor]:
        """(S,) and (N,) errors of the blend by ``weights`` (S, B); 0 where there is nothing to match."""
        energy = (weights * cache.energies).sum(dim=1) - self._energy
        # A batched product: the elementwise one would keep another tensor of (N, 3, B) for the gradient.
        blended = torch.bmm(cache.forces, weights[cache.structure_of_atom].unsqueeze(2)).squeeze(2)
        square = (blended - self._forces).square().sum(dim=1)
        if kind == "mse":
            return energy.square() * self.has_energy, square * self.has_forces
        # The softening of 1e-6 eV/Å keeps the gradient of a zero finite.
        return energy.abs() * self.has_energy, torch.sqrt(square + 1e-12) * self.has_forces


def _branch_fits(names: list[str], unseen: _Objective, before: Tensor, after: Tensor) -> dict[str, BranchFit]:
    """By branch that has held-out structures; collective."""
    size = len(names)
    losses = [unseen.combined(unseen.by_branch(weights)).tolist() for weights in (before, after)]
    blend = unseen.by_branch(after, against_labels=True).tolist()
    one_hot = torch.eye(size, dtype=torch.float64, device=after.device)
    heads = torch.stack([unseen.by_branch(one.expand_as(after), against_labels=True) for one in one_hot], dim=1)
    structures, own, lacking = _totals(unseen.cache, after)
    best = unseen.combined(heads).masked_fill(lacking > 0, torch.inf).argmin(dim=1).tolist()
    return {
        name: BranchFit(
            structures=int(structures[b]),
            loss_before=losses[0][b],
            loss_after=losses[1][b],
            own_weight=float(own[b] / structures[b]),
            energy_mae=_known(blend[b][0]),
            forces_mae=_known(blend[b][1]),
            best_head=names[best[b]],
            best_energy_mae=_known(float(heads[b, best[b], 0])),
            best_forces_mae=_known(float(heads[b, best[b], 1])),
        )
        for b, name in enumerate(names)
        if structures[b] > 0
    }


def _totals(cache: BranchCache, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) structures of each branch, (B,) sum of its weights for them, (B, B) how many of them each head lacks."""
    own = weights.gather(1, cache.branch.unsqueeze(1))
    rows = torch.cat([torch.ones_like(own), own, (~cache.supporting).double()], dim=1)
    branches = weights.shape[1]
    totals = sum_over_ranks(weights.new_zeros(branches, 2 + branches).index_add(0, cache.branch, rows))
    return totals[:, 0], totals[:, 1], totals[:, 2:]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
