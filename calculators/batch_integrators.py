"""ASE's velocity Verlet and Langevin dynamics for many structures at once, with the numbers that each gives alone.

A step has two parts, with an evaluation of the forces f between them. In ASE's units, with momenta p, masses m, time
step Δt, friction γ and two standard normal vectors ξ and η for every atom:

==============  =============================================  =====================================
                velocity Verlet                                Langevin
==============  =============================================  =====================================
first part      p ← p + f Δt/2,  r ← r + p Δt/m                v ← v + c₁f/m − c₂v + c₃ξ − c₄η,  r ← r + v Δt + c₅η
second part     p ← p + f Δt/2                                 v ← v + c₁f/m − c₂v + c₃ξ − c₄η
==============  =============================================  =====================================

with the coefficients of Vanden-Eijnden and Ciccotti, Chem. Phys. Lett. 429, 310 (2006), equation 23.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms, units
from torch import Tensor

from gfmpot.calculators.batch_coordinates import free_coordinates
from gfmpot.calculators.md_config import MDConfig


class Particles:
    """Positions, momenta and masses of the atoms of all structures in flight."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.positions, self.momenta, self.kick = (self._tensor(np.zeros((0, 3))) for _ in range(3))
        self.masses, self.cell = self._tensor(np.zeros((0, 1))), self._tensor(np.zeros((0, 3, 3)))
        self.free = self._tensor(np.zeros((0, 3), dtype=bool))
        self.fresh = self._tensor(np.zeros(0, dtype=bool))
        self.structure_of_atom = self._tensor(np.zeros(0, dtype=np.int64))

    @property
    def n_structures(self) -> int:
        """G."""
        return len(self.cell)

    def join(self, structures: Sequence[Atoms]) -> None:
        """Add structures, which are at the beginning of a step; errors as :func:`free_coordinates`."""

        def added(now: Tensor, arrays: Sequence[np.ndarray]) -> Tensor:
            return torch.cat([now, self._tensor(np.concatenate(arrays))])

        first = range(self.n_structures, self.n_structures + len(structures))
        of_atom = [np.full(len(atoms), i) for i, atoms in zip(first, structures, strict=True)]
        self.structure_of_atom = added(self.structure_of_atom, of_atom)
        self.positions = added(self.positions, [atoms.positions for atoms in structures])
        self.momenta = added(self.momenta, [atoms.get_momenta() for atoms in structures])
        self.kick = added(self.kick, [np.zeros((len(atoms), 3)) for atoms in structures])
        self.masses = added(self.masses, [atoms.get_masses()[:, None] for atoms in structures])
        self.free = added(self.free, [free_coordinates(atoms) for atoms in structures])
        self.cell = added(self.cell, [atoms.cell.array[None] for atoms in structures])
        self.fresh = added(self.fresh, [np.ones(1, dtype=bool) for _ in structures])

    def keep(self, kept: Sequence[int]) -> Tensor:
        """Forget all other structures; returns which atoms stay."""
        chosen = torch.tensor(kept, dtype=torch.int64, device=self._device)
        atoms = torch.nonzero(torch.isin(self.structure_of_atom, chosen)).flatten()
        for name in ("positions", "momenta", "kick", "masses", "free"):
            setattr(self, name, getattr(self, name)[atoms])
        self.structure_of_atom = torch.searchsorted(chosen, self.structure_of_atom[atoms])
        self.cell, self.fresh = self.cell[chosen], self.fresh[chosen]
        return atoms

    def kinetic_energy(self) -> Tensor:
        """(G,) eV."""
        each = (self.momenta**2 / (2.0 * self.masses)).sum(dim=1)
        return each.new_zeros(self.n_structures).index_add(0, self.structure_of_atom, each)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device)


class Integrator(ABC):
    """The two parts of a step."""

    @abstractmethod
    def first(self, particles: Particles, forces: Tensor, generators: Sequence[np.random.Generator]) -> None:
        """Move momenta and positions with the forces (N, 3) at the old positions; a generator for each structure."""

    @abstractmethod
    def second(self, particles: Particles, forces: Tensor) -> None:
        """Move the momenta with the forces at the new positions; those of fresh structures stay."""


class VelocityVerlet(Integrator):
    """``ase.md.verlet.VelocityVerlet``."""

    def __init__(self, config: MDConfig) -> None:
        self._dt = config.timestep * units.fs

    def first(self, particles: Particles, forces: Tensor, generators: Sequence[np.random.Generator]) -> None:
        """See :class:`Integrator`."""
        momenta = (particles.momenta + 0.5 * self._dt * forces) * particles.free
        particles.momenta = momenta
        particles.positions = particles.positions + self._dt * momenta / particles.masses

    def second(self, particles: Particles, forces: Tensor) -> None:
        """See :class:`Integrator`."""
        moving = particles.free & ~particles.fresh[particles.structure_of_atom, None]
        particles.momenta = particles.momenta + (0.5 * self._dt * forces).where(moving, 0.0)


class Langevin(Integrator):
    """``ase.md.langevin.Langevin`` without a fixed centre of mass."""

    def __init__(self, config: MDConfig) -> None:
        self._dt, self._heat = config.timestep * units.fs, units.kB * config.temperature
        self._friction = config.friction / (1000 * units.fs)
        dt, friction = self._dt, self._friction
        self._c1, self._c2 = dt / 2 - dt**2 * friction / 8, dt * friction / 2 - dt**2 * friction**2 / 8

    def first(self, particles: Particles, forces: Tensor, generators: Sequence[np.random.Generator]) -> None:
        """See :class:`Integrator`."""
        dt, friction = self._dt, self._friction
        xi, eta = self._noise(particles, generators)
        sigma = torch.sqrt(2 * self._heat * friction / particles.masses)
        c5 = dt**1.5 * sigma / (2 * np.sqrt(3))
        c3, c4 = np.sqrt(dt) * sigma / 2 - dt**1.5 * friction * sigma / 8, friction / 2 * c5
        particles.kick = c3 * xi - c4 * eta
        velocities = self._kicked(particles, forces)
        moves = (dt * velocities + c5 * eta) * particles.free
        particles.positions = particles.positions + moves
        particles.momenta = (moves - c5 * eta) / dt * particles.masses  # of fixed atoms what ASE has, too

    def second(self, particles: Particles, forces: Tensor) -> None:
        """See :class:`Integrator`."""
        fresh = particles.fresh[particles.structure_of_atom, None]
        momenta = self._kicked(particles, forces) * particles.masses * particles.free
        particles.momenta = torch.where(fresh, particles.momenta, momenta)

    def _kicked(self, particles: Particles, forces: Tensor) -> Tensor:
        velocities = particles.momenta / particles.masses
        pulled = self._c1 * (forces * particles.free) / particles.masses
        kicked: Tensor = velocities + pulled - self._c2 * velocities + particles.kick
        return kicked

    def _noise(self, particles: Particles, generators: Sequence[np.random.Generator]) -> tuple[Tensor, Tensor]:
        """ξ and η of every structure from its own generator, drawn as ASE draws them."""
        sizes = torch.bincount(particles.structure_of_atom, minlength=particles.n_structures).tolist()
        drawn = [g.standard_normal((2, n, 3)) for g, n in zip(generators, sizes, strict=True)]
        both = torch.from_numpy(np.concatenate(drawn, axis=1)).to(particles.positions.device)
        return both[0], both[1]


INTEGRATORS: dict[str, type[VelocityVerlet | Langevin]] = {"nve": VelocityVerlet, "nvt-langevin": Langevin}
"""By name of the ensemble."""
