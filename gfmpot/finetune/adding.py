"""Another branch for a model that has several: learnt beside them, and blended with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from ase.data import atomic_numbers
from torch import Tensor

from gfmpot.data.sampler import SamplingConfig
from gfmpot.finetune.energies import prepare, train_config
from gfmpot.finetune.examples import Examples
from gfmpot.finetune.setting import Setting
from gfmpot.finetune.stopped import Stopped
from gfmpot.finetune.task import Task
from gfmpot.graph import AtomGraph
from gfmpot.models import Potential
from gfmpot.models.branch_weights import SILENT
from gfmpot.models.potential import rebuilt
from gfmpot.ranks.signals import EndOfJob
from gfmpot.training.alignment import fit_alignment
from gfmpot.training.branch_weights import WeightConfig
from gfmpot.training.corpus import BranchCorpus, BranchData, primary_branch
from gfmpot.training.finish import finish
from gfmpot.training.parameters import is_shared
from gfmpot.training.trainer import Trainer

ALIGNED = 1000
"""Structures, at most, on which a branch is put on the common scale."""


def with_branch(model: Potential, one: Potential, graphs: Iterable[AtomGraph]) -> Potential:
    """The model with the branch of ``one`` as its last, on the common energy scale; all other answers stay.

    In the blend the branch has no say, except for elements that no other branch has: how much it should have, only data
    of all branches can tell (``gfmpot train-branch-weights``).

    Args:
        model: of several branches.
        one: a potential of one branch, trained on the model's own backbone as it is.
        graphs: structures that the branch was trained on, with ``branch`` 0.

    Raises:
        ValueError: another backbone, or a branch that the model has already.
    """
    if not _same_backbone(model, one):
        raise ValueError("the branch was trained on another backbone; train it with the model's own, frozen")
    joined, row = unaligned(model, one), len(model.branches)
    own = (graph.replace(branch=torch.full_like(graph.branch, row)) for graph in graphs)  # type: ignore[arg-type]
    alignment = fit_alignment(joined, own, primary=primary_branch(model.branches).name)[row]
    branches = [*model.branches, dataclasses.replace(one.branches[0], alignment=alignment)]
    return rebuilt(joined, branches=branches).eval()


def check_name(model: Potential, name: str) -> None:
    """Refuse a branch that the model has already.

    Raises:
        ValueError: it has.
    """
    if name in model.branch_names:
        raise ValueError(f"the model has a branch {name!r} already; give another --name")


def unaligned(model: Potential, one: Potential) -> Potential:
    """The model with the branch of ``one`` as its last, on whatever energy scale, and silent in the blend.

    Raises:
        ValueError: the model has a branch of this name already.
    """
    branch = one.branches[0]
    check_name(model, branch.name)
    table = {**branch.e0, **model.e0_blend}
    e0_blend = {symbol: table[symbol] for symbol in sorted(table, key=lambda s: atomic_numbers[s])}
    with torch.random.fork_rng(devices=[]):  # the fresh weights are overwritten; the user's random numbers stay
        joined = Potential(model.config, [*model.branches, branch], e0_blend, model.metadata)
    joined.to(model.device, model.dtype).load_state_dict(_joined_weights(model, one))
    return joined


def trained_beside(
    task: Task,
    setting: Setting,
    examples: Examples,
    model: Potential,
    others: Sequence[BranchCorpus],
    share: float,
    folder: Path,
    device: torch.device,
    *,
    weights: WeightConfig,
    end: EndOfJob,
) -> Potential:
    """The whole model trained on new data and again on what its branches were trained on, then blended anew.

    Replay keeps the other branches from being forgotten while the backbone learns. A run that was stopped goes on.

    Args:
        task: of the new branch.
        setting: of the run; its strategy is ``keep`` or ``unfrozen``, with which head the branch begins.
        examples: new data.
        model: whose branches are kept.
        others: data of each branch of the model, in its order.
        share: of the draws that are of the new data.
        folder: of the run.
        device: where to compute.
        weights: how the blend is fitted.
        end: a signal to it stops the training.

    Raises:
        ValueError: data that do not fit.
        Stopped: by a signal.
    """
    prepared = prepare(task, setting, examples, model)
    plain = rebuilt(model, config=dataclasses.replace(model.config, error_hidden=None))
    begun = unaligned(plain, prepared.potential)
    corpora = [*others, dataclasses.replace(prepared.corpus, share=share)]
    total = sum(corpus.share for corpus in others)
    corpora[:-1] = [dataclasses.replace(c, share=(1 - share) * c.share / total) for c in others]
    new = len(prepared.corpus.splits["train"])
    config = train_config(task, setting, plain.config, round(new / share))
    config = dataclasses.replace(
        config,
        branches=tuple(BranchData((), name=corpus.info.name) for corpus in corpora),
        sampling=SamplingConfig(balance="shares"),
        branch_weights=weights,
    )
    with Trainer(config, Path(), folder, None, device, corpora=corpora, potential=begun) as trainer:
        if not trainer.fit(end=end):
            raise Stopped(f"{folder}: stopped at {trainer.done:.0%}")
        name = f"{model.metadata.get('name', 'model')}+{task.branch}"
        return finish(trainer, name, f"{model.metadata.get('description', '')}\n\nWith the branch {task.branch}.")


def _same_backbone(model: Potential, one: Potential) -> bool:
    """Whether all that branches share is the same to the last bit."""
    theirs, ours = ({n: p for n, p in m.named_parameters() if is_shared(n)} for m in (one, model))
    return theirs.keys() == ours.keys() and all(torch.equal(theirs[n].to(p.dtype), p) for n, p in ours.items())


def _joined_weights(model: Potential, one: Potential) -> dict[str, Tensor]:
    """All weights of the model with one more row for the branch."""
    state, theirs = model.state_dict(), one.state_dict()
    last = len(model.weights.layers) - 1
    for name, tensor in state.items():
        if name.startswith("heads."):
            state[name] = torch.cat([tensor, theirs[name].to(tensor.dtype)])
        elif name == f"weights.layers.{last}.weight":
            state[name] = torch.cat([tensor, tensor.new_zeros(1, tensor.shape[1])])
        elif name == f"weights.layers.{last}.bias":
            state[name] = torch.cat([tensor, tensor.new_full((1,), SILENT)])
        elif name.startswith("errors.network.2") or name == "errors.known":
            state[name] = _with_unknown_errors(tensor, len(model.branches))
        elif name in ("errors.own_mean", "errors.own_whitening", "errors.reach"):
            new = theirs[name].to(tensor.dtype) if name in theirs else _familiar_to_any(name, state)
            state[name] = torch.cat([tensor, new])
    return state


def _familiar_to_any(name: str, state: Mapping[str, Tensor]) -> Tensor:
    """The row of a branch of too few structures for an estimate: what all branches learnt from is familiar to it."""
    if name == "errors.reach":
        return state[name].max().unsqueeze(0)
    return state[name.replace("own_", "")].unsqueeze(0)


def _with_unknown_errors(tensor: Tensor, branches: int) -> Tensor:
    """Rows for energies and for forces of one more branch, whose errors nobody has seen."""
    if tensor.shape[0] == 2:  # known, (2, B)
        return torch.cat([tensor, tensor.new_zeros(2, 1)], dim=1)
    energy, forces = tensor[:branches], tensor[branches:]
    new = tensor.new_zeros(1, *tensor.shape[1:])
    return torch.cat([energy, new, forces, new])
