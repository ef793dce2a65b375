"""Another target for a task, chosen on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from gfmpot.config import did_you_mean
from gfmpot.finetune.task import Measure, Task
from gfmpot.models import Target
from gfmpot.models.target import Kind

OF_FORCES = Measure("forces_mae", "meV/Å", 1e3, "force component MAE")

KINDS = ("energy", "extensive", "intensive", "class")


def retargeted(task: Task, name: str, kind: str | None, unit: str | None, units: Mapping[str, str]) -> Task:
    """The task with another target and its usual measures, without the paper's numbers.

    Args:
        task: whose reader, split and training are kept.
        name: of the target.
        kind: as :class:`Target` has; the task's own if not given.
        unit: that of the data if not given.
        units: of what the data have, by name.

    Raises:
        ValueError: an unknown kind, or a target that the data do not have.
    """
    kind = kind or task.target.kind
    if kind not in KINDS:
        raise ValueError(f"--target: no kind {kind!r}{did_you_mean(kind, KINDS)}")
    if name not in units and name != "energy":
        raise ValueError(f"--target: the data have no {name!r}{did_you_mean(name, units)}")
    chosen = "" if kind == "class" else unit or units.get(name) or ("eV" if kind == "energy" else "")
    target = Target(name, chosen, cast(Kind, kind))
    own = name == task.target.name and kind == task.target.kind
    energies = kind == "energy"
    return replace(
        task,
        name=task.name if own else f"{task.name}-{name}",
        target=target,
        measures=task.measures if own else usual_measures(target, forces=task.forces and energies),
        forces=task.forces and energies,
        relative=task.relative and energies,
        strategy=task.strategy if energies else "unfrozen",
        paper=task.paper if own else None,
        branch_name=task.branch_name if own else f"{task.name}-{name}",
    )


def with_forces(task: Task, learnt: bool) -> Task:
    """The task with or without forces, without the paper's numbers where that is another one.

    Raises:
        ValueError: forces of a target that is no energy.
    """
    if learnt == task.forces:
        return task
    if learnt and task.target.kind != "energy":
        raise ValueError(f"--forces: {task.target.name} is no energy, so that there are no forces")
    of_energies = tuple(one for one in task.measures if not one.key.startswith(("forces", "stress")))
    return replace(task, forces=learnt, measures=(*of_energies, OF_FORCES) if learnt else of_energies, paper=None)


def usual_measures(target: Target, *, forces: bool) -> tuple[Measure, ...]:
    """What is reported of a target unless a recipe says otherwise."""
    if target.is_class:
        return Measure("roc_auc", "", title="ROC AUC"), Measure("f1", "", title="F1"), Measure("accuracy", "")
    if target.kind != "energy":
        return Measure("mae", target.unit, title="MAE"), Measure("rmse", target.unit, title="RMSE")
    energies = (Measure("energy_per_atom_mae", "meV/atom", 1e3, "energy MAE"),)
    return (*energies, OF_FORCES) if forces else energies
