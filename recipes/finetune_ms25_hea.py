"""MS25, the high-entropy alloy FeNiCrCoCu (paper, Tables VI, VII and XI).

``python recipes/finetune_ms25_hea.py --data HEA --strategy all``, with the folder of the system.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.finetune.task import Paper
from gfmpot.recipes._ms25 import SYSTEM

TASK = replace(
    SYSTEM,
    name="ms25_hea",
    title="MS25 HEA: the high-entropy alloy FeNiCrCoCu",
    branch_name="ms25-hea-dft",
    cutoff=5.5,
    max_neighbours=64,
    paper=Paper("Table XI", {"scratch": (32,), "frozen": (32,), "unfrozen": (31,)}),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
