"""HfO2: energies and forces of several phases; stands in for MS25's oxides of zirconium.

``python recipes/finetune_hfo2.py --data PATH``; PATH is a packed ``.npz`` (docs/data.md) made from the files of
https://github.com/LonxunQuantum/PWMLFF.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes._standins import POTENTIAL

TASK = replace(
    POTENTIAL,
    name="hfo2",
    title="HfO2, energies and forces",
    branch_name="hfo2-pbe",
    theory="PBE, PWmat",
    citation="https://github.com/LonxunQuantum/PWMLFF, example HfO2",
    split_by="group",
    notes=(
        "A stand-in for ms25_zro: the oxide of the next heavier element, one composition, forces as well.",
        "Runs of molecular dynamics are whole on one side.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
