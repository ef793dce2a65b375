"""With which weights a potential begins that is to learn a new level of theory."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfmpot.data import FrameSet, fit_reference_energies
from gfmpot.data.reference_energies import element_table
from gfmpot.finetune.examples import Floats, Ints
from gfmpot.finetune.groups import less_group_means
from gfmpot.finetune.task import Strategy
from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import BranchInfo, Potential, PotentialConfig
from gfmpot.training.beginning import fresh

log = logging.getLogger(__name__)

FAR_OFF = 0.2
"""eV/atom, from which on labels are probably in other units, or of another kind than the model's energies."""

JUDGED = 200
"""Training structures on which the branches of a model are compared."""


@dataclass(frozen=True)
class Closest:
    """The branch of a model that fits new labels best, once its reference energies are fitted to them."""

    index: int
    name: str
    e0: dict[str, float]
    """eV by symbol: what is left of the labels without what the branch has learnt."""

    energy_mae: float
    """eV/atom, of the structures that it was chosen on."""

    forces_mae: float
    """eV/Å, mean norm; NaN without forces."""


def begun(
    strategy: Strategy,
    model: Potential,
    config: PotentialConfig,
    info: BranchInfo,
    train: FrameSet,
    seed: int,
) -> tuple[Potential, dict[str, object]]:
    """A potential of one branch, and how it came about.

    Args:
        strategy: what is taken from the model.
        model: pretrained; nothing of it is taken from scratch.
        config: of the new potential; the model's own unless from scratch.
        info: of the branch, with reference energies fitted to ``train``.
        train: what it is going to be trained on.
        seed: of weights that are new.

    Raises:
        ValueError: elements that the model's backbone has never seen.
    """
    if strategy == "scratch":
        return fresh(config, [info], seed), {"begun with": "random weights"}
    require_known(model, train)
    how: dict[str, object] = {"begun with": model.metadata.get("name", "a model")}
    if strategy == "keep":
        best = closest_branch(model, train)
        log.info("closest branch: %s, %.1f meV/atom on training structures", best.name, 1e3 * best.energy_mae)
        if best.energy_mae > FAR_OFF:
            log.warning(
                "even the closest branch is off by %.0f meV/atom: are energies in eV and lengths in Å? If not, say so, "
                "e.g. --reader energy_unit=Hartree; if they are, --strategy unfrozen may be better",
                1e3 * best.energy_mae,
            )
        info = dataclasses.replace(info, e0=best.e0, scale=model.branches[best.index].scale)
        how |= {"branch": best.name, "energy_per_atom_mae before": best.energy_mae}
        how |= {} if math.isnan(best.forces_mae) else {"forces_norm_mae before": best.forces_mae}
        potential = _with_backbone(fresh(config, [info], seed), model)
        for own, old in zip(potential.heads.parameters(), model.heads.parameters(), strict=True):
            own.data.copy_(old.detach()[best.index : best.index + 1])
        return potential, how
    potential = _with_backbone(fresh(config, [info], seed), model)
    last = potential.heads.layers[-1]
    with torch.no_grad():  # it begins with the reference energies: a random head would first spoil the backbone
        last.weight.zero_()  # type: ignore[operator]
        last.bias.zero_()  # type: ignore[operator]
    return potential, how


def require_known(model: Potential, frames: FrameSet) -> None:
    """Raise for elements that no branch of the model has been trained on.

    Raises:
        ValueError: names them.
    """
    present = (frames.composition() > 0).any(axis=0)
    lacking = [chemical_symbols[z + 1] for z in np.flatnonzero(present & ~known_elements(model))]
    if lacking:
        raise ValueError(
            f"the model {model.metadata.get('name', '')!r} has never seen {', '.join(lacking)}, which the data have; "
            "use a model that has, or --strategy scratch"
        )


def known_elements(model: Potential) -> NDArray[np.bool_]:
    """(118,) which any branch of a model has been trained on."""
    return np.asarray(model.references.supported.any(dim=0).cpu().numpy()[1:])


def closest_branch(model: Potential, train: FrameSet) -> Closest:
    """The branch whose energies and forces fit best the labels of up to :data:`JUDGED` structures.

    Energies are compared after one energy per element was fitted to the difference, since zeros differ; those of the
    branch that is found are fitted to all structures.

    Raises:
        ValueError: no branch has all the elements.
    """
    able = _able(model, train)
    chosen = train.subset(np.linspace(0, len(train) - 1, min(len(train), JUDGED)).astype(np.int64))
    learnt, forces = _answers(model, chosen)
    found = [_judged(model, b, chosen, learnt[:, b], forces[:, :, b]) for b in able]
    best = min(found, key=lambda c: c.energy_mae + np.nan_to_num(c.forces_mae))
    if len(chosen) == len(train):
        return best
    labels = dataclasses.replace(train, forces=np.full_like(train.forces, np.nan))
    rest = train.energy - _answers(model, labels)[0][:, best.index]
    return dataclasses.replace(best, e0=_references(train, rest, model.branches[best.index].e0))


