"""Do pairs of atoms behave: smooth curves, forces that belong to the energy, repulsion at short range?

python benchmarks/diatomics.py [--model default] [--head NAME] [--json FILE] [--plot FILE.png]
    [--reference diatomics_pbe.npz] [--elements H C N O ...] [--step 0.01] [--precision fp32] [--threads 1]

Two atoms of every element that the model (or head) covers, and pairs of common elements, in one batch per pair from
0.35 to 2.5 times the sum s of their covalent radii (ase.data), in steps of h. E is the energy above that of the atoms
beyond the cutoff of each other, F the force along the axis, positive where it repels. For each pair (MLIP Arena,
arXiv:2509.20630; Matbench Discovery):

tortuosity     Σ|ΔE| / (|E(r_first) - min E| + |E(r_last) - min E|): 1 straight down and up again
energy_jump    Σ (|ΔE_i| + |ΔE_i+1|) over the turns of E, sign ΔE_i ≠ sign ΔE_i+1, eV; O(h²) for smooth minima
force_flips    changes of the sign of F beyond one
conservation   max_i |E_i+1 - E_i + ∫F dr| / (max(|F_i|, |F_i+1|) h + 10 meV) with a cubic spline through F
lowest_force   least F at 0.35 to 0.6 s, eV/Å; the pair is repulsive if it is positive
well           prominence of the deepest minimum of E below 0.75 s, eV: the lower one of its two walls; 0 without any
largest_force  max |F|, eV/Å
bond, depth    Å where E is lowest, and eV from there to separated atoms

Steps of the energy below 1e-4 eV and forces below 0.01 eV/Å have no sign; a minimum less deep than 1 meV is no well. A
pair is smooth if it has no flips, energy_jump ≤ 0.1 eV and conservation ≤ 0.02.

A packed file of curves as --reference adds energy_mae and force_mae (eV, eV/Å, where both have points) and errors of
bond and depth; the zero of a reference is its farthest point. Then short range, 0.6 and 0.75 s, ends at 0.9 of the
reference's bond where that is shorter: V2, Cr2 or U2 have bonds of 0.6 s, which are no spurious wells.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from common import environment, write
from diatomics_measures import Curve, Pair, covalent_sum, measures, read_reference

from gfmpot.graph.joint import join, search
from gfmpot.inference import Predictor

COMMON = ("H", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ti", "Fe", "Cu", "Zn")
FIRST, LAST = 0.35, 2.5
COLUMNS = ("tortuosity", "energy_jump", "force_flips", "conservation", "lowest_force", "well", "largest_force")
ERRORS = ("energy_mae", "force_mae", "bond_error", "depth_error")
VERDICTS = {"is_repulsive": "repulsive", "is_smooth": "smooth", "has_no_well": "without wells"}


def pairs_of(predictor: Predictor, elements: Sequence[str] | None) -> list[Pair]:
    """Every covered element with itself, then the common ones with each other, by atomic number.

    Raises:
        ValueError: an element that is asked for but not covered.
    """
    branches = [b for b in predictor.potential.branches if predictor.head in (None, b.name)]
    covered = {frozenset(pair) for b in branches for pair in [*((s,) for s in b.e0), *combinations(b.e0, 2)]}
    known = sorted({symbol for pair in covered for symbol in pair}, key=lambda symbol: atomic_numbers[symbol])
    if lost := set(elements or ()) - set(known):
        raise ValueError(f"{', '.join(sorted(lost))}: not covered; the model or head has {' '.join(known)}")
    chosen = [symbol for symbol in known if not elements or symbol in elements]
    mixed = combinations([symbol for symbol in chosen if elements or symbol in COMMON], 2)
    return [*((symbol, symbol) for symbol in chosen), *(pair for pair in mixed if frozenset(pair) in covered)]


def curve_of(predictor: Predictor, pair: Pair, step: float) -> Curve:
    """The pair at all distances in one batch, whose last structure is the separated atoms."""
    s = covalent_sum(pair)
    distance = np.append(np.arange(FIRST * s, LAST * s, step), predictor.cutoff + 1)
    numbers = [atomic_numbers[symbol] for symbol in pair]
    structures = [search(numbers, [[0, 0, 0], [r, 0, 0]], cutoff=predictor.cutoff) for r in distance]
    graph, problems = join(structures, predictor.cutoff, predictor.max_neighbours)
    assert graph is not None, problems
    results = predictor(graph)
    energy = np.array([each["energy"] for each in results])
    force = np.array([each["forces"][1, 0] for each in results])
    return Curve(distance[:-1], energy[:-1] - energy[-1], force[:-1])


def curves_of(predictor: Predictor, pairs: Sequence[Pair], step: float) -> Iterator[tuple[Pair, Curve]]:
    """Curve by curve, and what does not work is said."""
    for pair in pairs:
        try:
            yield pair, curve_of(predictor, pair, step)
        except ValueError as error:
            print(f"{'-'.join(pair)}: {error}")


def show(rows: Mapping[Pair, Mapping[str, Any]], kind: str) -> None:
    """Medians (of sizes, where errors have a sign), the ten worst pairs, and how many are good."""
    if not rows:
        return
    names = [name for name in (*COLUMNS, *ERRORS) if any(name in row for row in rows.values())]
    print(f"\n{len(rows)} {kind}\n{'':10}" + "".join(f"{name:>15}" for name in names))
    values = {name: np.array([row.get(name, np.nan) for row in rows.values()], dtype=float) for name in names}
    _line("median", {name: np.nanmedian(np.abs(v) if name in ERRORS else v) for name, v in values.items()})
    worst = sorted(rows, key=lambda pair: -badness(rows[pair]))
    for pair in worst[:10]:
        _line("-".join(pair), {name: rows[pair].get(name, np.nan) for name in names})
    good = {label: sum(bool(row[key]) for row in rows.values()) for key, label in VERDICTS.items()}
    good["all three"] = sum(all(row[key] for key in VERDICTS) for row in rows.values())
    print(", ".join(f"{label} {count}" for label, count in good.items()), f"of {len(rows)}")


def badness(row: Mapping[str, Any]) -> float:
    """What sorts pairs: wells, jumps and attraction at short range (over 1 Å) in eV, and 0.1 for each flip."""
    return float(row["well"] + max(0.0, -row["lowest_force"]) + 0.1 * row["force_flips"] + row["energy_jump"])


def _line(name: str, values: Mapping[str, float]) -> None:
    print(f"{name:10}" + "".join(f"{'–' if np.isnan(value) else f'{value:.4g}':>15}" for value in values.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default", help="an embedded model or a checkpoint (default)")
    parser.add_argument("--head", help="one branch (the blend)")
    parser.add_argument("--elements", nargs="+", help="only these, with all their pairs")
    parser.add_argument("--step", type=float, default=0.01, help="Å (0.01)")
    parser.add_argument("--precision", default="fp32", help="fp32, fp64 or bf16 (fp32)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--reference", type=Path, metavar="FILE.npz", help="packed curves to compare with")
    parser.add_argument("--json", type=Path, help="file for the measures")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    try:
        references = read_reference(given.reference) if given.reference else {}
        predictor = Predictor(given.model, head=given.head, precision=given.precision)
        pairs = pairs_of(predictor, given.elements)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    curves = dict(curves_of(predictor, pairs, given.step))
    rows = {pair: measures(curve, pair, references.get(pair)) for pair, curve in curves.items()}
    show({pair: row for pair, row in rows.items() if pair[0] == pair[1]}, "elements with themselves")
    show({pair: row for pair, row in rows.items() if pair[0] != pair[1]}, "pairs of elements")
    if given.plot is not None:
        from diatomics_plot import draw

        print("wrote", *draw(curves, rows, references, given.plot))
    defined = {pair: {k: v if np.isfinite(v) else None for k, v in row.items()} for pair, row in rows.items()}
    write(given.json, {"diatomics": [{"pair": "-".join(pair), **row} for pair, row in defined.items()]})


if __name__ == "__main__":
    main()
