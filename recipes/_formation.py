"""What recipes of formation energies of perovskites have in common (paper, Tables VI, VII and XII)."""

from __future__ import annotations

from gfmpot.finetune.task import Measure, Task
from gfmpot.models import Target

FORMATION = Task(
    name="formation",
    title="Formation energies of perovskites",
    reader="cif_table",
    target=Target("formation_energy", "eV/atom", "energy"),
    licence="CC-BY-4.0",
    measures=(
        Measure("energy_per_atom_mae", "meV/atom", 1e3, "MAE"),
        Measure("energy_per_atom_rmse", "meV/atom", 1e3, "RMSE"),
    ),
    split=(0.7, 0.15, 0.15),
    epochs=100,
    batch=32,
)
"""A task that a recipe completes."""

FROM_ELEMENTS = (
    "Formation energies contain those of the elements: the model gives energies from the elements, not total ones."
)
"""A note for all of them."""
