"""Frames of extended XYZ without ASE: the same as with it, or left to it."""

from __future__ import annotations

from io import StringIO

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io.extxyz import read_xyz, write_xyz

from gfmpot.inference.screening.plain_extxyz import plain_frame


def text_of(atoms: Atoms, **options: object) -> str:
    file = StringIO()
    write_xyz(file, atoms, **options)
    return file.getvalue()


def assert_as_ase(text: str) -> None:
    found, expected = plain_frame(text, 0, None), next(read_xyz(StringIO(text), 0))
    assert found is not None
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.cell, expected.cell.array)
    np.testing.assert_array_equal(found.pbc, expected.pbc)
    assert found.pbc.dtype == bool
    assert found.charge == expected.info.get("charge", 0)
    assert found.spin == expected.info.get("spin", 0)


def labelled(atoms: Atoms) -> Atoms:
    results = {"energy": -1.5, "forces": np.ones((len(atoms), 3)), "stress": np.arange(6.0)}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def constrained(atoms: Atoms) -> Atoms:
    atoms.set_constraint(FixAtoms([0]))
    return atoms


def informed(atoms: Atoms, **info: object) -> Atoms:
    atoms.info |= info
    return atoms


WRITTEN = {
    "crystal": bulk("MgO", "rocksalt", 4.2),
    "triclinic": Atoms("Cu", cell=[[3, 0.1, 0], [0.2, 3, 0.3], [0, -0.4, 3]], pbc=True),
    "molecule": molecule("CH3CH2OH"),
    "slab": Atoms("Cu", cell=[3, 3, 0], pbc=(True, True, False)),
    "box without periodicity": Atoms("Cu", cell=[9, 9, 9]),
    "labels": labelled(bulk("Cu")),
    "constraints": constrained(molecule("H2O")),
    "charge and spin": informed(molecule("NH3"), charge=1, spin=2),
    "negative charge": informed(molecule("NH3"), charge=-1),
    "other entries": informed(molecule("H2O"), name="water", hot=True, temperature=300.5, path="a/b.cif"),
    "many atoms": bulk("MgO", "rocksalt", 4.2, cubic=True) * (3, 3, 3),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_as_ase_writes_them(name: str) -> None:
    assert_as_ase(text_of(WRITTEN[name]))


@pytest.mark.parametrize(
    "header",
    [
        "Properties=species:S:1:pos:R:3",
        'pbc="T F T" Properties=species:S:1:pos:R:3 Lattice="3 0 0 0 3 0 0 0 3"',
        '  Lattice="3 0 0 0 3 0 0 0 3"   Properties=species:S:1:pos:R:3  ',
        'Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 config_type="a b"',
        "Properties=species:S:1:pos:R:3 charge=1 charge=2",
        "Properties=species:S:1:pos:R:3 charge=+1",
    ],
)
def test_in_other_ways(header: str) -> None:
    assert_as_ase(f"2\n{header}\nCu 0 0 0 1 2 3\nO 1.5e0 -2. +3 1 2 3\n")


def test_defaults_hold_where_nothing_is_stated() -> None:
    neutral = plain_frame(text_of(molecule("H2O")), -1, 2)
    assert neutral is not None
    assert (neutral.charge, neutral.spin) == (-1, 2)
    stated = plain_frame(text_of(informed(molecule("H2O"), charge=0, spin=1)), -1, 2)
    assert stated is not None
    assert (stated.charge, stated.spin) == (0, 1)


@pytest.mark.parametrize(
    ("header", "atom"),
    [
        ("a comment", "Cu 0 0 0"),
        ("", "Cu 0 0 0"),
        ("Properties=pos:R:3:species:S:1", "0 0 0 Cu"),
        ("Properties=species:S:1:pos:R:3 note={a}", "Cu 0 0 0"),
        ("Properties=species:S:1:pos:R:3 note=[1,2]", "Cu 0 0 0"),
        ('Properties=species:S:1:pos:R:3 "two words"=3', "Cu 0 0 0"),
        ("Properties=species:S:1:pos:R:3 alone", "Cu 0 0 0"),
        ("Properties=species:S:1:pos:R:3 charge=0.5", "Cu 0 0 0"),
        ("Properties=species:S:1:pos:R:3 charge=one", "Cu 0 0 0"),
        ('Properties=species:S:1:pos:R:3 pbc="1 1 1"', "Cu 0 0 0"),
        ('Properties=species:S:1:pos:R:3 Lattice="3 3 3"', "Cu 0 0 0"),
        ('Properties=species:S:1:pos:R:3 Lattice="a b c d e f g h i"', "Cu 0 0 0"),
        ("Properties=species:S:1:pos:R:3", "Qq 0 0 0"),
        ("Properties=species:S:1:pos:R:3", "29 0 0 0"),
        ("Properties=species:S:1:pos:R:3", "Cu 0 0"),
        ("Properties=species:S:1:pos:R:3", "Cu 0 0 x"),
        ("Properties=species:S:1:pos:R:30", "Cu 0 0 0"),
        ("Properties=species:S:1:pos:R:3 a='b'", "Cu 0 0 0"),
    ],
)
def test_left_to_ase(header: str, atom: str) -> None:
    assert plain_frame(f"1\n{header}\n{atom}\n", 0, None) is None


def test_a_frame_that_is_cut_off_is_left_to_ase() -> None:
    text = text_of(molecule("H2O"))
    assert plain_frame(text, 0, None) is not None
    assert plain_frame("".join(text.splitlines(keepends=True)[:-1]), 0, None) is None


@pytest.mark.parametrize(
    "text", ["", "3", "3\n", "Cu\nProperties=species:S:1:pos:R:3\n", "1\nProperties=species:S:1:pos:R:3"]
)
def test_what_is_cut_off_is_left_to_ase(text: str) -> None:
    assert plain_frame(text, 0, None) is None
