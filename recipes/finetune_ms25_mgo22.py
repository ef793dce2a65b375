"""MS25, the MgO(100) surface, 2 × 2 cells (paper, Tables VI, VII and XI).

``python recipes/finetune_ms25_mgo22.py --data MgO-2x2 --strategy all``, with the folder of the system.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.finetune.task import Paper
from gfmpot.recipes._ms25 import SYSTEM

TASK = replace(
    SYSTEM,
    name="ms25_mgo22",
    title="MS25 MgO-2x2: the MgO(100) surface, 2 × 2 cells",
    branch_name="ms25-mgo22-dft",
    cutoff=6.0,
    max_neighbours=64,
    paper=Paper("Table XI", {"scratch": (30,), "frozen": (30,), "unfrozen": (17,)}),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
