"""From a trained network to a model to answer with: alignment, branch weights, test errors, metadata."""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gfmpot import __version__
from gfmpot.config import did_you_mean, to_mapping
from gfmpot.data.split import SplitName
from gfmpot.graph import AtomGraph
from gfmpot.models import BranchInfo, Potential
from gfmpot.models.potential import rebuilt
from gfmpot.ranks.launch import Launch
from gfmpot.telemetry import read_records
from gfmpot.training.alignment import fit_alignment
from gfmpot.training.branch_weights import Watch, WeightConfig, WeightFit, train_branch_weights
from gfmpot.training.calibration import Calibration, Estimated, branch_of, estimated_errors
from gfmpot.training.corpus import BranchCorpus, evenly, graphs_of
from gfmpot.training.error_estimate import MOST, carrying, with_error_estimate
from gfmpot.training.metrics import Metrics, blend_rows, blend_summary, error_rows, summary
from gfmpot.training.trainer import Trainer
from gfmpot.training.validation import over_ranks

log = logging.getLogger(__name__)


MISSING = "–"


def finish(trainer: Trainer, name: str, description: str, structures: int | None = None) -> Potential:
    """Align the branches, train their weights, learn their errors and measure all on the test split; collective.

    Ranks share the structures between them and return the same model.

    Args:
        trainer: after :meth:`Trainer.fit`.
        name: under which the model is loaded.
        description: of the model card: what it is for and where it ends.
        structures: in place of ``branch_weights.structures`` of the run's settings.
    """
    config, corpora, launch = trainer.config.branch_weights, trainer.corpora, trainer.launch
    if structures is not None:
        config = dataclasses.replace(config, structures=structures)
    potential, _ = blended(trainer.potential, corpora, config, launch)

    def share(split: SplitName) -> Iterator[AtomGraph]:
        return own_share(potential, corpora, split, config.structures, launch)

    potential = estimating(potential, corpora, config.structures, launch)
    rows = over_ranks(error_rows(potential, share("test")), launch)
    own = {b: [errors] for b, errors in estimated_errors(potential, share("test")).items()}
    estimated = over_ranks(own, launch)
    metrics = potential.metadata["metrics"]
    metadata = {
        "name": name,
        "description": description,
        "gfmpot": __version__,
        "training": _training_summary(trainer),
        "data": {corpus.info.name: _data_summary(corpus) for corpus in corpora},
        "branch_weights": potential.metadata["branch_weights"],
        "metrics": {
            **metrics,
            "branches": {potential.branch_names[b]: summary(rows[b]) for b in sorted(rows)},
            "uncertainty": {
                potential.branch_names[b]: Estimated.join(estimated[b]).summary() for b in sorted(estimated)
            },
        },
    }
    return rebuilt(potential, metadata=metadata)


def estimating(potential: Potential, corpora: Sequence[BranchCorpus], structures: int, launch: Launch) -> Potential:
    """The potential with an estimate of its errors, if there are data for one; the first rank finds it for all.

    Args:
        potential: whose branches are trained.
        corpora: their data, in the order of the branches.
        structures: of each branch that it was trained on, at most. Of those that it was not trained on, its share of
            :data:`MOST`: errors are learnt from few, and more are better.
        launch: this rank's place.
    """
    alone, state = Launch(), [None]
    if launch.is_main:
        most = MOST // len(corpora)
        seen = own_share(potential, corpora, "train", min(structures, most), alone)
        unseen = own_share(potential, corpora, "valid", most, alone)
        found = with_error_estimate(potential, seen, unseen)
        state = [None if found.errors is None else found.errors.state_dict()]  # type: ignore[list-item]
    if dist.is_initialized():
        dist.broadcast_object_list(state, device=potential.device)
    return potential if state[0] is None else carrying(potential, state[0])


