"""Reference energies of elements: what composition alone says of a total energy."""

from __future__ import annotations

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray


def fit_reference_energies(
    composition: NDArray[np.float64], energies: NDArray[np.float64], *, ridge: float = 1e-3, min_structures: int = 1
) -> dict[str, float]:
    """Least-squares energy of each element, for the elements that the data have.

    Minimises ``Σ_s (E_s / n_s − Σ_Z x_sZ e_Z)² + ridge Σ_Z (e_Z − ē)²`` over element fractions x, with ē the mean
    energy per atom: elements that always occur together share their sum evenly instead of taking huge opposite values.
    Fit it on the training split only.

    Args:
        composition: (S, 118) atoms of each element.
        energies: (S,) eV; NaN is left out.
        ridge: strength of the pull towards the mean.
        min_structures: elements in fewer structures get no energy: they are unsupported.

    Returns:
        eV by symbol.

    Raises:
        ValueError: no labelled structure, or none that consists of supported elements only.
    """
    labelled = np.isfinite(energies)
    present = (composition[labelled] > 0).sum(axis=0) >= min_structures
    usable = labelled & ~(composition[:, ~present] > 0).any(axis=1)
    if not usable.any():
        raise ValueError(
            f"no structure of {len(energies)} is labelled and made of elements in ≥{min_structures} structures"
        )
    counts = composition[usable][:, present]
    atoms = counts.sum(axis=1)
    fractions, per_atom = counts / atoms[:, None], energies[usable] / atoms
    mean = per_atom.mean()
    normal = fractions.T @ fractions + ridge * np.eye(fractions.shape[1])
    deviation = np.linalg.solve(normal, fractions.T @ (per_atom - mean))
    return {chemical_symbols[z + 1]: float(mean + d) for z, d in zip(np.flatnonzero(present), deviation, strict=True)}
