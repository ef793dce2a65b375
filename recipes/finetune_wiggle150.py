"""Wiggle150: relative energies of strained conformers of three molecules (paper, Tables VI, VII and X).

``python recipes/finetune_wiggle150.py --data ct5c00015_si_003.xyz --strategy all``
"""

from __future__ import annotations

from gfmpot.finetune.task import Measure, Paper, Task
from gfmpot.models import Target
from gfmpot.units import KCAL_PER_MOL

TASK = Task(
    name="wiggle150",
    title="Wiggle150, energies of strained conformers",
    reader="wiggle150",
    target=Target("relative_energy", "eV", "energy"),
    branch_name="wiggle150-dlpno-ccsd(t)",
    theory="DLPNO-CCSD(T)/CBS, relative to the lowest conformer of each molecule",
    citation="Brew et al., J. Chem. Theory Comput. (2025), doi:10.1021/acs.jctc.5c00015",
    measures=(
        Measure("energy_mae", "kcal/mol", 1 / KCAL_PER_MOL, "MAE"),
        Measure("energy_rmse", "kcal/mol", 1 / KCAL_PER_MOL, "RMSE"),
    ),
    split=(0.7, 0.15, 0.15),
    epochs=500,
    batch=32,
    backbone_learning_rate=1e-4,
    paper=Paper(
        "Table X",
        {"scratch": (19.914, 29.203), "frozen": (24.715, 34.212), "unfrozen": (18.732, 23.953)},
        "with a smaller learning rate where the backbone is unfrozen",
    ),
    notes=(
        "As in the paper, conformers are split one by one: all three molecules are trained on and tested.",
        "An energy counts from the lowest conformer of its molecule in the file. The zero of each molecule is learnt "
        "from the conformers that are trained on, and is part of the error: no mean is taken off the tested ones.",
        "About 22 conformers are tested: another seed or split changes errors by much. Unknown molecules are another "
        "question, which finetune_conformers asks.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
