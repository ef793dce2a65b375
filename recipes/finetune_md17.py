"""MD17: energies and forces along a trajectory of uracil (paper, Tables VI, VII and IX).

``python recipes/finetune_md17.py --data md17_uracil.npz --strategy all``; PATH is a file of MD17 or rMD17, whose
revised labels ``--reader labels=revised`` chooses where it has both. Any other molecule of the set will do.
"""

from __future__ import annotations

from gfmpot.finetune.task import Measure, Paper, Task
from gfmpot.models import Target
from gfmpot.units import KCAL_PER_MOL

TASK = Task(
    name="md17",
    title="MD17, energies and forces of uracil",
    reader="md17",
    target=Target("energy", "eV", "energy"),
    forces=True,
    branch_name="md17-pbe-ts",
    theory="PBE+vdW-TS, FHI-aims (MD17); PBE/def2-SVP, ORCA, if labels are the revised ones",
    licence="CC0-1.0",
    citation="Chmiela et al., Sci. Adv. 3, e1603015 (2017)",
    measures=(
        Measure("energy_mae", "kcal/mol", 1 / KCAL_PER_MOL, "energy MAE"),
        Measure("forces_mae", "kcal/mol/Å", 1 / KCAL_PER_MOL, "force component MAE"),
    ),
    split=(0.7, 0.15, 0.15),
    epochs=100,
    batch=32,
    paper=Paper(
        "Table IX",
        {"scratch": (3.421, 8.438), "frozen": (4.273, 13.663), "unfrozen": (1.481, 6.543)},
        "on all 134,000 frames of uracil",
    ),
    notes=(
        "The energy MAE is that of whole molecules, the force MAE that of components.",
        "Frames are drawn from one trajectory, so that those that are tested have close neighbours among those that "
        "are trained on: errors say how well this trajectory is learnt, not how another temperature would be.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
