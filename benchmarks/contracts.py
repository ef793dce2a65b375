"""Does the embedded model keep the physics contract? Every check of gfmpot.testing, blend and heads, in float64.

python benchmarks/contracts.py [MODEL] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from common import environment, write

from gfmpot import load
from gfmpot.testing import run_conformance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    potential = load(arguments.model)
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    reports = [run_conformance(potential, head=head) for head in (None, *potential.branch_names)]
    for report in reports:
        print(report.table())
    results = {report.subject: [dataclasses.asdict(result) for result in report.results] for report in reports}
    write(arguments.json, {"conformance": results})
    if not all(report.passed for report in reports):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
