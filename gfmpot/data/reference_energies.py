"""Reference energies of elements: what composition alone says of a total energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceStatistics:
    """All that the fit of reference energies needs to know of any number of labelled structures.

    With element fractions ``x_s`` (rows of composition divided by their sums) and energies per atom ``y_s``. The sums
    of several sets add up, so that files which were read one by one are fitted as one.
    """

    structures: NDArray[np.int64]  # (118,) labelled structures that contain each element
    products: Floats  # (118, 118) Σ_s x_s x_sᵀ
    moments: Floats  # (118,) Σ_s x_s y_s, eV
    fractions: Floats  # (118,) Σ_s x_s
    count: int  # labelled structures
    total: float  # Σ_s y_s, eV

    @classmethod
    def of(cls, composition: Floats, energies: Floats) -> ReferenceStatistics:
        """The sums over structures of ``composition`` (S, 118) and ``energies`` (S,) in eV; NaN is left out."""
        labelled = np.isfinite(energies)
        counts = composition[labelled]
        atoms = counts.sum(axis=1)
        x, y = counts / atoms[:, None], energies[labelled] / atoms
        return cls((counts > 0).sum(axis=0), x.T @ x, x.T @ y, x.sum(axis=0), len(y), float(y.sum()))

    def __add__(self, other: ReferenceStatistics) -> ReferenceStatistics:
        names = ("structures", "products", "moments", "fractions", "count", "total")
        return ReferenceStatistics(*(getattr(self, name) + getattr(other, name) for name in names))

    def fit(self, ridge: float = 1e-3) -> dict[str, float]:
        """Energy of each element in eV, by symbol, as :func:`fit_reference_energies` defines it.

        Raises:
            ValueError: no labelled structure.
        """
        if self.count == 0:
            raise ValueError("no structure has an energy, so that no reference energies can be fitted")
        present = np.flatnonzero(self.structures)
        mean = self.total / self.count
        normal = self.products[np.ix_(present, present)] + ridge * np.eye(len(present))
        deviation = np.linalg.solve(normal, self.moments[present] - mean * self.fractions[present])
        return {chemical_symbols[z + 1]: float(mean + d) for z, d in zip(present, deviation, strict=True)}

    def to_mapping(self) -> dict[str, Any]:
        """As plain JSON types, for the elements that there are."""
        present = np.flatnonzero(self.structures)
        return {
            "elements": [chemical_symbols[z + 1] for z in present],
            "structures": self.structures[present].tolist(),
            "products": self.products[np.ix_(present, present)].tolist(),
            "moments": self.moments[present].tolist(),
            "fractions": self.fractions[present].tolist(),
            "count": self.count,
            "total": self.total,
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> ReferenceStatistics:
        """The inverse of :meth:`to_mapping`."""
        n = len(chemical_symbols) - 1
        at = [atomic_numbers[symbol] - 1 for symbol in mapping["elements"]]
        structures, products = np.zeros(n, dtype=np.int64), np.zeros((n, n))
        structures[at] = mapping["structures"]
        products[np.ix_(at, at)] = np.reshape(mapping["products"], (len(at), len(at)))
        moments, fractions = (_spread(mapping[name], at, n) for name in ("moments", "fractions"))
        return cls(structures, products, moments, fractions, int(mapping["count"]), float(mapping["total"]))


def element_table(values: Mapping[str, float]) -> Floats:
    """(118,) what each element has, 0 where it has nothing: to be multiplied by compositions (S, 118)."""
    return np.array([values.get(symbol, 0.0) for symbol in chemical_symbols[1:]])


def _spread(values: Sequence[float], at: Sequence[int], n: int) -> Floats:
    spread = np.zeros(n)
    spread[at] = values
    return spread


def fit_reference_energies(
    composition: Floats, energies: Floats, *, ridge: float = 1e-3, min_structures: int = 1
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
    rare = (composition[labelled] > 0).sum(axis=0) < min_structures
    usable = labelled & ~(composition[:, rare] > 0).any(axis=1)
    if not usable.any():
        raise ValueError(
            f"no structure of {len(energies)} is labelled and made of elements in ≥{min_structures} structures"
        )
    return ReferenceStatistics.of(composition[usable], energies[usable]).fit(ridge)
