"""What recipes of MS25's systems have in common (paper, Tables VI, VII and XI)."""

from __future__ import annotations

from gfmpot.finetune.task import Measure, Task
from gfmpot.models import Target

SYSTEM = Task(
    name="ms25",
    title="MS25",
    reader="ms25",
    target=Target("energy", "eV", "energy"),
    theory="DFT (VASP), as published with MS25",
    citation="Maxson et al., J. Chem. Inf. Model. (2025), doi:10.1021/acs.jcim.5c01262",
    measures=(Measure("energy_per_atom_mae", "meV/atom", 1e3, "MAE"),),
    split=(0.7, 0.15, 0.15),
    epochs=10,
    batch=2,
    cutoff=6.0,
    max_neighbours=64,
    notes=(
        "As in the paper, energies alone are learnt, and frames are split one by one. `--split published` keeps the "
        "sides of MS25, as the numbers in its own publication do.",
        "Of a system's folder the training set of 1,000 frames is read where there is one, with what validates and "
        "tests; the paper has 10,000 frames.",
        "Cutoff and number of neighbours are those of the paper and its scripts, for networks from scratch; a "
        "pretrained backbone keeps its own. With at most so many neighbours the energy jumps as atoms move: not for "
        "molecular dynamics.",
    ),
)
"""A task that a recipe completes."""
