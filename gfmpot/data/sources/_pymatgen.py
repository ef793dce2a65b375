"""Structures as ``pymatgen.core.Structure.as_dict()`` writes them into JSON, without building pymatgen objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Floats, Frame
from gfmpot.data.sources._ase import floats, scalar, voigt
from gfmpot.units import KBAR


def crystal(structure: Any, energy: Any, forces: Any, stress: Any, group: str) -> Frame:
    """A periodic structure of n sites with labels from VASP; what is None is not labelled.

    Args:
        structure: with ``lattice.matrix`` in Å and ``sites``, each with ``species`` and fractional coordinates ``abc``.
        energy: eV.
        forces: (n, 3) eV/Å.
        stress: (3, 3) kbar in VASP's sign, positive under compression; ASE's is the opposite.
        group: what must stay on one side of a split.

    Raises:
        ValueError: something is missing or ill-formed, or a site is disordered.
    """
    try:
        matrix = floats(structure["lattice"]["matrix"], "lattice.matrix")
        fractional = floats([site["abc"] for site in structure["sites"]], "abc").reshape(-1, 3)
        numbers = _numbers(structure["sites"])
        periodic = structure["lattice"].get("pbc", (True, True, True))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"expected a pymatgen structure with a lattice and sites, but {reason(error)}") from error
    labels = _forces(forces, len(numbers))
    if matrix.shape != (3, 3) or labels.shape != fractional.shape:
        raise ValueError(
            f"expected a lattice (3, 3) and forces ({len(numbers)}, 3) for {len(numbers)} sites, "
            f"got {matrix.shape} and {labels.shape}"
        )
    return Frame(
        numbers=numbers,
        positions=fractional @ matrix,
        energy=np.nan if energy is None else scalar(energy, "energy"),
        forces=labels,
        group=group,
        cell=matrix,
        pbc=np.asarray(periodic, dtype=bool),
        stress=np.full(6, np.nan) if stress is None else -KBAR * voigt(stress),
    )


def reason(error: Exception) -> str:
    """Why a record was refused, in words: a key that is missing, or what the error says."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _forces(forces: Any, sites: int) -> Floats:
    return np.full((sites, 3), np.nan) if forces is None else floats(forces, "forces")


def _numbers(sites: Any) -> NDArray[np.int64]:
    from ase.data import atomic_numbers

    numbers = []
    for i, site in enumerate(sites):
        (species, *others) = site["species"]
        if others or species.get("occu", 1) != 1:
            raise ValueError(f"site {i} is disordered: {site['species']}")
        if species["element"] not in atomic_numbers:
            raise ValueError(f"site {i}: no element {species['element']!r}")
        numbers.append(atomic_numbers[species["element"]])
    return np.array(numbers, dtype=np.int64)
