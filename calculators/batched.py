"""Many structures at once: relaxation and molecular dynamics of whole lists, evaluated together.

>>> relaxed = relax_many(structures, GFMCalculator(), cell=True, fmax=0.01)
>>> [one.energy for one in relaxed if one.converged]

A structure takes the steps that it would take alone through :func:`gfmpot.calculators.relaxation.relax` or
:func:`gfmpot.calculators.dynamics.run_md`: energies, forces, neighbour lists and steps are computed for all together,
and nothing else connects them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ase import Atoms

from gfmpot.calculators.ase import GFMCalculator
from gfmpot.calculators.batch_flight import MAX_OPEN
from gfmpot.calculators.batch_integrators import INTEGRATORS
from gfmpot.calculators.batch_progress import Bar, progress_bar
from gfmpot.calculators.batched_dynamics import BatchSimulated, Simulations
from gfmpot.calculators.batched_relaxation import BatchRelaxed, Relaxations, RelaxSettings
from gfmpot.calculators.md_config import MDConfig
from gfmpot.calculators.relaxation import BatchOptimizerName, check_settings
from gfmpot.graph import BatchBudget

__all__ = [
    "BatchOptimizerName",
    "BatchRelaxed",
    "BatchSimulated",
    "MDConfig",
    "dynamics_many",
    "relax_as_done",
    "relax_many",
]

R = TypeVar("R")


def relax_many(
    structures: Iterable[Atoms],
    calculator: GFMCalculator,
    *,
    cell: bool | Sequence[bool] = False,
    fmax: float = 0.05,
    steps: int = 500,
    optimizer: BatchOptimizerName = "FIRE",
    trajectories: str | Path | None = None,
    names: Sequence[str] | None = None,
    budget: BatchBudget | None = None,
    progress: bool = True,
) -> list[BatchRelaxed]:
    """Relax copies of many structures, evaluated in batches.

    A structure that is refused or fails has an ``error`` in its result; the others are not affected.

    Args:
        structures: starts, crystals, slabs and molecules in any mixture; charge and multiplicity in ``info`` and the
            constraints ``FixAtoms`` and ``FixCartesian`` are honoured.
        calculator: what evaluates them.
        cell: relax the cells too (as ASE's FrechetCellFilter, along periodic directions), of all or one flag each.
        fmax: eV/Å, largest force (and, with ``cell``, largest generalised force of the cell) to stop at.
        steps: the most steps for each structure.
        optimizer: ``"FIRE"`` or ``"LBFGS"``, as ASE's with their default settings.
        trajectories: folder for the steps of each structure, as ASE ``.traj`` files.
        names: of those files, without suffix; by default the number in the list.
        budget: the most that is evaluated at once; by default what suits a CPU.
        progress: show a bar if standard error is a terminal.

    Returns:
        One result for each structure, in their order.

    Raises:
        ValueError: settings that make no sense.
    """
    options = {"fmax": fmax, "steps": steps, "optimizer": optimizer, "trajectories": trajectories, "names": names}
    done = relax_as_done(structures, calculator, cell=cell, budget=budget, **options)  # type: ignore[arg-type]
    with progress_bar(len(structures) if isinstance(structures, Sized) else None, progress) as bar:
        return in_order(done, bar, lambda one: one.converged, counted=1)


def relax_as_done(
    structures: Iterable[Atoms],
    calculator: GFMCalculator,
    *,
    cell: bool | Sequence[bool] = False,
    fmax: float = 0.05,
    steps: int = 500,
    optimizer: BatchOptimizerName = "FIRE",
    trajectories: str | Path | None = None,
    names: Sequence[str] | None = None,
    budget: BatchBudget | None = None,
) -> Iterator[tuple[int, BatchRelaxed]]:
    """As :func:`relax_many`, but each result comes with its place in the input as soon as it is there.

    ``structures`` is read as there is room for more, so it may be longer than fits into memory.
    """
    check_settings(optimizer, fmax, steps, batched=True)
    check_lengths(structures, names=names, cell=None if isinstance(cell, bool) else cell)
    file = (lambda _: None) if trajectories is None else files(trajectories, names, ".traj")
    cells = (lambda _: bool(cell)) if isinstance(cell, bool) else (lambda index: bool(cell[index]))
    settings = RelaxSettings(fmax, steps, optimizer, cells, file)
    return Relaxations(calculator, settings, within(budget, open_files=trajectories is not None)).run(structures)


def dynamics_many(
    structures: Iterable[Atoms],
    calculator: GFMCalculator,
    config: MDConfig,
    folder: str | Path,
    *,
    names: Sequence[str] | None = None,
    resume: bool = False,
    budget: BatchBudget | None = None,
    progress: bool = True,
) -> list[BatchSimulated]:
    """Simulate copies of many structures, evaluated in batches.

    Each run is the one that :func:`gfmpot.calculators.dynamics.run_md` makes of the structure alone, with the same
    files, and the seed ``config.seed`` plus its place in the list: equal structures take different paths. A run that is
    refused or explodes has an ``error`` in its result; the others are not affected.

    Args:
        structures: starts, in any mixture; velocities are kept, or drawn where there are none, and the constraints
            ``FixAtoms`` and ``FixCartesian`` are honoured.
        calculator: what evaluates them.
        config: what to simulate; the ensembles are ``nve`` and ``nvt-langevin``.
        folder: where the trajectory (``.traj``) and the table (``.csv``) of each run are written.
        names: of those files, without suffix; by default the number in the list.
        resume: go on with the runs in ``folder``, each from its last whole frame, or begin them.
        budget: the most that is evaluated at once; by default what suits a CPU.
        progress: show a bar if standard error is a terminal.

    Returns:
        One result for each structure, in their order.

    Raises:
        ValueError: an ensemble that only :func:`gfmpot.calculators.dynamics.run_md` has, or names that are not unique.
    """
    if config.ensemble not in INTEGRATORS:
        raise ValueError(
            f"batches run {' and '.join(INTEGRATORS)}, got {config.ensemble}; use run_md for each structure"
        )
    check_lengths(structures, names=names)
    trajectory, log = files(folder, names, ".traj"), files(folder, names, ".csv")
    simulations = Simulations(
        calculator, config, lambda i: (trajectory(i), log(i)), resume, within(budget, open_files=True)
    )
    steps = len(structures) * (config.steps + 1) if isinstance(structures, Sized) else None
    with progress_bar(steps, progress) as bar:
        simulations.on_turn = bar.advance
        return in_order(simulations.run(structures), bar, lambda one: one.error is None, counted=0)


def check_lengths(structures: Iterable[Atoms], **given: Sequence[object] | None) -> None:
    """Refuse lists that are not as long as that of the structures, if that has a length."""
    for name, values in given.items():
        if values is not None and isinstance(structures, Sized) and len(values) != len(structures):
            raise ValueError(f"{name}: expected one for each of the {len(structures)} structures, got {len(values)}")


def within(budget: BatchBudget | None, *, open_files: bool) -> BatchBudget:
    """The budget, lowered if every structure in flight has files open."""
    budget = budget or BatchBudget()
    if not open_files:
        return budget
    return replace(budget, max_structures=min(budget.max_structures, MAX_OPEN))


def files(folder: str | Path, names: Sequence[str] | None, suffix: str) -> Callable[[int], Path]:
    """The file of each structure by its place in the input; the folder is made."""
    if names is not None and len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"names of files must differ, got {twice!r} twice")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return lambda index: path / f"{index if names is None else names[index]}{suffix}"


def in_order(done: Iterator[tuple[int, R]], bar: Bar, good: Callable[[R], bool], *, counted: int) -> list[R]:
    """Collect results into the order of the input; each advances the bar by ``counted``."""
    results: dict[int, R] = {}
    for index, result in done:
        results[index] = result
        bar.advance(counted)
        bar.tell(good(result))
    return [results[index] for index in range(len(results))]
