"""2DMatPedia: exfoliation energies of layers; stands in for Matbench jdft2d.

``python recipes/finetune_twodmatpedia.py --data PATH --skip-unlabelled``; PATH is a packed ``.npz`` (docs/data.md) with
a column ``target_exfoliation_energy``, NaN where the source has none, made from http://2dmatpedia.org.
"""

from __future__ import annotations

from gfmpot.finetune.task import Measure, Task
from gfmpot.models import Target

TASK = Task(
    name="twodmatpedia",
    title="2DMatPedia, exfoliation energies",
    reader="packed",
    target=Target("exfoliation_energy", "eV/atom", "intensive"),
    branch_name="2dmatpedia-optb88-vdw",
    theory="optB88-vdW (VASP)",
    licence="CC-BY-4.0",
    citation="Zhou et al., Sci. Data 6, 86 (2019)",
    measures=(
        Measure("mae", "meV/atom", 1e3, "MAE"),
        Measure("rmse", "meV/atom", 1e3, "RMSE"),
        Measure("max_error", "meV/atom", 1e3, "largest error"),
    ),
    split=(0.7, 0.15, 0.15),
    split_by="group",
    epochs=100,
    batch=32,
    notes=(
        "A stand-in for matbench_jdft2d: single layers in vacuum instead of layered crystals, and other compounds.",
        "Formulas are whole on one side.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
