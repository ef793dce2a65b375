"""What sources of isolated molecules share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.frame import Frame, Rejected
from gfmpot.data.sources._ase import floats, scalar
from gfmpot.data.sources._scale import ASE_UNITS, Scale
from gfmpot.data.split import SplitName


def molecule(
    where: str,
    numbers: Any,
    positions: Any,
    energy: Any,
    forces: Any,
    *,
    group: str,
    scale: Scale = ASE_UNITS,
    charge: int = 0,
    spin: int = 0,
    split: SplitName | None = None,
) -> Frame | Rejected:
    """One molecule of n atoms in vacuum; arrays that do not fit together come as :class:`Rejected` at ``where``.

    Args:
        where: file and record, for the message.
        numbers: (n,) atomic numbers.
        positions: (n, 3) in the file's unit.
        energy: one number.
        forces: (n, 3).
        group: what must stay on one side of a split.
        scale: the file's units.
        charge: in elementary charges.
        spin: multiplicity, 0 if the file does not state it.
        split: the publishers' side.
    """
    try:
        z, xyz, f = np.asarray(numbers), floats(positions, "positions"), floats(forces, "forces")
        total = scalar(energy, "energy")
    except ValueError as error:
        return Rejected(where, str(error))
    n = len(z)
    if z.shape != (n,) or xyz.shape != (n, 3) or f.shape != (n, 3):
        return Rejected(
            where,
            f"expected positions and forces ({n}, 3) for {n} atomic numbers, got {xyz.shape} and {f.shape}",
        )
    return Frame(
        numbers=z.astype(np.int64),
        positions=xyz * scale.length,
        energy=total * scale.energy,
        forces=f * scale.force,
        group=group,
        charge=charge,
        spin=spin,
        split=split,
    )


def formula(numbers: NDArray[Any]) -> str:
    """Sum formula in Hill's order, e.g. C2H6O: the group that a molecule has in every dataset grouped by formula."""
    from ase.data import chemical_symbols

    counts = np.bincount(numbers)
    found = {chemical_symbols[z]: int(counts[z]) for z in np.flatnonzero(counts)}
    first = ("C", "H") if "C" in found else ()
    order = [symbol for symbol in first if symbol in found] + sorted(set(found) - set(first))
    return "".join(symbol + (str(found[symbol]) if found[symbol] > 1 else "") for symbol in order)
