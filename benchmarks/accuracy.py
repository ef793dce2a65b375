"""What does a model get right of the physics? Crystals, pressure, phonons, molecules, scans, dynamics, relaxations of
unseen crystals, beside CHGNet and GFN2-xTB on the same inputs.

python benchmarks/accuracy.py [--model default] [--heads NAME ...] [--references chgnet gfn2] [--data FOLDER]
    [--only PART ...] [--quick] [--systems NAME ...] [--md-references] [--threads 2] [--json FILE] [--plots FOLDER]
    [--envs FOLDER]

The model is the blend; --heads adds single heads. CHGNet answers for crystals and needs an environment of its own
(benchmarks/envs/README.md), GFN2-xTB for molecules and needs tblite. --data is a folder of packed .npz sets, for the
relaxations. Results of parts that are not run again stay in the JSON file, and so do systems of dynamics: the same
command goes on after a kill, and --systems adds to what is there. --quick tries everything out in minutes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accuracy_models import ENVIRONMENTS, REFERENCES, Model, Part, open_models
from common import environment, write

PARTS = ("crystals", "pressure", "phonons", "molecules", "scans", "md", "relaxations", "uncertainty", "blend")
"""Each is a module ``accuracy_<part>`` with ``run``, ``show`` and ``draw``."""


def one(name: str, models: list[Model], given: argparse.Namespace, parts: dict[str, Any]) -> bool:
    """Run, print, draw, and keep what was found in ``parts`` and their file, with the command and the time it took.

    Returns:
        Whether it could be run.
    """
    part: ModuleType = importlib.import_module(f"accuracy_{name}")
    begun, before = time.perf_counter(), parts.get(name, {})
    about = {"environment": environment(), "model": given.model, "quick": given.quick}

    def keep(found: Part) -> None:
        parts[name] = {**about, "seconds": round(time.perf_counter() - begun, 1), **found}
        write(given.json, {"parts": parts})

    same = all(before.get(key) == about[key] for key in ("model", "quick"))
    more = {"before": before if same else {}, "keep": keep} if name == "md" else {}
    try:
        found = part.run(models, given, **more)
    except ValueError as error:
        print(f"{name} was skipped: {error}", file=sys.stderr)
        return False
    keep(found)
    part.show(found)
    if given.plots:
        given.plots.mkdir(parents=True, exist_ok=True)
        part.draw(found, given.plots)
    return True


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="name or path (default)")
    parser.add_argument("--heads", nargs="+", default=[], metavar="NAME", help="branches to show beside the blend")
    parser.add_argument("--references", nargs="*", default=[], choices=REFERENCES, help="to compare with (none)")
    parser.add_argument(
        "--only", nargs="+", default=PARTS, choices=PARTS, metavar="PART", help=f"{', '.join(PARTS)} (all)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="packed .npz sets; parts that need them are skipped without"
    )
    parser.add_argument("--quick", action="store_true", help="a few systems of each part, in minutes")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="of dynamics; by default all ten")
    parser.add_argument("--md-references", action="store_true", help="dynamics with references too: slow")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (2)")
    parser.add_argument("--json", type=Path, help="file of the results; what it has of other parts stays")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="for a figure of each part (none are drawn)")
    parser.add_argument(
        "--envs",
        type=Path,
        default=ENVIRONMENTS,
        metavar="FOLDER",
        help="environments of the references (benchmarks/envs)",
    )
    return parser.parse_args()


def main() -> None:
    given = parsed()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", message="logm result may be inaccurate")  # of ASE's cell filter, at 1e-13
    parts = json.loads(given.json.read_text())["parts"] if given.json and given.json.exists() else {}
    with ExitStack() as stack:
        try:
            models = open_models(given, stack)
        except ValueError as error:
            sys.exit(f"error: {error}")
        done = [one(name, models, given, parts) for name in given.only]
    if not all(done) and given.only is not PARTS:
        sys.exit("error: a part that was asked for was skipped")


if __name__ == "__main__":
    main()
