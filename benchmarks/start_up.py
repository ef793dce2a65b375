"""How long until the first forces? Fresh processes, median of several.

python benchmarks/start_up.py [--repeats 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import environment, write

QUESTIONS = {
    "import gfmpot": "import gfmpot",
    "GFMCalculator() to first forces of 64 atoms": (
        "from ase.build import bulk; from gfmpot import GFMCalculator\n"
        "atoms = bulk('MgO', 'rocksalt', 4.2117, cubic=True) * 2; atoms.calc = GFMCalculator(); atoms.get_forces()"
    ),
    "gfmpot --help": "import sys; sys.argv = ['gfmpot', '--help']\nfrom gfmpot.cli import main; main()",
    "python alone": "pass",
}


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(*(f"{key}: {value}" for key, value in environment().items()), sep="\n")
    medians = {}
    for name, code in QUESTIONS.items():
        times = [seconds(code) for _ in range(arguments.repeats)]
        medians[name] = statistics.median(times)
        print(f"{name}: median {medians[name]:.2f} s of {arguments.repeats}, {min(times):.2f} to {max(times):.2f}")
    write(arguments.json, {"seconds": medians})


if __name__ == "__main__":
    main()