def blended(
    potential: Potential,
    corpora: Sequence[BranchCorpus],
    config: WeightConfig,
    launch: Launch,
    *,
    align: bool = True,
    watch: Watch = lambda what, share, note: None,
) -> tuple[Potential, WeightFit]:
    """A copy of a potential with new weights of its branches and, with ``align``, a new alignment; collective.

    Its metadata say how (``branch_weights``) and how large the errors of the blend are on the test split
    (``metrics``); the rest of them is kept.

    Args:
        potential: whose branches are trained.
        corpora: their data, in the order of the branches.
        config: how to train, on how many structures.
        launch: this rank's place.
        align: fit the alignment to the training split.
        watch: is told what is being done.
    """

    for name in config.silent:
        if name not in potential.branch_names:
            raise ValueError(f"branch_weights: no branch {name!r}{did_you_mean(name, potential.branch_names)}")

    def share(split: SplitName, what: str, *, teaching: bool = False) -> Iterator[AtomGraph]:
        graphs = own_share(potential, corpora, split, config.structures, launch, lambda done: watch(what, done, ""))
        silent = {b for b, name in enumerate(potential.branch_names) if teaching and name in config.silent}
        return (graph for graph in graphs if branch_of(graph) not in silent)

    alignment = (
        fit_alignment(potential, share("train", "alignment")) if align else [b.alignment for b in potential.branches]
    )
    changed = with_alignment(potential, alignment)
    fit = train_branch_weights(
        changed,
        share("train", "training structures", teaching=True),
        share("valid", "held-out structures", teaching=True),
        config,
        watch,
    )
    log.info("branch weights: held-out loss %.4g, before %.4g", fit.after, fit.before)
    rows = over_ranks(blend_rows(changed, share("test", "test structures")), launch)
    blend = {changed.branch_names[b]: blend_summary(rows[b]) for b in sorted(rows)}
    facts = {
        "settings": to_mapping(config),
        "held_out_loss": fit.after,
        "data": {corpus.info.name: corpus.manifest for corpus in corpora},
        "gfmpot": __version__,
    }
    metrics = {**changed.metadata.get("metrics", {}), "split": "test", "blend": blend}
    return rebuilt(changed, metadata={**changed.metadata, "branch_weights": facts, "metrics": metrics}), fit


def own_share(
    potential: Potential,
    corpora: Sequence[BranchCorpus],
    split: SplitName,
    structures: int,
    launch: Launch,
    watch: Callable[[float], None] = lambda share: None,
) -> Iterator[AtomGraph]:
    """This rank's graphs of a split: of each branch up to ``structures``, evenly spread, in turns with other ranks.

    Those with elements that their branch lacks have no energy on a common scale; they are left out, and counted in the
    log.
    """
    supported = potential.references.supported.cpu()
    chosen = [evenly(len(corpus.drawn_from(split)), structures)[launch.rank :: launch.world] for corpus in corpora]
    total, done = sum(map(len, chosen)), 0
    for b, (corpus, own) in enumerate(zip(corpora, chosen, strict=True)):
        left_out = 0
        for graph in graphs_of(corpus.drawn_from(split), own, potential.config, b):
            done += 1
            watch(done / total)
            if supported[b, graph.atomic_numbers].all():
                yield graph
            else:
                left_out += 1
        if left_out:
            text = "%s: left out %d of %d %s structures with elements that the branch lacks"
            log.warning(text, corpus.info.name, left_out, len(own), split)


def with_alignment(potential: Potential, alignment: Sequence[Mapping[str, float]]) -> Potential:
    """The same network with shifts (eV) per branch and element."""
    branches = [dataclasses.replace(b, alignment=a) for b, a in zip(potential.branches, alignment, strict=True)]
    return rebuilt(potential, branches=branches)


def write_card(potential: Potential, path: Path) -> None:
    """The model card in Markdown."""
    meta = potential.metadata
    metrics = meta["metrics"]
    branches = [_card_row(branch, metrics["branches"].get(branch.name, {})) for branch in potential.branches]
    blend = [_blend_line(name, m) for name, m in metrics["blend"].items()]
    data = [
        f"- `{b.name}`: {b.licence or 'licence not stated'}. {_ended(b.citation)}Elements: {', '.join(b.e0)}"
        for b in potential.branches
    ]
    training = [f"- {key}: {value}" for key, value in meta["training"].items()]
    errors = [_estimate_row(name, m) for name, m in metrics.get("uncertainty", {}).items()]
    text = CARD.format(
        name=meta["name"],
        description=meta["description"],
        branches="\n".join(branches),
        blend="\n".join(blend),
        most=meta["branch_weights"]["settings"]["structures"],
        errors="\n".join(errors),
        data="\n".join(data),
        training="\n".join(training),
    )
    path.write_text(text)


