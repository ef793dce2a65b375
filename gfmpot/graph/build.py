"""From arrays or ``ase.Atoms`` to a checked :class:`AtomGraph`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gfmpot.graph.atom_graph import MAX_ATOMIC_NUMBER, UNSPECIFIED_SPIN, AtomGraph
from gfmpot.graph.neighbours import FloatArray, NeighbourList, nearest_only, neighbour_list

if TYPE_CHECKING:
    from ase import Atoms

COINCIDENT = 0.1
"""Å: closer atoms are taken for a mistake in the input."""

FARTHEST = 1e5
"""Å: no structure is longer; what seems so is a mistake, which would end the search for neighbours with a crash."""

NeighbourSearch = Callable[[FloatArray, FloatArray, NDArray[np.bool_]], NeighbourList]


class InvalidStructureError(ValueError):
    """A structure that no potential can answer for; the message names the atom and the mend."""


def build_graph(
    numbers: ArrayLike,
    positions: ArrayLike,
    cell: ArrayLike | None = None,
    pbc: ArrayLike = False,
    *,
    cutoff: float,
    charge: int = 0,
    spin: int | None = None,
    max_neighbours: int | None = None,
    search: NeighbourSearch | None = None,
) -> AtomGraph:
    """Check a structure, find its neighbours and return its graph.

    Args:
        numbers: (n,) atomic numbers.
        positions: (n, 3) Å.
        cell: (3, 3) Å, rows are lattice vectors, or None.
        pbc: one flag or three.
        cutoff: Å.
        charge: total charge in elementary charges.
        spin: multiplicity 2S+1, or None when it is not stated.
        max_neighbours: keep only so many nearest neighbours per atom (the paper's 20); None keeps all.
        search: what finds the neighbours, e.g. a :class:`VerletList`; by default a fresh list.

    Raises:
        InvalidStructureError: empty structure, unknown element, NaN or infinite coordinates, atoms closer than
            0.1 Å, a zero vector in a periodic direction, or a multiplicity that the electron count forbids.
    """
    z, xyz, box, periodic = checked(numbers, positions, cell, pbc, charge, spin)
    edges = _find_neighbours(search, xyz, box, periodic, cutoff)
    check_contacts(z, edges)
    if max_neighbours is not None:
        edges = nearest_only(edges, max_neighbours)
    return AtomGraph(
        positions=torch.from_numpy(xyz.copy()),
        atomic_numbers=torch.from_numpy(z.copy()),
        cell=torch.from_numpy(box.copy()).unsqueeze(0),
        pbc=torch.from_numpy(periodic).unsqueeze(0),
        edge_index=torch.from_numpy(edges.edge_index),
        cell_shifts=torch.from_numpy(edges.cell_shifts),
        structure_of_atom=torch.zeros(len(z), dtype=torch.int64),
        charge=torch.tensor([charge]),
        spin=torch.tensor([UNSPECIFIED_SPIN if spin is None else spin]),
    )


def checked(
    numbers: ArrayLike, positions: ArrayLike, cell: ArrayLike | None, pbc: ArrayLike, charge: int, spin: int | None
) -> tuple[NDArray[np.int64], FloatArray, FloatArray, NDArray[np.bool_]]:
    """Numbers (n,), positions (n, 3), cell (3, 3) and periodicity (3,) of a structure, checked but for its contacts.

    Arguments and errors are those of :func:`build_graph`.
    """
    z = _atomic_numbers(numbers)
    xyz = np.ascontiguousarray(positions, dtype=np.float64)
    box = np.zeros((3, 3)) if cell is None else np.ascontiguousarray(cell, dtype=np.float64)
    periodic = np.broadcast_to(np.asarray(pbc, dtype=bool), (3,)).copy()
    _check_atoms(z, xyz, box)
    check_extent(xyz, box, periodic)
    _check_spin(z, charge, spin)
    return z, xyz, box, periodic


def graph_from_atoms(
    atoms: Atoms, *, cutoff: float, charge: int = 0, spin: int | None = None, **options: Any
) -> AtomGraph:
    """The graph of ``ase.Atoms``; ``atoms.info["charge"]`` and ``["spin"]`` take precedence over the arguments.

    ``options`` and errors are those of :func:`build_graph`. ``atoms`` is not changed.
    """
    charge, spin = charge_and_spin(atoms, charge, spin)
    return build_graph(
        atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, cutoff=cutoff, charge=charge, spin=spin, **options
    )


def charge_and_spin(atoms: Atoms, charge: int = 0, spin: int | None = None) -> tuple[int, int | None]:
    """Total charge and multiplicity of ``atoms``: those in ``atoms.info``, else the defaults given.

    Raises:
        InvalidStructureError: a value in ``atoms.info`` that is not a whole number.
    """
    charge_value = atoms.info.get("charge", charge)
    spin_value = atoms.info.get("spin", spin)
    return whole(charge_value, "charge"), None if spin_value is None else whole(spin_value, "spin")


def whole(value: Any, name: str) -> int:
    """A charge or multiplicity as an integer.

    Raises:
        InvalidStructureError: it is none; the message has ``name``.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not number.is_integer():
        raise InvalidStructureError(f"{name} must be a whole number, got {value!r}")
    return int(number)


def _atomic_numbers(numbers: ArrayLike) -> NDArray[np.int64]:
    given = np.asarray(numbers)
    z = given.astype(np.int64, copy=False)
    if z is not given and (z != given).any():
        raise InvalidStructureError(f"atomic numbers must be whole, got {given[z != given][0]}")
    return z


def _check_atoms(z: NDArray[np.int64], xyz: FloatArray, box: FloatArray) -> None:
    if len(z) == 0:
        raise InvalidStructureError("the structure has no atoms")
    if xyz.shape != (len(z), 3) or box.shape != (3, 3):
        raise InvalidStructureError(
            f"expected positions ({len(z)}, 3) for {len(z)} atoms and cell (3, 3), got {xyz.shape} and {box.shape}"
        )
    unknown = (z < 1) | (z > MAX_ATOMIC_NUMBER)
    if unknown.any():
        i = unknown.argmax()
        raise InvalidStructureError(
            f"atom {i} has atomic number {z[i]}, which is no element (1 to {MAX_ATOMIC_NUMBER})"
        )
    finite = np.isfinite(xyz)
    if not finite.all():
        bad = finite.all(axis=1).argmin()
        raise InvalidStructureError(f"atom {bad} has a position that is not finite: {xyz[bad].tolist()}")
    if not np.isfinite(box).all():
        raise InvalidStructureError(f"the cell is not finite: {box.tolist()}")


def check_extent(xyz: FloatArray, box: FloatArray, periodic: NDArray[np.bool_]) -> None:
    """Refuse what would end the search for neighbours with a crash.

    Raises:
        InvalidStructureError: a cell vector, or a distance along a direction that is not periodic, beyond all reason.
    """
    longest = float(np.abs(box).max())
    spread = 0.0 if periodic.all() else float(np.ptp(xyz, axis=0).max())
    if max(longest, spread) > FARTHEST:
        what = f"a cell vector of {longest:.3g} Å" if longest > FARTHEST else f"atoms {spread:.3g} Å apart"
        raise InvalidStructureError(f"{what}: expected at most {FARTHEST:g} Å; check units and stray atoms")


def _check_spin(z: NDArray[np.int64], charge: int, spin: int | None) -> None:
    electrons = int(z.sum()) - charge
    if electrons < 0:
        raise InvalidStructureError(f"charge {charge:+d} removes more electrons than the {z.sum()} there are")
    if spin is None:
        return
    if spin < 1 or spin > electrons + 1 or (electrons + spin) % 2 == 0:
        parity = "odd" if electrons % 2 == 0 else "even"
        raise InvalidStructureError(
            f"multiplicity {spin} is impossible with {electrons} electrons: it must be {parity}, at least 1 and "
            f"at most {electrons + 1} (or None for unspecified)"
        )


def _find_neighbours(
    search: NeighbourSearch | None, xyz: FloatArray, box: FloatArray, pbc: NDArray[np.bool_], cutoff: float
) -> NeighbourList:
    try:
        return search(xyz, box, pbc) if search else neighbour_list(xyz, box, pbc, cutoff)
    except ValueError as error:
        raise InvalidStructureError(str(error)) from error


def check_contacts(z: NDArray[np.int64], edges: NeighbourList) -> None:
    """Refuse atoms on top of each other.

    Raises:
        InvalidStructureError: names the closest two.
    """
    if len(edges.distances) == 0 or edges.distances.min() >= COINCIDENT:
        return
    closest = int(edges.distances.argmin())
    i, j = sorted(edges.edge_index[:, closest].tolist())
    raise InvalidStructureError(
        f"atoms {i} (Z={z[i]}) and {j} (Z={z[j]}) are {edges.distances[closest]:.3g} Å apart; closer than "
        f"{COINCIDENT} Å is taken for a mistake: remove duplicates or check the cell and its units"
    )
