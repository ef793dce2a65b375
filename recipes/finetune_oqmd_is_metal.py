"""OQMD: which perovskites are metals; stands in for Matbench mp_is_metal.

``python recipes/finetune_oqmd_is_metal.py --data PATH``; PATH is a packed ``.npz`` (docs/data.md) with a column
``target_is_metal``, made from https://github.com/Liu-Group-UF/Perovskite-ML.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes._standins import METALS

TASK = replace(
    METALS,
    name="oqmd_is_metal",
    title="OQMD, metals among perovskites",
    branch_name="oqmd-is-metal-pbe",
    theory="PBE band gap of 0, OQMD (VASP)",
    licence="CC-BY-4.0",
    citation="Saal et al., JOM 65, 1501 (2013); Kirklin et al., npj Comput. Mater. 1, 15010 (2015)",
    notes=(
        "A stand-in for matbench_mp_is_metal: perovskites instead of all crystals; formulas are whole on one side.",
        "86 % are metals: to call all of them so has an accuracy of 0.86 and an F1 of 0.93, but a ROC AUC of 0.5.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
