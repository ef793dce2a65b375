"""Units of gfmpot (eV, Å, elementary charge, eV/Å³) and the conversions into them.

Values are CODATA 2018, as in ``ase.units`` (``__codata_version__ = '2018'`` differs from ASE's default 2014 set in
the ninth digit), so that converting a dataset here or with a published script agrees to rounding.
"""

from __future__ import annotations

import difflib
import re
from typing import Literal

HARTREE = 27.211386245988
"""eV"""

BOHR = 0.529177210903
"""Å"""

COULOMB = HARTREE * BOHR
"""eV Å, of two elementary charges."""

KCAL_PER_MOL = 0.04336410424180094
"""eV"""

KJ_PER_MOL = KCAL_PER_MOL / 4.184
"""eV"""

GPA = 1.0 / 160.21766339999998
"""eV/Å³"""

KBAR = 0.1 * GPA
"""eV/Å³"""

ELECTRONVOLT = 1.0
ANGSTROM = 1.0

Kind = Literal["energy", "length", "force", "stress"]

_ENERGY = {
    "eV": ELECTRONVOLT,
    "meV": 1e-3 * ELECTRONVOLT,
    "Hartree": HARTREE,
    "Ha": HARTREE,
    "mHa": 1e-3 * HARTREE,
    "Ry": 0.5 * HARTREE,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL,
}
_LENGTH = {"Å": ANGSTROM, "A": ANGSTROM, "Ang": ANGSTROM, "Angstrom": ANGSTROM, "Bohr": BOHR, "nm": 10.0 * ANGSTROM}
_STRESS = {"GPa": GPA, "kBar": KBAR, "bar": 1e-3 * KBAR, "Pa": 1e-9 * GPA}


def unit(name: str, kind: Kind) -> float:
    """The unit called ``name`` in eV and Å: eV, Å, eV/Å or eV/Å³ per unit.

    Forces are an energy per length ("Hartree/Bohr"), stresses an energy per cubed length ("eV/Å^3") or a pressure
    ("GPa"). Upper and lower case count alike.

    Raises:
        ValueError: no such unit, or one of another kind, e.g. "Bohr" for an energy.
    """
    if kind == "energy":
        return _named(name, _ENERGY, kind)
    if kind == "length":
        return _named(name, _LENGTH, kind)
    exponent = {"force": "", "stress": r"(?:\^3|\*\*3|3|³)"}[kind]
    quotient = re.fullmatch(rf"(.+)/([^/]+?){exponent}", name.strip())
    if quotient is None and kind == "stress":
        return _named(name, _STRESS, kind)
    if quotient is None:
        raise ValueError(f"{name!r} is no unit of force; expected an energy per length, e.g. eV/Å or Hartree/Bohr")
    length = _named(quotient[2], _LENGTH, "length")
    return _named(quotient[1], _ENERGY, "energy") / (length if kind == "force" else length**3)


def _named(name: str, table: dict[str, float], kind: Kind) -> float:
    by_lower_case = {known.lower(): known for known in table}
    known = by_lower_case.get(name.strip().lower())
    if known is not None:
        return table[known]
    close = difflib.get_close_matches(name.strip().lower(), by_lower_case, n=1, cutoff=0.6)
    hint = f"did you mean {by_lower_case[close[0]]!r}?" if close else f"known: {', '.join(table)}"
    raise ValueError(f"{name!r} is no unit of {kind}; {hint}")
