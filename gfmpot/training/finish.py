"""From a trained network to a model to answer with: alignment, branch weights, test errors, metadata."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from gfmpot import __version__
from gfmpot.config import to_mapping
from gfmpot.data.split import SplitName
from gfmpot.graph import AtomGraph
from gfmpot.models import BranchInfo, Potential, PotentialConfig
from gfmpot.models.potential import rebuilt
from gfmpot.training.alignment import fit_alignment
from gfmpot.training.branch_weights import train_branch_weights
from gfmpot.training.corpus import BranchCorpus
from gfmpot.training.metrics import Metrics, blend_errors, evaluate
from gfmpot.training.trainer import Trainer

log = logging.getLogger(__name__)


def finish(trainer: Trainer, name: str, description: str, structures: int = 1500) -> Potential:
    """Align the branches, train their weights and measure everything on the test split.

    Args:
        trainer: after :meth:`Trainer.fit`.
        name: under which the model is loaded.
        description: of the model card: what it is for and where it ends.
        structures: per branch, for alignment and weights (training and validation split) and for the test.
    """
    trained, corpora = trainer.potential, trainer.corpora
    known = _graphs(corpora, "train", trained.config, structures)
    potential = with_alignment(trained, fit_alignment(trained, known))
    held_out = _graphs(corpora, "valid", trained.config, structures)
    loss = train_branch_weights(potential, known, held_out)
    log.info("branch weights: held-out loss %.4g", loss)
    unseen = _graphs(corpora, "test", trained.config, structures)
    metrics = evaluate(potential, unseen)
    metadata = {
        "name": name,
        "description": description,
        "gfmpot": __version__,
        "training": _training_summary(trainer),
        "data": {corpus.info.name: _data_summary(corpus) for corpus in corpora},
        "metrics": {"split": "test", "branches": metrics, "blend": blend_errors(potential, unseen)},
    }
    return rebuilt(potential, metadata=metadata)


def with_alignment(potential: Potential, alignment: Sequence[dict[str, float]]) -> Potential:
    """The same network with shifts (eV) per branch and element."""
    branches = [dataclasses.replace(b, alignment=a) for b, a in zip(potential.branches, alignment, strict=True)]
    return rebuilt(potential, branches=branches)


def write_card(potential: Potential, path: Path) -> None:
    """The model card in Markdown."""
    meta = potential.metadata
    metrics = meta["metrics"]
    branches = [_card_row(branch, metrics["branches"][branch.name]) for branch in potential.branches]
    blend = [_blend_line(name, m) for name, m in metrics["blend"].items()]
    data = [f"- `{b.name}`: {b.licence}. {b.citation}. Elements: {', '.join(b.e0)}" for b in potential.branches]
    training = [f"- {key}: {value}" for key, value in meta["training"].items()]
    text = CARD.format(
        name=meta["name"],
        description=meta["description"],
        branches="\n".join(branches),
        blend="\n".join(blend),
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

Errors on held-out groups (test split). Force errors are norms of the error vector: mean, median, and mean relative to
the mean force.

## The blend

Default output against the labels of each branch's test split, on the common scale:

{blend}

## Data and licences

{data}

## Training

{training}
"""


def _card_row(branch: BranchInfo, m: Metrics) -> str:
    errors = " | ".join(f"{1e3 * m[key]:.0f}" for key in ("energy_mae", "forces_mae", "forces_median"))
    facts = f"{branch.name} | {branch.theory} | {len(branch.e0)} | {branch.n_structures}"
    return f"| {facts} | {errors} | {m['forces_relative']:.0%} |"


def _blend_line(name: str, m: Metrics) -> str:
    return (
        f"- `{name}` structures: energy {1e3 * m['energy_mae']:.0f} meV/atom, "
        f"forces {1e3 * m['forces_mae']:.0f} meV/Å; mean weight of its own branch {m['own_weight']:.2f}"
    )


def _graphs(corpora: Sequence[BranchCorpus], split: SplitName, model: PotentialConfig, limit: int) -> list[AtomGraph]:
    return [graph for b, corpus in enumerate(corpora) for graph in corpus.graphs(split, model, b, limit)]


def _training_summary(trainer: Trainer) -> dict[str, Any]:
    config = to_mapping(trainer.config)
    names = ("steps", "epochs", "batch", "sampling", "precision", "seed", "loss", "optim", "split")
    kept = {key: config[key] for key in names if config[key] is not None}
    return {
        **kept,
        "hours": round(trainer.hours, 2),
        "ranks": trainer.launch.world,
        "torch": torch.__version__,
    }


def _data_summary(corpus: BranchCorpus) -> dict[str, Any]:
    sizes = {split: len(frames) for split, frames in corpus.splits.items()}
    return {"sha256": corpus.manifest, "structures": sizes, "left_out": corpus.left_out, "share": corpus.share}
