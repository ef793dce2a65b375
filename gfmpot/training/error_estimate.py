"""Fitting the estimate of errors (:mod:`gfmpot.models.error_estimate`) to structures that were not trained on."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gfmpot.graph import AtomGraph, BatchBudget, edge_vectors
from gfmpot.models import Potential
from gfmpot.models.error_estimate import ErrorEstimate, bounded
from gfmpot.models.potential import rebuilt

log = logging.getLogger(__name__)

HIDDEN = 32
STEPS, LEARNING_RATE, WEIGHT_DECAY, DROPOUT = 400, 3e-3, 1e-2, 0.5
RIDGE = 1e-4
"""Of the mean variance, added to the covariance of features: directions in which nothing varies say nothing."""

EDGE = 0.9995
"""Share of the training atoms of a branch that lie inside."""

LEAN = 10
"""Atoms for each feature: a covariance of a branch is that of its own atoms and so many of all branches together, since
of few atoms alone some features would hardly vary."""

CHOOSING, BLOCKS = 5, 50
"""Every fifth of so many blocks of structures chooses among steps and is not fitted to: neighbours are often of one
group, so that single structures would choose what is learnt by heart."""

FEWEST = 2 * CHOOSING
"""Labelled structures without which the errors of a branch stay unknown."""

MOST = 30_000
"""Structures of all branches together that are looked at."""


@dataclass(frozen=True)
class Observed:
    """Structures of one branch, S with N atoms, and its errors on them."""

    features: Tensor  # (N, F)
    structure: Tensor  # (N,)
    energy: Tensor  # (S,) absolute error, eV
    forces: Tensor  # (N,) norm of the error, eV/Å

    @property
    def labelled(self) -> tuple[int, int]:
        """Structures with an energy, and those with forces."""
        return int(self.energy.isfinite().sum()), len(torch.unique(self.structure[self.forces.isfinite()]))

    def of(self, structures: Tensor) -> Observed:
        """Some of the structures (S,) bool."""
        atoms, place = structures[self.structure], structures.cumsum(0) - 1
        own = place[self.structure[atoms]]
        return Observed(self.features[atoms], own, self.energy[structures], self.forces[atoms])

    @classmethod
    def join(cls, parts: Sequence[Observed]) -> Observed:
        """Several as one."""
        counts = torch.tensor([0, *(len(part.energy) for part in parts)]).cumsum(0).tolist()
        structure = torch.cat([part.structure + count for part, count in zip(parts, counts, strict=False)])
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("features", "energy", "forces")}
        return cls(structure=structure, **joined)


def with_error_estimate(potential: Potential, seen: Iterable[AtomGraph], unseen: Iterable[AtomGraph]) -> Potential:
    """A copy of a trained potential that estimates its errors, or itself if there are too few labels to learn from.

    Args:
        potential: whose branches are trained.
        seen: structures with ``branch`` that it was trained on, whose features say what is familiar.
        unseen: labelled structures with ``branch`` that it was not trained on, whose errors are learnt.
    """
    errors = _observed(potential, unseen)
    known = torch.zeros(2, len(potential.branches))
    for branch, observed in errors.items():
        known[:, branch] = torch.tensor(observed.labelled) >= FEWEST
    if not known.any():
        most = max((max(observed.labelled) for observed in errors.values()), default=0)
        log.warning(
            "the model will not estimate its errors (energy_std, forces_std): that takes %d labelled structures that "
            "were not trained on, and there are %d on the validation side",
            FEWEST,
            most,
        )
        return potential
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        estimate = ErrorEstimate(potential.backbone.out_features, len(potential.branches), HIDDEN)
        estimate.known.copy_(known)
        _fit_distance(estimate, {b: observed.features for b, observed in _observed(potential, seen).items()})
        _fit_network(estimate, errors)
    return carrying(potential, estimate.state_dict())


def carrying(potential: Potential, state: Mapping[str, Tensor]) -> Potential:
    """A copy of a potential with the estimate that another one has."""
    changed = rebuilt(potential, config=dataclasses.replace(potential.config, error_hidden=HIDDEN))
    assert changed.errors is not None
    changed.errors.load_state_dict(state)
    return changed


def _observed(potential: Potential, graphs: Iterable[AtomGraph]) -> dict[int, Observed]:
    """By branch."""
    rows: dict[int, list[Observed]] = {}
    for branch, observed in _in_batches(potential, graphs):
        rows.setdefault(branch, []).append(observed)
    return {branch: Observed.join(rows[branch]) for branch in sorted(rows)}


def _in_batches(potential: Potential, graphs: Iterable[AtomGraph]) -> Iterator[tuple[int, Observed]]:
    """By structures that one branch labelled, a few at a time; on the CPU."""
    evaluate = potential.backbone.kernels(potential.dtype)
    for batch in BatchBudget(max_edges=50_000).pack(graphs):
        graph = AtomGraph.batch(batch).to(potential.device)
        assert graph.branch is not None
        assert graph.energy is not None
        prediction = potential.labelled(graph, create_graph=False, evaluate=evaluate)
        assert prediction.forces is not None
        assert graph.forces is not None
        with torch.no_grad():
            vectors, initial = edge_vectors(graph), potential.embedding(graph)
            features = potential.atom_features(initial, vectors, graph, evaluate)
            features, energy = features.cpu(), (prediction.energy - graph.energy).abs().cpu()
            forces = torch.linalg.vector_norm(prediction.forces - graph.forces, dim=1).cpu()
        observed = Observed(features, graph.structure_of_atom.cpu(), energy, forces)
        branch = graph.branch.cpu()
        for b in torch.unique(branch).tolist():
            yield b, observed.of(branch == b)


def _fit_distance(estimate: ErrorEstimate, features: Mapping[int, Tensor]) -> None:
    """Mean and covariance over atoms of all branches, which (N_b, F) count alike, and of each one with its reach.

    What a branch without structures was trained on is taken to be what all were trained on.
    """
    own = {b: f.double() for b, f in features.items()}
    means = {b: f.mean(dim=0) for b, f in own.items()}
    mean = torch.stack(list(means.values())).mean(dim=0)
    covariance = torch.stack([_covariance(f, mean) for f in own.values()]).mean(dim=0)
    size = len(mean)
    ridge = RIDGE * covariance.trace() / size + torch.finfo(torch.float32).eps
    steady = ridge * torch.eye(size, dtype=covariance.dtype)
    estimate.mean.copy_(mean)
    estimate.whitening.copy_(_whitening(covariance + steady))
    for b in range(len(estimate.reach)):
        centre, spread, inside = mean, covariance, list(own.values())
        if b in own:
            n, lean = len(own[b]), LEAN * size
            centre, inside = means[b], [own[b]]
            spread = (n * _covariance(own[b], centre) + lean * covariance) / (n + lean)
        basis = _whitening(spread + steady)
        lengths = torch.cat([torch.linalg.vector_norm((f - centre) @ basis.T, dim=1) for f in inside])
        edge = lengths.sort().values[int(EDGE * (len(lengths) - 1))] / size**0.5
        estimate.own_mean[b], estimate.own_whitening[b] = centre, basis
        estimate.reach[b] = edge.clamp(min=1.0)  # all atoms may be alike


def _covariance(features: Tensor, mean: Tensor) -> Tensor:
    """(F, F) of features (N, F) about a mean."""
    deviations = features - mean
    return deviations.T @ deviations / len(features)


def _whitening(covariance: Tensor) -> Tensor:
    """(F, F), by which deviations become ones of covariance 1."""
    whitening: Tensor = torch.linalg.inv(torch.linalg.cholesky(covariance))
    return whitening


def _fit_network(estimate: ErrorEstimate, observed: dict[int, Observed]) -> None:
    """By the likelihood of the errors if they are exponentially distributed; the best step on a part is kept."""
    fitted, chosen = {}, {}
    for b, one in observed.items():
        inputs = replace(one, features=estimate.whitened(one.features))
        choosing = _choosing(len(one.energy))
        fitted[b], chosen[b] = inputs.of(~choosing), inputs.of(choosing)
    first, activation, last = estimate.network
    thinned = nn.Sequential(first, activation, nn.Dropout(DROPOUT), last)  # a few thousand structures are little
    optimizer = torch.optim.AdamW(thinned.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    best, kept = torch.inf, copy.deepcopy(estimate.network.state_dict())
    for _ in range(STEPS):
        with torch.no_grad():
            value = float(_loss(estimate.network, chosen))
        if value < best:
            best, kept = value, copy.deepcopy(estimate.network.state_dict())
        optimizer.zero_grad()
        _loss(thinned, fitted).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    estimate.network.load_state_dict(kept)


def _choosing(structures: int) -> Tensor:
    """(S,) bool, which of them choose."""
    return torch.arange(structures) // max(1, structures // BLOCKS) % CHOOSING == 0


def _loss(network: nn.Module, observed: dict[int, Observed]) -> Tensor:
    """Of structures with whitened features, mean over branches."""
    losses = []
    for branch, one in observed.items():
        energy, forces = bounded(network(one.features)).double().chunk(2, dim=1)
        shares = torch.zeros_like(one.energy).index_add(0, one.structure, energy[:, branch])
        losses.append(_surprise(shares, one.energy) + _surprise(forces[:, branch], one.forces))
    return torch.stack(losses).mean()


def _surprise(expected: Tensor, errors: Tensor) -> Tensor:
    """Mean of the negative logarithm of the likelihood over labelled ones; 0 if there are none."""
    known = errors.isfinite()  # before anything is computed: a NaN would spoil the gradients of all
    if not known.any():
        return 0.0 * expected.sum()
    return (expected[known].log() + errors[known] / expected[known]).mean()
