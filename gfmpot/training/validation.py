"""Errors on held-out structures, computed by all ranks together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist

from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import Potential
from gfmpot.ranks.launch import Launch
from gfmpot.training.corpus import BranchCorpus, evenly, graphs_of
from gfmpot.training.loss import LossConfig
from gfmpot.training.metrics import Metrics, error_rows, summary

T = TypeVar("T")


def validation_errors(
    potential: Potential, corpora: Sequence[BranchCorpus], structures: int, launch: Launch
) -> dict[str, Metrics]:
    """Errors of each branch on up to ``structures`` of its validation split; collective, the same on all ranks."""
    rows = error_rows(potential, _shares(potential, corpora, structures, launch))
    joined = over_ranks(rows, launch)
    return {potential.branch_names[b]: summary(joined[b]) for b in sorted(joined)}


def over_ranks(rows: dict[int, list[T]], launch: Launch) -> dict[int, list[T]]:
    """By branch, the rows of all ranks; collective."""
    if not dist.is_initialized():
        return rows
    gathered: list[dict[int, list[T]]] = [{} for _ in range(launch.world)]
    dist.all_gather_object(gathered, rows)
    return {b: [row for part in gathered for row in part.get(b, [])] for b in {b for part in gathered for b in part}}


def _shares(
    potential: Potential, corpora: Sequence[BranchCorpus], structures: int, launch: Launch
) -> Iterator[AtomGraph]:
    for b, corpus in enumerate(corpora):
        data = corpus.splits["valid"]
        chosen = evenly(len(data), structures)
        yield from graphs_of(data, chosen[launch.rank :: launch.world], potential.config, b)


def mean_loss(metrics: dict[str, Metrics], config: LossConfig) -> float:
    """The loss that such errors make, averaged over branches; infinite if a prediction is not finite.

    What a branch has no labels of is left out.
    """
    names = ("energy_mae", "forces_mae", "stress_mae")
    losses = [
        sum(weight * m[name] for name, weight in zip(names, config.weights, strict=True) if weight and name in m)
        for m in metrics.values()
    ]
    return sum(losses) / max(1, len(losses))


def write_parity(
    potential: Potential, corpora: Sequence[BranchCorpus], structures: int, folder: Path
) -> Iterator[dict[str, Any]]:
    """Predictions beside labels for parity plots, one file per branch; yields their records for the log."""
    for b, corpus in enumerate(corpora):
        arrays = _parity(potential, list(corpus.graphs("valid", potential.config, b, structures)))
        path = folder / "parity" / f"{corpus.info.name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)  # type: ignore[arg-type]
        yield {"kind": "parity", "branch": corpus.info.name, "file": str(path.relative_to(folder))}


def _parity(potential: Potential, graphs: Sequence[AtomGraph]) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    columns: dict[str, list[np.ndarray[Any, np.dtype[np.float64]]]] = {}
    evaluate = potential.backbone.kernels(potential.dtype)
    for batch in BatchBudget(max_edges=50_000).pack(graphs):
        graph = AtomGraph.batch(batch)
        assert graph.energy is not None
        assert graph.forces is not None
        predicted = potential.labelled(graph.to(potential.device), create_graph=False, evaluate=evaluate)
        assert predicted.forces is not None
        atoms = graph.atoms_per_structure
        columns.setdefault("energy_reference", []).append((graph.energy / atoms).numpy())
        columns.setdefault("energy_predicted", []).append((predicted.energy.detach().cpu() / atoms).numpy())
        columns.setdefault("forces_reference", []).append(graph.forces.flatten().numpy())
        columns.setdefault("forces_predicted", []).append(predicted.forces.detach().cpu().flatten().numpy())
    return {name: np.concatenate(parts) for name, parts in columns.items()}
