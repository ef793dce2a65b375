"""LCMGM: which perovskites are metals; stands in for Matbench mp_is_metal.

``python recipes/finetune_lcmgm_is_metal.py --data PATH``; PATH is a packed ``.npz`` (docs/data.md) with a column
``target_is_metal``, made from the data of https://github.com/chenebuah/LCMGM.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes._standins import METALS

TASK = replace(
    METALS,
    name="lcmgm_is_metal",
    title="LCMGM, metals among perovskites",
    branch_name="lcmgm-is-metal-pbe-u",
    theory="PBE/PBE+U band gap of 0, Materials Project (VASP)",
    licence="CC-BY-4.0",
    citation="Chenebuah, Nganbe, Tchagang, npj Comput. Mater. 10, 198 (2024)",
    notes=(
        "A stand-in for matbench_mp_is_metal: perovskites instead of all crystals; formulas are whole on one side.",
        "44 % are metals. Most compounds of abx3 are among these: a model of one must not be tested on the other.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
