"""gfmpot: interatomic potentials from multi-branch graph foundation models.

The public names below load on first use, so that ``import gfmpot`` stays fast and free of side effects.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gfmpot.calculators import GFMCalculator, GFMPotential
    from gfmpot.graph import AtomGraph
    from gfmpot.models import Potential, load

__version__ = "0.1.0"

_HOME = {
    "AtomGraph": "gfmpot.graph",
    "GFMCalculator": "gfmpot.calculators",
    "GFMPotential": "gfmpot.calculators",
    "Potential": "gfmpot.models",
    "load": "gfmpot.models",
}
__all__ = ["AtomGraph", "GFMCalculator", "GFMPotential", "Potential", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gfmpot' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
