"""Are estimated errors those that there are, and does a model know what it does not know?

Errors and estimates of single heads on test groups of packed sets that they are distilled from: rank correlation, share
within one standard deviation, and errors by estimate. Then the same crystals and molecules made foreign: squeezed,
stretched, rattled by 0.5 Å, with elements drawn at random. AUROC is that of the largest novelty of a structure's atoms:
the probability that a foreign structure has more of it than one as it was; a warning is due above 1.2.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from accuracy_models import Model, Part, number
from numpy.typing import NDArray
from scipy.stats import rankdata

from gfmpot.cli.console import table
from gfmpot.data import FrameSet, split_of_group
from gfmpot.graph import AtomGraph, InvalidStructureError, build_graph
from gfmpot.inference import Predictor
from gfmpot.inference.doubts import FAR
from gfmpot.models import load
from gfmpot.training.calibration import estimated_errors
from gfmpot.training.report_style import CYCLE, panels, style

Floats = NDArray[np.float64]
SETS = {"crystals": ("chgnet_pbe_u", "mptrj-pbe-u@chgnet"), "molecules": ("gfn2_organic", "molecules-gfn2")}
COUNT, QUICK = 1000, 60
UNITS = {"energies": "eV/atom", "forces": "eV/Å"}
ELEMENTS = np.array([z for z in range(1, 84) if z not in (43, 61)])

Change = Callable[[np.random.Generator, NDArray[np.int64], Floats, Floats], tuple[NDArray[np.int64], Floats, Floats]]
FOREIGN: dict[str, Change] = {
    "as it was": lambda rng, z, x, cell: (z, x, cell),
    "lengths × 0.65": lambda rng, z, x, cell: (z, 0.65 * x, 0.65 * cell),
    "lengths × 0.8": lambda rng, z, x, cell: (z, 0.8 * x, 0.8 * cell),
    "lengths × 1.3": lambda rng, z, x, cell: (z, 1.3 * x, 1.3 * cell),
    "lengths × 1.6": lambda rng, z, x, cell: (z, 1.6 * x, 1.6 * cell),
    "rattled by 0.5 Å": lambda rng, z, x, cell: (z, x + rng.normal(0, 0.5, x.shape), cell),
    "random elements": lambda rng, z, x, cell: (rng.choice(ELEMENTS, len(z)), x, cell),
}


def run(models: Sequence[Model], given: argparse.Namespace) -> Part:
    """The model's own heads; references have no estimates."""
    if given.data is None:
        raise ValueError("it needs --data FOLDER with chgnet_pbe_u.npz and gfn2_organic.npz")
    potential = load(given.model)
    if potential.errors is None:
        raise ValueError(f"{given.model} does not estimate its errors")
    found: Part = {}
    for kind, (name, head) in SETS.items():
        frames = test_frames(given.data / f"{name}.npz", QUICK if given.quick else COUNT)
        branch = potential.branch_index(head)
        graphs = (frames.graph(i, potential.cutoff, branch) for i in range(len(frames)))
        errors = estimated_errors(potential, graphs)[branch]
        predictor = Predictor(potential, head=head, allow_unsupported=True)
        novelty = {change: _novelty(predictor, frames, change) for change in FOREIGN}
        usual = novelty["as it was"]
        found[kind] = {
            "summary": errors.summary(),
            "energies": _by_estimate(np.abs(errors.energy), errors.energy_std),
            "forces": _by_estimate(errors.forces, errors.forces_std),
            "foreign": {change: _apart(usual, values) for change, values in novelty.items()},
        }
    return found


def test_frames(path: Path, count: int) -> FrameSet:
    """Evenly spread over the test groups."""
    frames = FrameSet.from_npz(path)
    test = np.flatnonzero([split_of_group(str(group)) == "test" for group in frames.group])
    return frames.subset(test[np.linspace(0, len(test) - 1, min(count, len(test))).astype(int)])


def _by_estimate(errors: Floats, std: Floats, bins: int = 10) -> dict[str, list[float]]:
    """Mean estimate and root mean square error, by tenths of the estimates."""
    order = np.argsort(std)
    parts = np.array_split(order, bins)
    return {
        "estimate": [float(np.sqrt(np.mean(std[part] ** 2))) for part in parts],
        "error": [float(np.sqrt(np.mean(errors[part] ** 2))) for part in parts],
    }


def _novelty(predictor: Predictor, frames: FrameSet, change: str) -> Floats:
    """(S',) largest of each structure's atoms; those that no graph can be made of are left out."""
    graphs = _changed(frames, change, predictor.cutoff)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the surroundings of")
        return np.array([result["novelty"].max() for result in predictor.many(graphs)])


def _changed(frames: FrameSet, change: str, cutoff: float) -> Iterator[AtomGraph]:
    rng = np.random.default_rng(0)
    for i in range(len(frames)):
        own = slice(frames.offsets[i], frames.offsets[i + 1])
        z, x, cell = FOREIGN[change](rng, frames.numbers[own], frames.positions[own], frames.cell[i])
        try:
            yield build_graph(z, x, cell, frames.pbc[i], cutoff=cutoff)
        except InvalidStructureError:  # coincident atoms
            continue


def _apart(usual: Floats, foreign: Floats) -> dict[str, float]:
    ranks = rankdata(np.concatenate([usual, foreign]))[len(usual) :]
    wins = ranks.sum() - len(foreign) * (len(foreign) + 1) / 2
    auroc = float(wins / (len(usual) * len(foreign)))
    return {"AUROC": auroc, "median": float(np.median(foreign)), "warned": float((foreign > FAR).mean())}


def show(part: Part) -> None:
    """Quality of estimates, then of novelty."""
    names = ("spearman_energy", "within_energy", "ratio_energy", "spearman_forces", "within_forces", "ratio_forces")
    heads = ["", "energies: rank\ncorrelation", "within\none std", "RMS in\nstd"]
    heads += ["forces: rank\ncorrelation", "within\none std", "RMS in\nstd"]
    rows = [[kind, *(number(one["summary"].get(name), ".2f") for name in names)] for kind, one in part.items()]
    table(heads, rows, "Estimated errors on unseen groups")
    lines = [
        [kind, change, *(number(row[name], ".2f") for name in ("AUROC", "median", "warned"))]
        for kind, one in part.items()
        for change, row in one["foreign"].items()
    ]
    table(["", "structures", "AUROC", "median\nnovelty", "share\nwarned"], lines, "Novelty of what is foreign")


def draw(part: Part, folder: Path) -> None:
    """Errors over estimates."""
    with style():
        figure, axes = panels(len(part), len(part), 3.2)
        for axis, (kind, one) in zip(axes, part.items(), strict=True):
            for colour, (quantity, unit) in zip(CYCLE, {"energies": "eV/atom", "forces": "eV/Å"}.items(), strict=False):
                axis.plot(
                    one[quantity]["estimate"], one[quantity]["error"], "o-", color=colour, label=f"{quantity}, {unit}"
                )
            low, high = (f(one["energies"]["estimate"] + one["forces"]["estimate"]) for f in (min, max))
            axis.plot([low, high], [low, high], "--", color="grey", lw=1)
            axis.set(xscale="log", yscale="log", xlabel="estimated", ylabel="root mean square error", title=kind)
            axis.legend()
        figure.savefig(folder / "uncertainty.png")
