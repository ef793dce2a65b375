"""Errors of a potential on labelled structures, by branch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from gfmpot.graph import AtomGraph, BatchBudget
from gfmpot.models import Potential
from gfmpot.models.backbone import Evaluator
from gfmpot.training.loss import stress_labels

Metrics = dict[str, float]


def evaluate(
    potential: Potential, graphs: Iterable[AtomGraph], budget: BatchBudget | None = None
) -> dict[str, Metrics]:
    """Errors of each branch on the structures that it labelled.

    Returns:
        By branch name: ``energy_mae`` (eV/atom), ``forces_mae`` (eV/Å, mean norm of the error vector),
        ``forces_median`` (its median),
        ``forces_relative`` (that over the mean norm of the forces), ``stress_mae`` (eV/Å³, mean absolute component) and
        ``structures``; without labels, an entry is left out, and it is infinite if a prediction is not finite.
    """
    rows = error_rows(potential, graphs, budget)
    return {potential.branch_names[branch]: summary(rows[branch]) for branch in sorted(rows)}


def error_rows(
    potential: Potential, graphs: Iterable[AtomGraph], budget: BatchBudget | None = None
) -> dict[int, list[Errors]]:
    """Errors of single structures by branch, which may be joined with those of other ranks before a summary."""
    rows: dict[int, list[Errors]] = {}
    evaluate = potential.backbone.kernels(potential.dtype)
    for batch in (budget or BatchBudget(max_edges=50_000)).pack(graphs):
        for branch, errors in _batch_errors(potential, AtomGraph.batch(batch), evaluate):
            rows.setdefault(branch, []).append(errors)
    return rows


Errors = tuple[
    float, "np.ndarray[tuple[int], np.dtype[np.float64]]", "np.ndarray[tuple[int], np.dtype[np.float64]]", float
]


def _batch_errors(potential: Potential, graph: AtomGraph, evaluate: Evaluator | None) -> Iterable[tuple[int, Errors]]:
    """Per structure: energy error per atom, norms of force errors and of forces, mean stress error."""
    assert graph.branch is not None
    assert graph.energy is not None
    assert graph.forces is not None
    assert graph.stress is not None
    prediction = potential.labelled(graph.to(potential.device), create_graph=False, evaluate=evaluate)
    assert prediction.forces is not None
    assert prediction.stress is not None
    energy = (_differences(prediction.energy, graph.energy) / graph.atoms_per_structure).numpy()
    stress = _differences(prediction.stress, stress_labels(graph)).mean(dim=1).numpy()
    error = torch.linalg.vector_norm(_differences(prediction.forces, graph.forces), dim=1).numpy()
    size = torch.linalg.vector_norm(graph.forces, dim=1).numpy()
    ends = np.cumsum(graph.atoms_per_structure.numpy())
    for i, (start, end) in enumerate(zip(np.concatenate([[0], ends[:-1]]), ends, strict=True)):
        yield int(graph.branch[i]), (float(energy[i]), error[start:end], size[start:end], float(stress[i]))


def _differences(predicted: Tensor, labels: Tensor) -> Tensor:
    """Magnitudes; NaN where there is no label, infinite where there is one and the prediction is not finite."""
    differences = (predicted.detach().cpu() - labels).abs()
    return differences.nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(labels.isnan(), torch.nan)


def blend_errors(
    potential: Potential, graphs: Iterable[AtomGraph], budget: BatchBudget | None = None
) -> dict[str, Metrics]:
    """Errors of the blend against the labels, by the branch that labelled the structure.

    Energies are compared on the common scale; ``own_weight`` is the mean weight of the labelling branch. Without
    labels, an entry is left out.
    """
    rows = blend_rows(potential, graphs, budget)
    return {potential.branch_names[branch]: blend_summary(rows[branch]) for branch in sorted(rows)}


def blend_rows(
    potential: Potential, graphs: Iterable[AtomGraph], budget: BatchBudget | None = None
) -> dict[int, list[BlendErrors]]:
    """Errors of the blend on single structures by branch, which may be joined with those of other ranks."""
    rows: dict[int, list[BlendErrors]] = {}
    evaluate = potential.backbone.kernels(potential.dtype)
    for batch in (budget or BatchBudget(max_edges=50_000)).pack(graphs):
        graph = AtomGraph.batch(batch).to(potential.device)
        assert graph.branch is not None
        for branch, row in zip(graph.branch.tolist(), _blend_rows(potential, graph, evaluate), strict=True):
            rows.setdefault(branch, []).append(row)
    return rows


def blend_summary(rows: list[BlendErrors]) -> Metrics:
    """What :func:`blend_errors` returns for one branch."""
    energy, forces, weight = zip(*rows, strict=True)
    means = (_mean(np.array(energy)), _mean(np.concatenate(forces)), _mean(np.array(weight)))
    named = zip(("energy_mae", "forces_mae", "own_weight"), means, strict=True)
    return {name: value for name, value in named if not np.isnan(value)}


BlendErrors = tuple[float, "np.ndarray[tuple[int], np.dtype[np.float64]]", float]


def _blend_rows(potential: Potential, graph: AtomGraph, evaluate: Evaluator | None) -> list[BlendErrors]:
    """Per structure: energy error (eV/atom), norms of force errors (eV/Å), weight of the labelling branch."""
    assert graph.branch is not None
    assert graph.energy is not None
    assert graph.forces is not None
    prediction = potential(graph, spread="none", evaluate=evaluate)
    references, own = potential.references, graph.branch.unsqueeze(1)
    blend_reference = graph.composition @ references.e0_blend[1:]
    to_common = (references.shifts(graph) - references.totals(graph)).gather(1, own).squeeze(1)
    energy = (prediction.energy - blend_reference - graph.energy - to_common).abs() / graph.atoms_per_structure
    norms = torch.linalg.vector_norm(prediction.forces - graph.forces, dim=1).cpu().numpy()
    forces = np.split(norms, np.cumsum(graph.atoms_per_structure.cpu().numpy())[:-1])
    weight = prediction.branch_weights.gather(1, own).squeeze(1)
    return list(zip(energy.tolist(), forces, weight.tolist(), strict=True))


def summary(rows: list[Errors]) -> Metrics:
    """What :func:`evaluate` returns for one branch."""
    energy, error, size, stress = zip(*rows, strict=True)
    forces_mae = _mean(np.concatenate(error))
    metrics = {
        "energy_mae": _mean(np.array(energy)),
        "forces_mae": forces_mae,
        "forces_median": _median(np.concatenate(error)),
        "forces_relative": forces_mae / (_mean(np.concatenate(size)) or np.nan),
        "stress_mae": _mean(np.array(stress)),
        "structures": float(len(rows)),
    }
    return {name: value for name, value in metrics.items() if not np.isnan(value)}


def _median(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """The median of what is not NaN, or NaN."""
    labelled = values[~np.isnan(values)]
    return float(np.median(labelled)) if len(labelled) else float("nan")


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """The mean of what is not NaN, or NaN."""
    labelled = values[~np.isnan(values)]
    return float(labelled.mean()) if len(labelled) else float("nan")
