"""ASE's FIRE and LBFGS for many structures at once: each takes the steps that it would take alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gfmpot.calculators.batch_coordinates import Layout

MAXSTEP = 0.2
"""Å, the longest step, as in ASE."""


class BatchOptimizer(ABC):
    """Steps of all structures in flight; G structures, R rows of coordinates (see ``batch_coordinates``)."""

    @abstractmethod
    def __init__(self, device: torch.device) -> None:
        """No structures yet."""

    @abstractmethod
    def step(self, rows: Tensor, forces: Tensor, layout: Layout) -> Tensor:
        """(R, 3) new rows from rows and forces (R, 3)."""

    @abstractmethod
    def keep(self, kept: Sequence[int], rows: Tensor) -> None:
        """Forget all other structures; ``rows`` are those of the ones that stay."""

    @abstractmethod
    def join(self, structures: int, rows: int) -> None:
        """Add structures, with so many rows together, that have taken no step yet."""


class FIRE(BatchOptimizer):
    """``ase.optimize.FIRE`` with its default settings (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006)."""

    dt_start, dt_max, n_min, dt_up, dt_down, mixing_start, mixing_down = 0.1, 1.0, 5, 1.1, 0.5, 0.1, 0.99

    def __init__(self, device: torch.device) -> None:
        self._velocity = torch.zeros(0, 3, dtype=torch.float64, device=device)
        self._dt, self._mixing, self._downhill = (self._velocity.new_zeros(0) for _ in range(3))
        self._fresh = torch.zeros(0, dtype=torch.bool, device=device)

    def step(self, rows: Tensor, forces: Tensor, layout: Layout) -> Tensor:
        """One Euler step with velocities turned towards the forces, or stopped where they lead uphill."""
        self._turn(forces, layout)
        self._fresh[:] = False
        of_row = layout.structure_of_row
        self._velocity = self._velocity + self._dt[of_row, None] * forces
        moves = self._dt[of_row, None] * self._velocity
        length = layout.sums((moves**2).sum(dim=1)).sqrt()
        return rows + moves * torch.where(length > MAXSTEP, MAXSTEP / length, 1.0)[of_row, None]

    def _turn(self, forces: Tensor, layout: Layout) -> None:
        velocity, of_row = self._velocity, layout.structure_of_row
        downhill = layout.sums((forces * velocity).sum(dim=1)) > 0
        speed = layout.sums((velocity**2).sum(dim=1)).sqrt()
        strength = layout.sums((forces**2).sum(dim=1)).sqrt()
        towards = (self._mixing * speed / strength)[of_row, None] * forces
        turned = (1.0 - self._mixing[of_row, None]) * velocity + towards
        self._velocity = torch.where(downhill[of_row, None], turned, 0.0)
        steady, uphill = downhill & (self._downhill > self.n_min), ~downhill & ~self._fresh
        self._dt = torch.where(steady, (self._dt * self.dt_up).clamp(max=self.dt_max), self._dt)
        self._dt = torch.where(uphill, self._dt * self.dt_down, self._dt)
        self._mixing = torch.where(steady, self._mixing * self.mixing_down, self._mixing)
        self._mixing = torch.where(uphill, self.mixing_start, self._mixing)
        self._downhill = torch.where(downhill, self._downhill + 1, 0.0)

    def keep(self, kept: Sequence[int], rows: Tensor) -> None:
        """See :class:`BatchOptimizer`."""
        chosen = torch.tensor(kept, dtype=torch.int64, device=rows.device)
        self._velocity = self._velocity[rows]
        self._dt, self._mixing, self._downhill = (part[chosen] for part in (self._dt, self._mixing, self._downhill))
        self._fresh = self._fresh[chosen]

    def join(self, structures: int, rows: int) -> None:
        """See :class:`BatchOptimizer`."""
        self._velocity = torch.cat([self._velocity, self._velocity.new_zeros(rows, 3)])
        self._dt = torch.cat([self._dt, self._dt.new_full((structures,), self.dt_start)])
        self._mixing = torch.cat([self._mixing, self._mixing.new_full((structures,), self.mixing_start)])
        self._downhill = torch.cat([self._downhill, self._downhill.new_zeros(structures)])
        self._fresh = torch.cat([self._fresh, self._fresh.new_ones(structures)])


@dataclass
class _Pair:
    """How far a step went, how the gradient changed, and one over their product; zero for structures not yet there."""

    step: Tensor  # (R, 3)
    change: Tensor  # (R, 3)
    curvature: Tensor  # (G,)


class LBFGS(BatchOptimizer):
    """``ase.optimize.LBFGS`` with its default settings (Nocedal, Math. Comp. 35, 773, 1980)."""

    memory, stiffness = 100, 70.0

    def __init__(self, device: torch.device) -> None:
        self._pairs: deque[_Pair] = deque(maxlen=self.memory)
        self._rows = torch.zeros(0, 3, dtype=torch.float64, device=device)
        self._forces = self._rows
        self._fresh = torch.zeros(0, dtype=torch.bool, device=device)

    def step(self, rows: Tensor, forces: Tensor, layout: Layout) -> Tensor:
        """A quasi-Newton step, shortened if a row would move too far."""
        self._remember(rows, forces, layout)
        moves = self._direction(forces, layout)
        longest = layout.largest(torch.linalg.vector_norm(moves, dim=1))
        scale = torch.where(longest >= MAXSTEP, MAXSTEP / longest, 1.0)
        self._rows, self._forces = rows, forces
        self._fresh[:] = False
        return rows + moves * scale[layout.structure_of_row, None]

    def _remember(self, rows: Tensor, forces: Tensor, layout: Layout) -> None:
        if self._fresh.all():
            return
        fresh = self._fresh[layout.structure_of_row, None]
        step, change = (
            (now - then).masked_fill(fresh, 0.0) for now, then in ((rows, self._rows), (self._forces, forces))
        )
        curvature = (1.0 / layout.sums((step * change).sum(dim=1))).masked_fill(self._fresh, 0.0)
        self._pairs.append(_Pair(step, change, curvature))

    def _direction(self, forces: Tensor, layout: Layout) -> Tensor:
        """The two loops over the history, newest first and oldest first."""
        of_row, direction, shares = layout.structure_of_row, forces, []
        for pair in reversed(self._pairs):
            share = pair.curvature * layout.sums((pair.step * direction).sum(dim=1))
            direction = direction - share[of_row, None] * pair.change
            shares.append(share)
        direction = direction / self.stiffness
        for pair, share in zip(self._pairs, reversed(shares), strict=True):
            back = pair.curvature * layout.sums((pair.change * direction).sum(dim=1))
            direction = direction + (share - back)[of_row, None] * pair.step
        return direction

    def keep(self, kept: Sequence[int], rows: Tensor) -> None:
        """See :class:`BatchOptimizer`; what only structures that left had done is forgotten."""
        chosen = torch.tensor(kept, dtype=torch.int64, device=rows.device)
        parts = (_Pair(pair.step[rows], pair.change[rows], pair.curvature[chosen]) for pair in self._pairs)
        self._pairs = deque((pair for pair in parts if pair.curvature.any()), self.memory)
        self._rows, self._forces, self._fresh = self._rows[rows], self._forces[rows], self._fresh[chosen]

    def join(self, structures: int, rows: int) -> None:
        """See :class:`BatchOptimizer`."""
        none = self._rows.new_zeros(rows, 3)
        for pair in self._pairs:
            pair.step, pair.change = torch.cat([pair.step, none]), torch.cat([pair.change, none])
            pair.curvature = torch.cat([pair.curvature, pair.curvature.new_zeros(structures)])
        self._rows, self._forces = torch.cat([self._rows, none]), torch.cat([self._forces, none])
        self._fresh = torch.cat([self._fresh, self._fresh.new_ones(structures)])


OPTIMIZERS: dict[str, type[BatchOptimizer]] = {"FIRE": FIRE, "LBFGS": LBFGS}
