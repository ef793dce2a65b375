"""The units of a dataset's files as factors into eV and Å."""

from __future__ import annotations

from dataclasses import dataclass

from gfmpot.units import unit


@dataclass(frozen=True)
class Scale:
    """What stored numbers are multiplied with: eV, Å, eV/Å and eV/Å³ per unit."""

    energy: float = 1.0
    length: float = 1.0
    force: float = 1.0
    stress: float = 1.0

    @classmethod
    def of(cls, energy: str = "eV", length: str = "Å", force: str = "", stress: str = "") -> Scale:
        """From names; unless named, forces are in energy per length and stresses in energy per length³.

        Raises:
            ValueError: see :func:`gfmpot.units.unit`.
        """
        per_energy, per_length = unit(energy, "energy"), unit(length, "length")
        return cls(
            per_energy,
            per_length,
            unit(force, "force") if force else per_energy / per_length,
            unit(stress, "stress") if stress else per_energy / per_length**3,
        )


ASE_UNITS = Scale()
