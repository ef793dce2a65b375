"""From ``ase.Atoms`` with results to a :class:`Frame`; shared by all sources that are read with ASE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gfmpot.data.frame import Floats, Frame, Rejected
from gfmpot.data.sources._scale import ASE_UNITS, Scale
from gfmpot.data.split import SplitName
from gfmpot.graph.build import charge_and_spin

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Labels:
    """Under which names the labels are: in the calculator's results, else in ``atoms.info`` or ``atoms.arrays``."""

    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"

    def find(self, atoms: Atoms, label: str) -> Any:
        """The label's value, or None; ``label`` is ``energy``, ``forces`` or ``stress``."""
        name = getattr(self, label)
        for place in (atoms.calc.results if atoms.calc is not None else {}, atoms.info, atoms.arrays):
            if place.get(name) is not None:
                return place[name]
        return None


def frame_from_atoms(
    atoms: Atoms,
    group: str,
    *,
    split: SplitName | None = None,
    labels: Labels = Labels(),
    scale: Scale = ASE_UNITS,
) -> Frame:
    """The structure and labels of ``atoms``; what is not there is NaN, or 0 for charge and multiplicity.

    The energy is ``results["energy"]``. ASE's VASP readers put the extrapolation to zero smearing there and the energy
    that the forces are the gradient of in ``free_energy``; published datasets are trained on the former, which is why
    ``free_energy`` is taken only where ``energy`` is absent. Forces are those stored, before constraints. Charge and
    multiplicity are ``atoms.info["charge"]`` and ``["spin"]``.

    Args:
        atoms: with a calculator that holds results, as ``ase.io.read`` makes it.
        group: what must stay on one side of a split.
        split: the side on which the publishers put it.
        labels: names of the labels, where they are not ASE's.
        scale: units, where they are not ASE's.

    Raises:
        ValueError: charge, multiplicity, energy, forces or stress that are no numbers, or a stress of another shape.
    """
    charge, spin = charge_and_spin(atoms)
    energy, forces = labels.find(atoms, "energy"), labels.find(atoms, "forces")
    if energy is None and labels.energy == "energy":
        energy = Labels(energy="free_energy").find(atoms, "energy")
    stress = labels.find(atoms, "stress")
    return Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions=atoms.positions * scale.length,
        energy=np.nan if energy is None else scalar(energy, "energy") * scale.energy,
        forces=np.full((len(atoms), 3), np.nan) if forces is None else floats(forces, "forces") * scale.force,
        group=group,
        cell=atoms.cell.array * scale.length,
        pbc=atoms.pbc.copy(),
        stress=np.full(6, np.nan) if stress is None else voigt(stress) * scale.stress,
        charge=charge,
        spin=spin or 0,
        split=split,
    )


def frame_or_rejected(atoms: Atoms, group: str, where: str, **options: Any) -> Frame | Rejected:
    """As :func:`frame_from_atoms`, but what cannot be understood comes as :class:`Rejected` at ``where``."""
    try:
        return frame_from_atoms(atoms, group, **options)
    except ValueError as error:
        return Rejected(where, str(error))


def voigt(stress: Any) -> Floats:
    """A stress of 6, 9 or 3×3 numbers as (6,) in ASE's order xx, yy, zz, yz, xz, xy.

    Six numbers are taken to be in that order; of nine, the symmetric part is kept.

    Raises:
        ValueError: another shape.
    """
    values = floats(stress, "stress")
    if values.shape == (6,):
        return values
    if values.shape not in ((9,), (3, 3)):
        raise ValueError(f"expected a stress of 6, 9 or 3×3 numbers, got shape {values.shape}")
    full = values.reshape(3, 3)
    symmetric = (full + full.T) / 2
    return symmetric[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def floats(value: Any, name: str) -> Floats:
    """``value`` as float64.

    Raises:
        ValueError: not numbers; names the label.
    """
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not made of numbers: {str(value)[:60]!r}") from error


def scalar(value: Any, name: str) -> float:
    """``value``, which may be in an array of one element, as a number.

    Raises:
        ValueError: not one number; names the label.
    """
    values = floats(value, name)
    if values.size != 1:
        raise ValueError(f"expected one number as {name}, got shape {values.shape}")
    return float(values.reshape(()))
