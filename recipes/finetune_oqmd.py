"""OQMD: formation energies of ABX3 perovskites (paper, Tables VI, VII and XII).

``python recipes/finetune_oqmd.py --data oqmd_fm.csv --strategy scratch,unfrozen``, with the CIF files beside the table
(``gfmpot finetune oqmd --data nothing`` says where to get them).
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.finetune.task import Paper
from gfmpot.recipes._formation import FORMATION, FROM_ELEMENTS

TASK = replace(
    FORMATION,
    name="oqmd",
    title="OQMD, formation energies of perovskites",
    branch_name="oqmd-formation-pbe",
    theory="PBE, OQMD settings (VASP); formation energy from the elements",
    citation="Saal et al., JOM 65, 1501 (2013); Kirklin et al., npj Comput. Mater. 1, 15010 (2015)",
    paper=Paper(
        "Table XII",
        {"scratch": (596, None), "unfrozen": (245, None)},
        "taken as MAE in eV/atom, which our text of it does not state; 16,000 compounds; from scratch in FP64, "
        "unfrozen in FP32 (FP64: 227, BF16: 684 meV/atom)",
    ),
    notes=(
        "Compounds are split one by one, as in the paper: ABX3 and BAX3 may be on different sides.",
        FROM_ELEMENTS,
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
