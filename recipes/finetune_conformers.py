"""Conformers: their relative energies by coupled cluster, of molecules like drugs; stands in for Wiggle150.

``python recipes/finetune_conformers.py --data PATH``; PATH is a packed ``.npz`` (docs/data.md) with a column
``target_dlpno_ccsdt``, made from https://github.com/ghutchis/conformer-benchmark. ``--strategy keep`` begins with what
the model knows of such molecules.
"""

from __future__ import annotations

from gfmpot.finetune.task import Measure, Task
from gfmpot.models import Target
from gfmpot.units import KCAL_PER_MOL

TASK = Task(
    name="conformers",
    title="Relative energies of conformers",
    reader="packed",
    target=Target("dlpno_ccsdt", "eV", "energy"),
    relative=True,
    branch_name="conformers-dlpno-ccsd(t)",
    theory="DLPNO-CCSD(T)/cc-pVTZ, differences between conformers",
    licence="MIT",
    citation="Folmsbee, Hutchison, Int. J. Quantum Chem. 121, e26381 (2021)",
    measures=(
        Measure("energy_mae", "kcal/mol", 1 / KCAL_PER_MOL, "MAE"),
        Measure("energy_rmse", "kcal/mol", 1 / KCAL_PER_MOL, "RMSE"),
    ),
    split=(0.7, 0.15, 0.15),
    split_by="group",
    epochs=50,
    batch=32,
    backbone_learning_rate=1e-4,
    notes=(
        "A stand-in for wiggle150: relaxed conformers of 700 molecules instead of strained ones of three.",
        "Molecules are whole on one side. Errors are those of differences: the mean error of a molecule is taken off.",
        "The default model knows some of these conformers, with energies of GFN2-xTB.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
