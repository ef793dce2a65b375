"""Units of gfmpot (eV, Å, elementary charge, eV/Å³) and the conversions into them.

Values are CODATA 2018, as in ``ase.units`` (``__codata_version__ = '2018'`` differs from ASE's default 2014 set in
the ninth digit), so that converting a dataset here or with a published script agrees to rounding.
"""

from __future__ import annotations

HARTREE = 27.211386245988
"""eV"""

BOHR = 0.529177210903
"""Å"""

KCAL_PER_MOL = 0.0433641153087705
"""eV"""

KJ_PER_MOL = KCAL_PER_MOL / 4.184
"""eV"""

GPA = 1.0 / 160.21766339999998
"""eV/Å³"""

KBAR = 0.1 * GPA
"""eV/Å³"""

ELECTRONVOLT = 1.0
ANGSTROM = 1.0
