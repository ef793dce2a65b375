"""ZrO2: energies and forces of cells of 96 atoms; stands in for MS25's oxides of zirconium.

``python recipes/finetune_zro2.py --data PATH``; PATH is a packed ``.npz`` (docs/data.md) made from the files of
https://github.com/schmiedmayer/polipy4vasp_public.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes._standins import POTENTIAL

TASK = replace(
    POTENTIAL,
    name="zro2",
    title="ZrO2, energies and forces",
    branch_name="zro2-pbesol",
    theory="PBEsol, VASP PAW 450 eV",
    citation="Schmiedmayer, Kresse, J. Chem. Phys. 161, 084703 (2024)",
    epochs=100,
    batch=2,
    notes=(
        "A stand-in for ms25_zro: crystals of one composition instead of amorphous oxides, forces as well.",
        "The 119 structures are split one by one; 18 of them are tested.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
