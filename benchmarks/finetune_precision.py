"""Does fine-tuning in fp64, fp32 or bf16 end at the same errors? (paper, Table XII and Figure 4)

    python benchmarks/finetune_precision.py --oqmd oqmd_abx3.npz --abx3 abx3_chenebuah.npz --epochs 10 --out precision/

Both data sets may be given in any form that the recipes read. Trains each precision from the same model with the same
order of structures, and one more from scratch in fp64, as the paper did; writes a table, JSON and the learning curves.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from common import environment

from gfmpot.finetune.examples import read_examples
from gfmpot.finetune.reader import build_reader
from gfmpot.finetune.recipe import load_task
from gfmpot.finetune.report import write_report
from gfmpot.finetune.running import Outcome, run_task
from gfmpot.finetune.setting import Setting
from gfmpot.models import load

PAPER = {
    "oqmd": {"scratch-fp64": 0.596, "unfrozen-bf16": 0.684, "unfrozen": 0.245, "unfrozen-fp64": 0.227},
    "abx3": {"scratch-fp64": 0.444, "unfrozen-bf16": 0.352, "unfrozen": 0.341, "unfrozen-fp64": 0.310},
}
"""eV/atom, Table XII; the run without a precision in its name is in fp32."""


def settings(seeds: int) -> list[Setting]:
    """What is compared."""
    runs = [("scratch", "fp64"), ("unfrozen", "bf16"), ("unfrozen", "fp32"), ("unfrozen", "fp64")]
    return [Setting(strategy, seed, precision) for strategy, precision in runs for seed in range(seeds)]  # type: ignore[arg-type]


def measured(name: str, data: Path, given: argparse.Namespace) -> list[Outcome]:
    """All runs of one data set."""
    task = replace(load_task(name), epochs=given.epochs, paper=None)
    examples = read_examples(task, build_reader(task.reader), data, limit=given.limit)
    folder = given.out / name
    outcomes = run_task(
        task, examples, settings(given.seeds), load(given.model), folder, device=torch.device(given.device)
    )
    write_report(task, examples, outcomes, folder)
    return outcomes


def table(found: dict[str, list[Outcome]]) -> str:
    """Mean absolute errors beside the paper's."""
    lines = ["| run | data | MAE (eV/atom) | minutes | paper (eV/atom) |", "|---|---|---|---|---|"]
    for name, outcomes in found.items():
        for outcome in outcomes:
            error, minutes = outcome.metrics["energy_per_atom_mae"], 60 * outcome.facts["hours"]
            paper = PAPER[name][outcome.setting.family]
            lines.append(f"| {outcome.setting.name} | {name} | {error:.4f} | {minutes:.1f} | {paper} |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PAPER:
        parser.add_argument(f"--{name}", type=Path, help=f"data of the recipe {name}")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--limit", type=int, help="structures of each")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("finetune-precision"))
    given = parser.parse_args()
    data = {name: getattr(given, name) for name in PAPER if getattr(given, name)}
    if not data:
        parser.error("give --oqmd, --abx3 or both")
    found = {name: measured(name, path, given) for name, path in data.items()}
    print(table(found))
    content = {name: [{"run": o.setting.name, **o.metrics, **o.facts} for o in runs] for name, runs in found.items()}
    (given.out / "results.json").write_text(json.dumps({"environment": environment(), "runs": content}, indent=1))


if __name__ == "__main__":
    main()
