"""Interfaces to ASE and pymatgen."""

if __name__ != "gfmpot.calculators":
    raise ImportError("import gfmpot.calculators, not calculators")

import importlib
from typing import TYPE_CHECKING, Any

from gfmpot.calculators.ase import GFMCalculator

if TYPE_CHECKING:
    from gfmpot.calculators.pymatgen import GFMPotential, Relaxation

__all__ = ["GFMCalculator", "GFMPotential", "Relaxation"]


def __getattr__(name: str) -> Any:
    """pymatgen takes a second to import; ASE users do not wait for it."""
    if name in ("GFMPotential", "Relaxation"):
        return getattr(importlib.import_module("gfmpot.calculators.pymatgen"), name)
    raise AttributeError(f"module 'gfmpot.calculators' has no attribute {name!r}")
