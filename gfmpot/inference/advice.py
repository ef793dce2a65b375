"""Warnings that point to the user's own line, not to one of ours or of the libraries between us."""

from __future__ import annotations

import sys
import warnings

BETWEEN = {"gfmpot", "ase", "torch_sim", "pymatgen", "matcalc"}
"""Packages whose lines a user cannot mend."""

FORCES_NOT_LEARNT = (
    "this model was trained on energies alone: its forces and stresses are derivatives that nobody has checked; relax "
    "and run dynamics with a model that has learnt forces"
)


def advise(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, from the nearest caller outside :data:`BETWEEN`; the outermost one if all of them are inside."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
