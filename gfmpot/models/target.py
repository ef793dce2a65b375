"""What a model answers with: a property, its unit, and how it follows from the atoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["energy", "extensive", "intensive", "class"]
Pooling = Literal["mean", "attention"]

RESERVED = ("unit", "file", "frame", "formula", "natoms")
"""Names that answers and tables of results have beside that of the property."""


@dataclass(frozen=True)
class Target:
    """A property of structures.

    Kinds:

    - ``energy``: of the potential energy surface, with forces; a :class:`gfmpot.models.Potential` answers.
    - ``extensive``: a sum over the atoms, twice as large for two copies far apart; e.g. a zero-point energy.
    - ``intensive``: the same for a cell and its supercell; e.g. a band gap, or an energy per atom.
    - ``class``: whether something is the case; the answer is its probability. E.g. being a metal.
    """

    name: str
    """Key of answers and column of tables, e.g. ``band_gap``."""

    unit: str
    """E.g. ``eV``; empty for classes, and for numbers that have none."""

    kind: Kind
    pooling: Pooling = "mean"
    """How atoms are joined in an intensive property or a class: all alike, or with weights that are learnt. What is
    decided by a few atoms (a defect, a functional group) asks for ``attention``."""

    def __post_init__(self) -> None:
        if not self.name or self.name in RESERVED:
            raise ValueError(f"target: got the name {self.name!r}, expected one that is not {', '.join(RESERVED)}")
        if self.is_class and self.unit:
            raise ValueError(f"target {self.name}: a class has no unit, got {self.unit!r}; use ''")
        if self.pooling != "mean" and self.kind in ("energy", "extensive"):
            raise ValueError(
                f"target {self.name}: {self.kind} is a sum over atoms, which needs no pooling; leave it out"
            )

    @property
    def is_class(self) -> bool:
        """Whether answers are probabilities."""
        return self.kind == "class"