CARD = """# {name}

{description}

## Branches

| branch | theory | elements | structures | energy MAE (meV/atom) | force MAE (meV/Å) | median | relative |
|---|---|---|---|---|---|---|---|
{branches}

Errors on held-out groups: at most {most} structures of each test split. Force errors are norms of the error vector:
mean, median, and mean relative to the mean force; "–" where there are no labels.

## The blend

Default output against the labels of the same structures, on the common scale. A branch with next to no weight of its
own answers to `head=` alone:

{blend}

## Estimated errors

`energy_std` and `forces_std` beside the errors of each branch on its test split:

| branch | energies: rank correlation | within one std | forces: rank correlation | within one std |
|---|---|---|---|---|
{errors}

Of normal errors, 68 % of energies and 61 % of forces (which are vectors) are within one standard deviation.

## Data and licences

{data}

## Training

{training}
"""


def _ended(sentence: str) -> str:
    return f"{sentence}. " if sentence else ""


def _card_row(branch: BranchInfo, m: Metrics) -> str:
    errors = " | ".join(_milli(m, key) for key in ("energy_mae", "forces_mae", "forces_median"))
    relative = f"{m['forces_relative']:.0%}" if "forces_relative" in m else MISSING
    return f"| {branch.name} | {branch.theory} | {len(branch.e0)} | {branch.n_structures} | {errors} | {relative} |"


def _estimate_row(name: str, m: Calibration) -> str:
    cells = [
        f"{m[key]:{form}}" if key in m else MISSING
        for quantity in ("energy", "forces")
        for key, form in ((f"spearman_{quantity}", ".2f"), (f"within_{quantity}", ".0%"))
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _blend_line(name: str, m: Metrics) -> str:
    errors = [("energy", "energy_mae", "meV/atom"), ("forces", "forces_mae", "meV/Å")]
    parts = [f"{what} {_milli(m, key)} {unit}" for what, key, unit in errors if key in m]
    return f"- `{name}` structures: {', '.join(parts)}; mean weight of its own branch {m['own_weight']:.2f}"


def _milli(m: Metrics, key: str) -> str:
    """Thousandths of an error, or that there were no labels to know it by."""
    return f"{1e3 * m[key]:.0f}" if key in m else MISSING


def _training_summary(trainer: Trainer) -> dict[str, Any]:
    config = to_mapping(trainer.config)
    names = ("steps", "epochs", "batch", "sampling", "precision", "gradients", "seed", "loss", "optim", "split")
    kept = {key: config[key] for key in names if config[key] is not None}
    origin = {} if trainer.origin is None else {"begin_with": trainer.origin, "start_share": trainer.config.start_share}
    return {
        **kept,
        **origin,
        "hours": round(trainer.hours, 2),
        "ranks": trainer.launch.world,
        "device": _device_name(trainer.device),
        "joules": _joules(trainer.folder),
        "torch": torch.__version__,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device}, {platform.machine()}"


def _joules(folder: Path) -> float | str:
    """Of processors and GPUs together, as far as their counters could be read."""
    path = folder / "log.jsonl"
    records = read_records(path)[0] if path.exists() else []
    values = (item for record in records if record.get("kind") == "telemetry" for item in record.items())
    found = [value for name, value in values if name.endswith("energy_j")]
    return round(sum(found)) if found else "no counters of energy could be read"


def _data_summary(corpus: BranchCorpus) -> dict[str, Any]:
    sizes = {split: len(frames) for split, frames in corpus.splits.items()}
    return {"sha256": corpus.manifest, "structures": sizes, "left_out": corpus.left_out, "share": corpus.share}
