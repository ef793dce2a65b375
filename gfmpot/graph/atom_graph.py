"""The data structure that everything computes on: one or several structures with their neighbour lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from gfmpot import kernels

if TYPE_CHECKING:
    from torch_geometric.data import Data

T = TypeVar("T")

UNSPECIFIED_SPIN = 0
"""Stands for "no multiplicity stated" in :attr:`AtomGraph.spin`."""

MAX_ATOMIC_NUMBER = 118

_PER_ATOM = ("positions", "atomic_numbers", "forces")
_PER_STRUCTURE = ("cell", "pbc", "charge", "spin", "branch", "energy", "stress")


@dataclass(frozen=True)
class AtomGraph:
    """One or several structures as a graph; G structures, N atoms, E directed edges.

    Geometry is float64 whatever precision a network runs in. Edge ``e`` points from its sender ``edge_index[0, e]`` to
    its receiver ``edge_index[1, e]``, on which messages are summed; its vector is
    ``positions[receiver] - positions[sender] + cell_shifts @ cell``. Edges are sorted by receiver.
    A missing label is NaN, so a batch may be partly labelled.
    """

    positions: Tensor  # (N, 3) Å, float64
    atomic_numbers: Tensor  # (N,) int64
    cell: Tensor  # (G, 3, 3) Å, float64, rows are lattice vectors; zero where there is none
    pbc: Tensor  # (G, 3) bool
    edge_index: Tensor  # (2, E) int64
    cell_shifts: Tensor  # (E, 3) int64
    structure_of_atom: Tensor  # (N,) int64, ascending
    charge: Tensor  # (G,) int64, elementary charges
    spin: Tensor  # (G,) int64, multiplicity 2S+1; 0 = unspecified
    branch: Tensor | None = None  # (G,) int64, the branch whose theory labelled the structure
    energy: Tensor | None = None  # (G,) eV, float64
    forces: Tensor | None = None  # (N, 3) eV/Å
    stress: Tensor | None = None  # (G, 6) eV/Å³, ASE's Voigt order xx yy zz yz xz xy and sign

    @property
    def n_structures(self) -> int:
        """G, the number of structures."""
        return self.cell.shape[0]

    @property
    def n_atoms(self) -> int:
        """N, the number of atoms of all structures together."""
        return self.positions.shape[0]

    @property
    def n_edges(self) -> int:
        """E, the number of directed edges of all structures together."""
        return self.edge_index.shape[1]

    @property
    def senders(self) -> Tensor:
        """(E,) atom from which each edge starts."""
        return self.edge_index[0]

    @property
    def receivers(self) -> Tensor:
        """(E,) atom on which each edge ends, ascending."""
        return self.edge_index[1]

    def once(self, make: Callable[[AtomGraph], T]) -> T:
        """What ``make``, which is known by its name and module, makes of this topology: made the first time."""
        key = f"_{make.__module__}.{make.__qualname__}"
        if key not in self.__dict__:
            self.__dict__[key] = make(self)
        made: T = self.__dict__[key]
        return made

    @cached_property
    def atoms_per_structure(self) -> Tensor:
        """(G,) int64 number of atoms."""
        counts = torch.zeros_like(self.charge)  # not bincount, whose size a compiler cannot know
        return counts.index_add(0, self.structure_of_atom, torch.ones_like(self.structure_of_atom))

    @cached_property
    def structure_of_edge(self) -> Tensor:
        """(E,) int64 structure of each edge."""
        return self.structure_of_atom[self.receivers]

    @cached_property
    def composition(self) -> Tensor:
        """(G, 118) float64 number of atoms of each element."""
        cells = self.structure_of_atom * MAX_ATOMIC_NUMBER + self.atomic_numbers - 1
        counts = self.cell.new_zeros(self.n_structures * MAX_ATOMIC_NUMBER)
        counts = counts.index_add(0, cells, torch.ones_like(cells, dtype=counts.dtype))
        return counts.view(self.n_structures, MAX_ATOMIC_NUMBER)

    @cached_property
    def topology(self) -> tuple[Tensor, Tensor, Tensor]:
        """The order of edges as kernels need it: see :func:`gfmpot.kernels.topology`."""
        return kernels.topology(self.edge_index, self.n_atoms)

    @cached_property
    def kinds(self) -> tuple[Tensor, Tensor]:
        """(U,) one atom of each kind, and (N,) the kind of each atom.

        Atoms of one kind enter a network alike: the same element, in structures of the same charge and multiplicity,
        and of the same size unless they are neutral and state no multiplicity.
        """
        plain = (self.charge == 0) & (self.spin == UNSPECIFIED_SPIN)
        if plain.all():
            present = self.composition.sum(dim=0) > 0
            row = present.cumsum(0) - 1  # of each element in the table of those present
            kind = row[self.atomic_numbers - 1]
            one = kind.new_empty(int(row[-1]) + 1)
            return one.scatter(0, kind, torch.arange(self.n_atoms, device=kind.device)), kind
        size = self.atoms_per_structure.masked_fill(plain, 0)
        of_structure = torch.stack([self.charge, self.spin, size], dim=1)[self.structure_of_atom]
        rows = torch.cat([self.atomic_numbers.unsqueeze(1), of_structure], dim=1)
        unique, kind = torch.unique(rows, dim=0, return_inverse=True)
        first = kind.new_full((len(unique),), self.n_atoms)
        return first.scatter_reduce(0, kind, torch.arange(self.n_atoms, device=kind.device), "amin"), kind

    @cached_property
    def volume(self) -> Tensor:
        """(G,) Å³, positive for either handedness; NaN without periodicity or with a zero cell vector."""
        a, b, c = self.cell.unbind(dim=1)
        volume = (torch.linalg.cross(a, b) * c).sum(dim=1).abs()
        has_volume = self.pbc.any(dim=1) & (volume > 1e-6)
        return torch.where(has_volume, volume, torch.nan)

    def to(self, device: torch.device | str) -> AtomGraph:
        """The same graph with every tensor on ``device``; itself, if it is there."""
        if self.positions.device == torch.device(device):
            return self
        moved = {name: value.to(device) for name, value in self._tensors().items()}
        return dataclasses.replace(self, **moved)

    def replace(self, **changes: Any) -> AtomGraph:
        """A copy with some fields exchanged."""
        return dataclasses.replace(self, **changes)

    def part(self, start: int, stop: int) -> AtomGraph:
        """Structures ``start`` to ``stop`` of this batch, as a batch of their own."""
        limits = torch.tensor([start, stop], device=self.cell.device)
        first, last = torch.searchsorted(self.structure_of_atom, limits).tolist()
        edges = slice(*torch.searchsorted(self.receivers.contiguous(), limits.new_tensor([first, last])).tolist())
        ranges = dict.fromkeys(_PER_ATOM, slice(first, last)) | dict.fromkeys(_PER_STRUCTURE, slice(start, stop))
        kept = {name: value[ranges[name]] for name, value in self._tensors().items() if name in ranges}
        return dataclasses.replace(
            self,
            **kept,
            edge_index=self.edge_index[:, edges] - first,
            cell_shifts=self.cell_shifts[edges],
            structure_of_atom=self.structure_of_atom[first:last] - start,
        )

    @classmethod
    def batch(cls, graphs: Sequence[AtomGraph]) -> AtomGraph:
        """Join graphs into one; an optional field must be present in all of them or in none.

        Raises:
            ValueError: no graphs, or a field that only some of them have.
        """
        if not graphs:
            raise ValueError("cannot batch an empty list of graphs")
        if len(graphs) == 1:
            return graphs[0]
        joined: dict[str, Tensor | None] = {}
        for name in (*_PER_ATOM, *_PER_STRUCTURE, "cell_shifts"):
            parts = [getattr(graph, name) for graph in graphs]
            present = [part for part in parts if part is not None]
            if present and len(present) != len(parts):
                raise ValueError(
                    f"cannot batch: {len(present)} of {len(parts)} graphs have {name!r}; give it to all or none"
                )
            joined[name] = torch.cat(present) if present else None
        joined["edge_index"] = torch.cat(_shifted(graphs, "edge_index", "n_atoms"), dim=1)
        joined["structure_of_atom"] = torch.cat(_shifted(graphs, "structure_of_atom", "n_structures"))
        return cls(**joined)  # type: ignore[arg-type]

    def to_pyg(self) -> Data:
        """As a ``torch_geometric.data.Data`` with PyG's names (``pos``, ``z``, ``batch``) beside ours."""
        from torch_geometric.data import Data

        return Data(pos=self.positions, z=self.atomic_numbers, batch=self.structure_of_atom, **self._other_fields())

    @classmethod
    def from_pyg(cls, data: Data) -> AtomGraph:
        """The inverse of :meth:`to_pyg`."""
        fields = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in data.to_dict().items() if name in fields}
        return cls(positions=data.pos, atomic_numbers=data.z, structure_of_atom=data.batch, **values)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _other_fields(self) -> dict[str, Tensor]:
        renamed = ("positions", "atomic_numbers", "structure_of_atom")
        return {name: value for name, value in self._tensors().items() if name not in renamed}


def _shifted(graphs: Sequence[AtomGraph], field: str, count: str) -> list[Tensor]:
    """Index tensors of each graph, moved past the items of the graphs before it."""
    shifted, offset = [], 0
    for graph in graphs:
        shifted.append(getattr(graph, field) + offset)
        offset += getattr(graph, count)
    return shifted
