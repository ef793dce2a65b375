"""Structures good and bad, and what a run made of them, for the tests of screening."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from ase import Atoms

from gfmpot.graph import graph_from_atoms
from gfmpot.inference import Predictor
from gfmpot.inference.screening import Relaxation

BAD = [
    Atoms("OH2", [[0, 0, 0], [0, 0, 1], [0, 0, 1.05]]),  # coincident
    Atoms("W"),  # unsupported
    Atoms("He", info={"charge": 0.5}),
    Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], info={"spin": 2}),
]


def many(candidates: list[Atoms], copies: int = 5) -> list[Atoms]:
    """Bad ones among the good ones, all different."""
    found: list[Atoms] = []
    for copy in range(copies):
        for i, atoms in enumerate(candidates):
            found.append(atoms.copy())
            found[-1].positions *= 1 + 0.001 * copy
            found += [bad.copy() for bad in BAD if (copy + i) % 6 == 0]
    return found


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "results.parquet").sort_values(["file", "index"], ignore_index=True)


def refused(folder: Path) -> list[dict]:
    lines = [line for path in sorted(folder.glob("quarantine/*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def expected(predictor: Predictor, atoms: Atoms) -> dict:
    (found,) = predictor(graph_from_atoms(atoms, cutoff=predictor.cutoff))
    return found


def halved(structures: Sequence[Atoms]) -> list[Relaxation | str]:
    """Stands for a relaxation: shakes less; fails for copper, and puts the atoms of methane on top of each other."""
    found: list[Relaxation | str] = []
    for steps, atoms in enumerate(structures):
        moved = atoms.copy()
        moved.positions *= 0 if "CH4" in str(atoms.symbols) else 1.01
        found.append("copper melts" if 29 in atoms.numbers else Relaxation(moved, steps, steps % 2 == 0))
    return found
