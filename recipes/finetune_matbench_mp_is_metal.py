"""Matbench mp_is_metal: which crystals are metals (paper, Tables VI, VII and XIV).

``python recipes/finetune_matbench_mp_is_metal.py --data matbench_mp_is_metal.json.gz --strategy all``
"""

from __future__ import annotations

from gfmpot.finetune.task import Measure, Paper, Task
from gfmpot.models import Target

TASK = Task(
    name="matbench_mp_is_metal",
    title="Matbench mp_is_metal, metals among crystals",
    reader="matbench",
    target=Target("is_metal", "", "class"),
    branch_name="mp-is-metal-pbe-u",
    theory="PBE/PBE+U band gap of 0, Materials Project (VASP)",
    citation="Dunn et al., npj Comput. Mater. 6, 138 (2020); Jain et al., APL Mater. 1, 011002 (2013)",
    measures=(
        Measure("roc_auc", "", title="ROC AUC"),
        Measure("f1", "", title="F1"),
        Measure("accuracy", ""),
        Measure("ece", "", title="calibration error"),
    ),
    split=(0.7, 0.1, 0.2),
    epochs=10,
    batch=32,
    paper=Paper(
        "Table XIV",
        {
            "scratch": (0.911, 0.809, 0.835, None),
            "frozen": (0.924, 0.823, 0.847, None),
            "unfrozen": (0.924, 0.825, 0.848, None),
        },
        "means over the five folds of Matbench, between which the ROC AUC varies by 0.003",
    ),
    notes=(
        "One split is tested, with a fifth of the structures, as in a fold of Matbench; `gfmpot matbench` runs the "
        "five folds.",
        "Polymorphs of a formula may be on different sides, as in the folds of Matbench.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
