"""Your own structures: energies and forces of one level of theory, for a potential of your own.

``python recipes/finetune_custom.py --data mine.extxyz``; PATH is an extended XYZ file, an ASE database, or a folder of
such files. Where they are not in eV and Å, or labels have other names, say so: ``--reader energy_unit=Hartree --reader
energy_key=REF_energy`` (docs/finetuning.md). ``gfmpot recipes copy custom`` makes a copy to change.

By default it begins with the branch of the model that is closest (``--strategy keep``).
"""

from __future__ import annotations

from gfmpot.finetune.task import Measure, Task
from gfmpot.models import Target

TASK = Task(
    name="custom",
    title="Own structures",
    reader="structures",
    target=Target("energy", "eV", "energy"),
    forces=True,  # False, if the data have none
    branch_name="custom",  # better <dataset>-<theory>: what head= is called
    theory="",  # say it for those who use the model
    licence="",
    citation="",
    measures=(
        Measure("energy_per_atom_mae", "meV/atom", 1e3, "energy MAE"),
        Measure("forces_mae", "meV/Å", 1e3, "force component MAE"),
    ),
    strategy="keep",  # the best there is where a branch of the model knows something like it
    split=(0.8, 0.1, 0.1),
    split_by="structure",  # "group" keeps together what has the same info["group"], as trajectories should
    epochs=100,
    batch=16,
    learning_rate=1e-3,
    backbone_learning_rate=3e-4,
    energy_weight=4.0,
    force_weight=1.0,
    stress_weight=20.0,  # counts only where there are stresses
    notes=(
        "Structures are split one by one. Frames of one trajectory resemble each other: where they are on different "
        "sides, errors are smaller than those of a new trajectory.",
    ),
)

if __name__ == "__main__":
    from gfmpot.cli.finetune import run_recipe

    run_recipe(__file__)
