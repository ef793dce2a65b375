"""What recipes have in common that stand in for a task of the paper, with data that are not the paper's.

They read packed ``.npz`` files (docs/data.md), and have none of the paper's numbers: other compounds, other theory.
"""

from __future__ import annotations

from gfmpot.finetune.task import Measure, Task
from gfmpot.models import Target

POTENTIAL = Task(
    name="standin",
    title="Stand-in for MS25",
    reader="packed",
    target=Target("energy", "eV", "energy"),
    forces=True,
    measures=(
        Measure("energy_per_atom_mae", "meV/atom", 1e3, "energy MAE"),
        Measure("forces_mae", "meV/Å", 1e3, "force component MAE"),
    ),
    split=(0.7, 0.15, 0.15),
    epochs=20,
    batch=4,
)
"""Total energies and forces of one system, which a recipe names."""

METALS = Task(
    name="standin",
    title="Stand-in for Matbench mp_is_metal",
    reader="packed",
    target=Target("is_metal", "", "class"),
    measures=(
        Measure("roc_auc", "", title="ROC AUC"),
        Measure("f1", "", title="F1"),
        Measure("accuracy", ""),
        Measure("ece", "", title="calibration error"),
    ),
    split=(0.7, 0.15, 0.15),
    split_by="group",
    epochs=10,
    batch=32,
)
"""Metals are those without a band gap; compounds of one formula are on one side."""
