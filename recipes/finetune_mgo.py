"""MgO: energies and forces of displaced supercells; stands in for MS25's surfaces of MgO.

``python recipes/finetune_mgo.py --data PATH``; PATH is a packed ``.npz`` (docs/data.md) made from the example of
https://github.com/sekocha/pypolymlp.
"""

from __future__ import annotations

from dataclasses import replace

from gfmpot.recipes._standins import POTENTIAL

TASK = replace(
    POTENTIAL,
    name="mgo",
    title="MgO, energies and forces",
    branch_name="mgo-pbesol",
    theory="PBEsol, VASP PAW",
    licence="BSD-3-Clause",
    citation="Seko, J. Chem. Phys. 159, 241101 (2023)",
    notes=(
        "A stand-in for ms25_mgo22 and ms25_mgo44: the bulk instead of its surface, forces as well.",
        "Displacements are large and drawn at random: forces reach 100 eV/Å, so that errors are far above those of "
        "thermal motion.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
