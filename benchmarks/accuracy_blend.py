"""Is the blend any good where no branch is at home? Forces in sets whose compositions no single source of training has.

Salt water, silver with a carbene, ionic liquids, adsorbates on metals: of theories that differ from all branches, so
that errors hold the difference of theories, too; what counts is the blend beside the single heads that know the
elements. Errors are norms of error vectors over the mean norm of the forces. Energies have another zero in each theory;
they are compared after a shift per element, where a set has structures enough to fit one.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accuracy_models import Model, Part, number, progress

from gfmpot.cli.console import table
from gfmpot.data import FrameSet, split_of_group
from gfmpot.inference import Predictor
from gfmpot.inference.comparison import compare
from gfmpot.models import load
from gfmpot.training.report_style import CYCLE, panels, style

SETS = {
    "nacl_water_revpbe0d3": "NaCl in water, revPBE0-D3",
    "gfn2_ag3_carbene": "Ag3 and CH2, GFN2-xTB",
    "il_bench": "ionic liquids, B3LYP/STO-3G",
    "oc20_rpbe": "adsorbates on metals, RPBE",
}
TRAINED_ON = ("oc20_rpbe",)
"""Of these, groups that were held out."""

COUNT, QUICK = 200, 10


def run(models: Sequence[Model], given: argparse.Namespace) -> Part:
    """The blend of the model and each of its heads."""
    if given.data is None:
        raise ValueError("it needs --data FOLDER with some of " + ", ".join(f"{name}.npz" for name in SETS))
    there = [name for name in SETS if (given.data / f"{name}.npz").exists()]
    if not there:
        raise ValueError(f"none of {', '.join(f'{name}.npz' for name in SETS)} in {given.data}")
    potential = load(given.model)
    found: Part = {}
    for name in progress(there, "compositions of no single source"):
        frames = evenly(given.data / f"{name}.npz", QUICK if given.quick else COUNT, held_out=name in TRAINED_ON)
        answers = {}
        for head in (None, *potential.branch_names):
            with warnings.catch_warnings():
                # Warnings that this is far from all that was learnt: it is meant to be.
                warnings.simplefilter("ignore", UserWarning)
                row = errors(Predictor(potential, head=head), frames)
            if row is not None:
                answers[head or "blend"] = row
        found[name] = {"answers": answers, "weights": mean_weights(Predictor(potential), frames)}
    return found


def evenly(path: Path, count: int, *, held_out: bool) -> FrameSet:
    """So many structures, evenly spread over the file, or over the groups that no training has seen."""
    frames = FrameSet.from_npz(path)
    if held_out:
        frames = frames.subset(np.flatnonzero([split_of_group(str(group)) != "train" for group in frames.group]))
    return frames.subset(np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int))


def errors(predictor: Predictor, frames: FrameSet) -> dict[str, float] | None:
    """Relative error of forces, and of energies on one scale (eV/atom); None for a head that lacks an element."""
    outcome = compare(predictor, frames, np.arange(len(frames)))
    if outcome.comparison is None or outcome.unsupported:
        return None
    metrics = outcome.comparison.on_one_scale().metrics()
    return {key: metrics[key] for key in ("forces_relative", "forces_mae", "energy_mae") if key in metrics}


def mean_weights(predictor: Predictor, frames: FrameSet) -> dict[str, float]:
    """Of the branches in the blend, over the structures."""
    graphs = (frames.graph(i, predictor.cutoff) for i in range(len(frames)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        weights = [result["branch_weights"] for result in predictor.many(graphs)]
    return {name: float(np.mean([one[name] for one in weights])) for name in predictor.potential.branch_names}


def show(part: Part) -> None:
    """A table per set, the best head first."""
    for name, one in part.items():
        best = sorted(one["answers"].items(), key=lambda item: item[1]["forces_relative"])
        rows = [
            [
                head,
                _share(one["weights"].get(head)),
                number(100 * row["forces_relative"]),
                _milli(row.get("energy_mae")),
            ]
            for head, row in best
        ]
        table(["answer", "weight in\nthe blend", "forces\n(% of mean)", "energies\n(meV/atom)"], rows, SETS[name])


def draw(part: Part, folder: Path) -> None:
    """Force errors of the blend and of heads, one panel per set."""
    with style():
        figure, axes = panels(len(part), 2, 2.6)
        for axis, (name, one) in zip(axes, part.items(), strict=True):
            heads = sorted(one["answers"], key=lambda head: one["answers"][head]["forces_relative"], reverse=True)
            values = [100 * one["answers"][head]["forces_relative"] for head in heads]
            axis.barh(heads, values, color=[CYCLE[1] if head == "blend" else CYCLE[0] for head in heads])
            axis.set(xlabel="force error (% of the mean force)", title=SETS[name])
        figure.savefig(folder / "blend.png")


def _share(weight: float | None) -> str | None:
    return number(None if weight is None else 100 * weight, ".0f")


def _milli(energy: float | None) -> str | None:
    return number(None if energy is None else 1e3 * energy, ".0f")