def _able(model: Potential, frames: FrameSet) -> list[int]:
    """The branches that have all the elements.

    Raises:
        ValueError: there is none.
    """
    able = _with_elements(model, frames)
    if not able:
        raise ValueError("no branch of the model has all the elements of the data; use --strategy unfrozen")
    return able


def _with_elements(model: Potential, frames: FrameSet) -> list[int]:
    """The branches that have all the elements; there may be none."""
    present = (frames.composition() > 0).any(axis=0)
    supported = model.references.supported[:, 1:].cpu().numpy()
    able: list[int] = np.flatnonzero(supported[:, present].all(axis=1)).tolist()
    return able


def _judged(model: Potential, branch: int, frames: FrameSet, learnt: Floats, forces: Floats) -> Closest:
    """How well a branch fits, by what it has learnt (S,) and its forces (N, 3)."""
    rest = frames.energy - learnt
    e0 = _references(frames, rest, model.branches[branch].e0)
    error = (rest - frames.composition() @ element_table(e0)) / frames.atoms_per_structure
    norms = np.linalg.norm(forces - frames.forces, axis=1)
    norms = norms[np.isfinite(norms)]
    of_forces = float(norms.mean()) if len(norms) else float("nan")
    return Closest(branch, model.branch_names[branch], e0, float(np.abs(error).mean()), of_forces)


def _references(frames: FrameSet, rest: Floats, known: Mapping[str, float]) -> dict[str, float]:
    """Reference energies that explain the rest (S,): those of the branch with a correction, if they are near it.

    With few structures of many elements the fit is pulled towards one mean; corrections have more of one than energies.
    """
    corrected = rest - frames.composition() @ element_table(known)
    if _spread(frames, corrected) >= _spread(frames, rest):
        return fit_reference_energies(frames.composition(), rest)
    return {s: known[s] + x for s, x in fit_reference_energies(frames.composition(), corrected).items()}


def reference_energies(model: Potential, train: FrameSet) -> dict[str, float]:
    """eV by symbol, fitted to total energies, for a head that has learnt nothing yet.

    They are corrections to those of the branch that come closest, if any does: with few structures of many elements, a
    fit alone knows little.
    """
    tables = [model.branches[b].e0 for b in _with_elements(model, train)]
    if not tables:
        return fit_reference_energies(train.composition(), train.energy)
    best = min(tables, key=lambda table: _spread(train, train.energy - train.composition() @ element_table(table)))
    return _references(train, train.energy, best)


def _spread(frames: FrameSet, energies: Floats) -> float:
    """eV/atom, of energies (S,): how far from their mean they are; of a single one, how far from zero."""
    per_atom = energies / frames.atoms_per_structure
    return float(np.nanstd(per_atom) if len(per_atom) > 1 else np.abs(per_atom).max())


def closest_relative_energies(model: Potential, frames: FrameSet, codes: Ints) -> Floats:
    """(S,) eV of the branch that fits differences within groups, given by numbers (S,), best.

    Raises:
        ValueError: no branch has all the elements.
    """
    able = _able(model, frames)
    totals = _answers(model, frames)[0] + frames.composition() @ model.references.e0[:, 1:].T.cpu().numpy()
    errors = [np.abs(less_group_means(totals[:, b] - frames.energy, codes)).mean() for b in able]
    return np.asarray(totals[:, able[int(np.argmin(errors))]])


def _with_backbone(potential: Potential, model: Potential) -> Potential:
    """With the backbone and the embedding of the model."""
    potential.take_trunk(model)
    return potential.to(model.dtype)


def _graphs(model: Potential, frames: FrameSet) -> Iterator[AtomGraph]:
    for i in range(len(frames)):
        yield frames.graph(i, model.cutoff, max_neighbours=model.config.max_neighbours)


def _answers(model: Potential, frames: FrameSet) -> tuple[Floats, Floats]:
    """(S, B) eV, what branches and repulsion add to reference energies; (N, 3, B) eV/Å, NaN if none are labelled."""
    learnt, forces = [], []
    kernels = model.backbone.kernels(model.dtype)
    with_forces = bool(np.isfinite(frames.forces).any())
    for batch in BatchBudget(max_edges=50_000).pack(_graphs(model, frames)):
        graph = AtomGraph.batch(batch)
        aligned, own = model.every_branch(graph, derivatives=with_forces, evaluate=kernels)
        learnt.append((aligned - model.references.shifts(graph)).numpy())
        shape = (graph.n_atoms, 3, len(model.branches))
        forces.append(np.full(shape, np.nan) if own is None else own.detach().numpy())
    return np.concatenate(learnt), np.concatenate(forces)
