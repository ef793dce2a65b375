"""MS25, dissociation of methane on Pt(111) (paper, Tables VI, VII and XI).

``python recipes/finetune_ms25_reaction.py --data Reaction --strategy all``, with the folder of the system.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.finetune.task import Paper
from gfmpot.recipes._ms25 import SYSTEM

TASK = replace(
    SYSTEM,
    name="ms25_reaction",
    title="MS25 Reaction: dissociation of methane on Pt(111)",
    branch_name="ms25-reaction-dft",
    cutoff=6.0,
    max_neighbours=64,
    paper=Paper("Table XI", {"scratch": (47,), "frozen": (46,), "unfrozen": (19,)}),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
