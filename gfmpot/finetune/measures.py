"""Errors of potentials on a downstream task, in eV and Å."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gfmpot.finetune.groups import less_group_means
from gfmpot.finetune.metrics import Metrics
from gfmpot.inference.comparison import Comparison, finite_mean

Floats = NDArray[np.float64]


def energy_measures(comparison: Comparison, codes: NDArray[np.int64] | None = None) -> Metrics:
    """Errors of energies and forces; without labels, an entry is left out.

    Args:
        comparison: S structures.
        codes: (S,) numbers of groups from 0 on, within which energies are compared, less the mean error of the group.

    Returns:
        ``energy_mae``, ``energy_rmse``, ``energy_max`` (eV, of whole structures), ``energy_per_atom_mae``,
        ``energy_per_atom_rmse`` (eV/atom), ``forces_mae``, ``forces_rmse`` (eV/Å, of components), ``forces_norm_mae``
        (eV/Å, of vectors), ``stress_mae`` (eV/Å³, of components), ``structures``.
    """
    error = comparison.energy_predicted - comparison.energy
    if codes is not None:
        error = less_group_means(error, codes)
    forces = comparison.forces_predicted - comparison.forces
    found = {
        **_of_energies(error, comparison.atoms),
        "forces_mae": finite_mean(np.abs(forces)),
        "forces_rmse": finite_mean(forces**2) ** 0.5,
        "forces_norm_mae": finite_mean(np.linalg.norm(forces, axis=1)),
        "stress_mae": finite_mean(np.abs(comparison.stress_predicted - comparison.stress)),
        "structures": float(len(comparison)),
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _of_energies(error: Floats, atoms: Floats) -> Metrics:
    return {
        "energy_mae": finite_mean(np.abs(error)),
        "energy_rmse": finite_mean(error**2) ** 0.5,
        "energy_max": float(np.abs(error).max()),
        "energy_per_atom_mae": finite_mean(np.abs(error / atoms)),
        "energy_per_atom_rmse": finite_mean((error / atoms) ** 2) ** 0.5,
    }
