"""CO on stepped platinum: energies and forces; stands in for MS25's reaction on Pt(111).

``python recipes/finetune_pt_co.py --data PATH``; PATH is a packed ``.npz`` (docs/data.md) made from the trajectories of
https://github.com/vsumaria/Pt_reconstruction.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes._standins import POTENTIAL

TASK = replace(
    POTENTIAL,
    name="pt_co",
    title="CO on Pt, energies and forces",
    branch_name="pt_co-dft",
    theory="DFT (VASP), see the publication",
    citation="Sumaria, Nguyen, Tao, Sautet, ACS Catal. 13, 9532 (2023)",
    split_by="group",
    epochs=10,
    notes=(
        "A stand-in for ms25_reaction: CO instead of methane, steps beside Pt(111), another theory, forces as well.",
        "Searches by basin hopping are whole on one side.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
