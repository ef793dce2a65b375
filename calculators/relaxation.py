"""Relaxation of positions and cell with ASE's optimizers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from gfmpot.config import did_you_mean
from gfmpot.testing.structures import has_volume

if TYPE_CHECKING:
    from ase.io.trajectory import TrajectoryWriter

OptimizerName = Literal["FIRE", "LBFGS", "BFGS"]
BatchOptimizerName = Literal["FIRE", "LBFGS"]
"""What ``relax_many`` has of them."""

ASTRAY = 0.1
"""Sine of the angle by which periodic vectors of a layer or wire may be tilted out of their Cartesian axes."""


@dataclass(frozen=True)
class Relaxed:
    """The end of a relaxation and the way there."""

    atoms: Atoms
    converged: bool
    steps: int
    frames: list[Atoms]
    """Every step, with energy, forces and (where there is one) stress attached."""

    @property
    def energies(self) -> list[float]:
        """Energy of every step, eV."""
        return [float(frame.get_potential_energy()) for frame in self.frames]


def relax(
    atoms: Atoms,
    *,
    cell: bool = False,
    fmax: float = 0.05,
    steps: int = 500,
    optimizer: OptimizerName = "FIRE",
    trajectory: str | Path | None = None,
) -> Relaxed:
    """Relax a copy of ``atoms`` with the calculator attached to it.

    Args:
        atoms: start; its calculator is used, and constraints are kept.
        cell: relax the cell too (FrechetCellFilter, along the periodic directions); needs a volume.
        fmax: eV/Å, largest force (and, with ``cell``, largest generalised force of the cell) to stop at.
        steps: the most steps to take.
        optimizer: name of one of ASE's.
        trajectory: write every step to this ASE trajectory file.

    Raises:
        ValueError: no calculator, ``cell`` without a volume, or settings that make no sense.
    """
    import ase.optimize
    from ase.filters import FrechetCellFilter
    from ase.io.trajectory import Trajectory

    check_settings(optimizer, fmax, steps)
    if atoms.calc is None:
        raise ValueError("attach a calculator first: atoms.calc = GFMCalculator()")
    if cell:
        check_volume(atoms)
    moving = atoms.copy()
    moving.calc = atoms.calc
    frames: list[Atoms] = []
    target = FrechetCellFilter(moving, mask=periodic_strains(moving.pbc)) if cell else moving
    dynamics = getattr(ase.optimize, optimizer)(target, logfile=None)
    with ExitStack() as files:
        writer = None if trajectory is None else files.enter_context(Trajectory(trajectory, "w"))
        dynamics.attach(lambda: _record(moving, frames, writer))
        converged = bool(dynamics.run(fmax=fmax, steps=steps))
    return Relaxed(moving, converged, dynamics.get_number_of_steps(), frames)


def check_settings(optimizer: str, fmax: float, steps: int, *, batched: bool = False) -> None:
    """Refuse settings that make no sense.

    Raises:
        ValueError: an optimizer that there is not (or not for batches), ``fmax`` that is not positive, or negative
            ``steps``.
    """
    known = get_args(BatchOptimizerName if batched else OptimizerName)
    if optimizer not in known:
        where = " for batches" if batched else ""
        raise ValueError(f"no optimizer {optimizer!r}{where}{did_you_mean(str(optimizer).upper(), known)}")
    if not fmax > 0 or steps < 0:
        raise ValueError(f"fmax must be positive and steps not negative, got {fmax:g} eV/Å and {steps}")


def check_volume(atoms: Atoms) -> None:
    """Refuse to relax the cell of a structure that has none, or of a layer or wire that is turned.

    Raises:
        ValueError: no periodic direction, a cell vector of zero length, or periodic vectors far from the span of
            the Cartesian axes of the same places.
    """
    if not has_volume(atoms):
        raise ValueError("a structure without a volume has no cell to relax; relax positions only (cell=False)")
    periodic = atoms.cell.array[atoms.pbc]
    astray = np.linalg.norm(periodic[:, ~atoms.pbc], axis=1) / np.linalg.norm(periodic, axis=1)
    if astray.max() > ASTRAY:
        axes, vectors = (
            "".join(name for name, flag in zip(names, atoms.pbc, strict=True) if flag) for names in ("xyz", "abc")
        )
        raise ValueError(
            f"the cell is periodic along {vectors}, which must lie along {axes} to be strained without the vacuum; "
            "turn the structure (atoms.rotate with rotate_cell=True), or relax positions only (cell=False)"
        )


def snapshot(atoms: Atoms) -> Atoms:
    """A copy that keeps the results of the last evaluation without the calculator."""
    results = atoms.calc.results
    kept = {key: results[key] for key in ("energy", "free_energy", "forces", "stress") if key in results}
    frame = atoms.copy()
    frame.calc = SinglePointCalculator(frame, **kept)
    return frame


def _record(atoms: Atoms, frames: list[Atoms], writer: TrajectoryWriter | None) -> None:
    """Keep a step, and put it on disk at once: a relaxation that fails leaves its way there."""
    frames.append(snapshot(atoms))
    if writer is not None:
        writer.write(frames[-1])


def periodic_strains(pbc: np.ndarray) -> list[bool]:
    """Voigt mask (xx yy zz yz xz xy) of the strains along periodic directions: a vacuum is not squeezed out."""
    a, b, c = (bool(flag) for flag in pbc)
    return [a, b, c, b and c, a and c, a and b]
