"""Constants against ASE's, and units by name."""

from __future__ import annotations

import pytest
from ase.units import create_units

from gfmpot import units
from gfmpot.units import unit


def test_constants_are_codata_2018() -> None:
    ase = create_units("2018")
    ours = (units.HARTREE, units.BOHR, units.KCAL_PER_MOL, units.KJ_PER_MOL, units.GPA)
    theirs = (ase["Hartree"], ase["Bohr"], ase["kcal"] / ase["mol"], ase["kJ"] / ase["mol"], ase["GPa"])
    assert ours == pytest.approx(theirs, rel=1e-10)


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("eV", "energy", 1.0),
        ("hartree", "energy", units.HARTREE),
        (" kcal/mol ", "energy", units.KCAL_PER_MOL),
        ("Angstrom", "length", 1.0),
        ("bohr", "length", units.BOHR),
        ("Hartree/Bohr", "force", units.HARTREE / units.BOHR),
        ("kcal/mol/Å", "force", units.KCAL_PER_MOL),
        ("GPa", "stress", units.GPA),
        ("kbar", "stress", units.KBAR),
        ("eV/Å^3", "stress", 1.0),
        ("eV/A3", "stress", 1.0),
        ("Hartree/Bohr³", "stress", units.HARTREE / units.BOHR**3),
    ],
)
def test_named_units(name: str, kind: units.Kind, value: float) -> None:
    assert unit(name, kind) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("hartre", "energy", "'hartre' is no unit of energy; did you mean 'Hartree'"),
        ("Å", "energy", "'Å' is no unit of energy; known: eV"),
        ("eV", "length", "no unit of length"),
        ("eV", "force", "no unit of force; expected an energy per length"),
        ("eV/eV", "force", "no unit of length"),
        ("eV/Å", "stress", "no unit of stress"),
        ("Gpaa", "stress", "did you mean 'GPa'"),
    ],
)
def test_unknown_units(name: str, kind: units.Kind, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unit(name, kind)
