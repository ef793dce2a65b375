"""MS25, amorphous oxides of zirconium (paper, Tables VI, VII and XI).

``python recipes/finetune_ms25_zro.py --data Zr-O --strategy all``, with the folder of the system.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.finetune.task import Paper
from gfmpot.recipes._ms25 import SYSTEM

TASK = replace(
    SYSTEM,
    name="ms25_zro",
    title="MS25 Zr-O: amorphous oxides of zirconium",
    branch_name="ms25-zro-dft",
    cutoff=6.0,
    max_neighbours=64,
    paper=Paper("Table XI", {"scratch": (293,), "frozen": (293,), "unfrozen": (152,)}),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
