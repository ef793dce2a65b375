"""The package as a whole: layout, import time, side effects, layering."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_packages_listed_are_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [path.parent for path in (ROOT / "gfmpot").rglob("__init__.py")]
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"gfmpot.calculators", "gfmpot.recipes"}
    assert set(listed) == found


def test_import_is_light() -> None:
    out = run(
        "import sys, time; t = time.perf_counter(); import gfmpot; t = time.perf_counter() - t\n"
        "print(t, *(m for m in ('torch', 'numpy', 'ase', 'pymatgen', 'torch_geometric') if m in sys.modules))"
    )
    seconds, *heavy = out.split()
    assert heavy == []
    assert float(seconds) < 0.5


def test_calculator_path_needs_neither_pyg_nor_pymatgen() -> None:
    out = run(
        "import sys; from ase.build import bulk; from gfmpot import GFMCalculator\n"
        "atoms = bulk('Cu'); atoms.calc = GFMCalculator(); atoms.get_forces()\n"
        "print(*(m for m in ('pymatgen', 'torch_geometric', 'matplotlib', 'rich') if m in sys.modules))"
    )
    assert out.split() == []


def test_use_has_no_side_effects() -> None:
    out = run(
        "import torch, warnings, multiprocessing as mp; from ase.calculators.calculator import BaseCalculator\n"
        "before = (list(BaseCalculator.implemented_properties), torch.get_default_dtype(), mp.get_start_method(True))\n"
        "state = torch.random.get_rng_state(); threads = torch.get_num_threads()\n"
        "import gfmpot; from ase.build import bulk; atoms = bulk('Cu'); atoms.calc = gfmpot.GFMCalculator()\n"
        "atoms.get_forces(); info = dict(atoms.info)\n"
        "after = (list(BaseCalculator.implemented_properties), torch.get_default_dtype(), mp.get_start_method(True))\n"
        "print(before == after, torch.equal(state, torch.random.get_rng_state()),"
        " threads == torch.get_num_threads(), info == {})"
    )
    assert out.split() == ["True"] * 4


def test_wrong_way_in() -> None:
    with pytest.raises(ImportError, match=r"import gfmpot\.calculators"):
        __import__("importlib").import_module("calculators")


def test_unknown_public_name() -> None:
    import gfmpot

    with pytest.raises(AttributeError, match="it offers"):
        _ = gfmpot.GFMCalculater
    assert set(dir(gfmpot)) == set(gfmpot.__all__)
