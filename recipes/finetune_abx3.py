"""ABX3: formation energies of perovskites of the Materials Project (paper, Tables VI, VII and XII).

``python recipes/finetune_abx3.py --data abc3_data.csv --strategy scratch,unfrozen``, with the CIF files beside the
table (``gfmpot finetune abx3 --data nothing`` says where to get them).
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.finetune.task import Paper
from gfmpot.recipes._formation import FORMATION, FROM_ELEMENTS

TASK = replace(
    FORMATION,
    name="abx3",
    title="ABX3, formation energies of perovskites",
    branch_name="abx3-formation-pbe-u",
    theory="PBE/PBE+U, Materials Project (VASP); formation energy from the elements",
    citation="Chenebuah et al., Mater. Today Commun. 27, 102462 (2021); Jain et al., APL Mater. 1, 011002 (2013)",
    paper=Paper(
        "Table XII",
        {"scratch": (444, None), "unfrozen": (341, None)},
        "taken as MAE in eV/atom, which our text of it does not state; 4,500 compounds; from scratch in FP64, "
        "unfrozen in FP32 (FP64: 310, BF16: 352 meV/atom)",
    ),
    notes=(
        "Compounds are split one by one, as in the paper: polymorphs of a formula may be on different sides.",
        FROM_ELEMENTS,
        "Many of these compounds are in sets of the Materials Project that a model may have been pretrained on.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
