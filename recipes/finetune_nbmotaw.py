"""NbMoTaW: energies and forces of refractory alloys; stands in for MS25's high-entropy alloy.

``python recipes/finetune_nbmotaw.py --data PATH``; PATH is a packed ``.npz`` (docs/data.md) made from the files of
https://github.com/materialsvirtuallab/snap.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes._standins import POTENTIAL

TASK = replace(
    POTENTIAL,
    name="nbmotaw",
    title="NbMoTaW alloys, energies and forces",
    branch_name="nbmotaw-pbe",
    theory="PBE, VASP PAW 520 eV",
    licence="BSD-3-Clause",
    citation="Li et al., npj Comput. Mater. 6, 70 (2020)",
    split_by="group",
    batch=8,
    notes=(
        "A stand-in for ms25_hea: another alloy, another theory, forces as well.",
        "Sub-sets of the source, such as the elastic cells of a metal or the solid solutions of two, are whole on one "
        "side: the elastic ones have many equivalent cells.",
        "The default model's branch mvl-pbe was trained on these data, without those that are tested here.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
