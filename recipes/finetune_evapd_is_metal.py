"""EVAPD: which perovskites are metals; stands in for Matbench mp_is_metal.

``python recipes/finetune_evapd_is_metal.py --data PATH``; PATH is a packed ``.npz`` (docs/data.md) with a column
``target_is_metal``, made from the data of https://github.com/chenebuah/EVAPD.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes._standins import METALS

TASK = replace(
    METALS,
    name="evapd_is_metal",
    title="EVAPD, metals among perovskites",
    branch_name="evapd-is-metal-pbe-u",
    theory="PBE/PBE+U band gap of 0, Materials Project (VASP)",
    licence="CC-BY-4.0",
    citation="Chenebuah, Nganbe, Tchagang, Front. Mater. 10, 1233961 (2023)",
    notes=(
        "A stand-in for matbench_mp_is_metal: perovskites instead of all crystals; formulas are whole on one side.",
        "51 % are metals. Most compounds are those of abx3 and lcmgm: a model of one must not be tested on another.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
