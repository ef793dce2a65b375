"""Conditions: what they select, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from gfmpot.inference.screening import Where
from gfmpot.inference.screening.tables import TYPES

COLUMNS = {
    "file": np.array(["a.cif", "a.cif", "b.cif", "b.cif"]),
    "index": np.arange(4),
    "formula": np.array(["MgO", "CaO", "H2O", "MgO"]),
    "natoms": np.array([2, 2, 3, 8]),
    "energy": np.array([-12.0, -10.0, -9.0, -48.0]),
    "energy_per_atom": np.array([-6.0, -5.0, -3.0, -6.0]),
    "max_force": np.array([0.0, 0.5, 1.5, 0.1]),
    "energy_std": np.array([0.01, np.nan, 0.2, np.nan]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("energy_per_atom < -3 and energy_std < 0.05", [0]),
        ("energy_per_atom < -3 or natoms == 3", [0, 1, 2, 3]),
        ("not energy_per_atom < -5", [1, 2]),
        ("energy_std != 0.01", [2]),  # what is undefined compares as false
        ("not energy_std < 0.05", [1, 2, 3]),
        ("2 < natoms <= 8", [2, 3]),
        ("formula == 'MgO' and file != 'b.cif'", [0]),
        ("formula in ['CaO', 'H2O']", [1, 2]),
        ("formula not in ('CaO', 'H2O')", [0, 3]),
        ("index in [0, 3]", [0, 3]),
        ("energy_std not in [0.2]", [0]),
        ("abs(energy / natoms + 5) < 0.1", [1]),
        ("energy ** 2 > 100 and -max_force > -0.2", [0, 3]),
        ("(natoms * 2 - 1) > 3 and (max_force + 1) >= 2.5", [2]),
        ("1 / (natoms - 2) > 0 ", [0, 1, 2, 3]),  # infinite, without a warning
        (" natoms > 9**9**9**9 ", []),  # nor endless
    ],
)
def test_selects(text: str, expected: list[int]) -> None:
    assert np.flatnonzero(Where(text, TYPES)(COLUMNS)).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("energy_per_atm < 3", "no column 'energy_per_atm'; did you mean 'energy_per_atom'?"),
        ("natoms", "'natoms' is neither true nor false"),
        ("natoms and energy < 3", "'natoms' is neither true nor false"),
        ("True", "'True' is neither true nor false"),
        ("natoms + 1", "neither true nor false"),
        ("energy = 3", "invalid syntax.*; it may have columns, numbers"),
        ("energy <", "invalid syntax"),
        ("", "invalid syntax"),
        ("energy < 3 & natoms > 2", r"cannot be used.*join conditions by 'and', 'or'"),
        ("(energy < 3) | (natoms > 2)", r"cannot be used.*join conditions by 'and', 'or'"),
        ("formula < 3", "'formula' and '3': one is a text, one is not"),
        ("formula * 2 == 'a'", "texts and numbers together"),
        ("formula in 'MgO'", r"'in' expects a list such as \['MgO', 'CaO'\], got \"'MgO'\""),
        ("formula in [1, 2]", "texts or numbers as what is looked for"),
        ("energy is 3", "not with 'is'"),
        ("__import__('os').system('true')", "cannot be used"),
        ("energy.__class__", "cannot be used"),
        ("[x for x in natoms]", "cannot be used"),
        ("natoms[0] == 1", "cannot be used"),
        ("open('x') == 1", "cannot be used"),
        ("abs(natoms, 1) == 1", "cannot be used"),
        ("(lambda: 1)() == 1", "cannot be used"),
        ("f'{natoms}' == 'a'", "cannot be used"),
        ("natoms == b'a'", "cannot be used"),
        ("(" * 300 + "natoms" + ")" * 300 + " > 1", "condition"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Where(text, TYPES)
