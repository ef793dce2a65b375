"""Energies, forces and stress of many moving structures at once, as tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from torch import Tensor

from gfmpot.graph import AtomGraph, BatchError, VerletBatch, VerletList, graph_from_atoms
from gfmpot.graph.build import COINCIDENT
from gfmpot.graph.neighbours import FloatArray, NeighbourList, nearest_only
from gfmpot.graph.verlet_batch import BatchEdges
from gfmpot.inference import Predictor, Results
from gfmpot.inference.advice import FORCES_NOT_LEARNT, advise


@dataclass(frozen=True, eq=False)
class Member:
    """A structure of a batch: its graph where it began, and its neighbour list."""

    graph: AtomGraph
    verlet: VerletList


def member(atoms: Atoms, predictor: Predictor, parameters: Mapping[str, Any]) -> Member:
    """Check a structure and find its neighbours.

    Args:
        atoms: the structure; charge and spin in ``info`` take precedence.
        predictor: what will evaluate it.
        parameters: of a :class:`gfmpot.GFMCalculator`: ``charge``, ``spin`` and ``skin``.

    Raises:
        InvalidStructureError: a structure that no potential can answer for.
    """
    verlet = VerletList(predictor.cutoff, parameters["skin"])
    stated = {key: parameters[key] for key in ("charge", "spin")}
    return Member(graph_from_atoms(atoms, cutoff=predictor.cutoff, search=verlet, **stated), verlet)


class Evaluation(NamedTuple):
    """Of G structures with N atoms, in float64, where the predictor computes."""

    energy: Tensor  # (G,) eV
    forces: Tensor  # (N, 3) eV/Å
    stress: Tensor  # (G, 6) eV/Å³, ASE's Voigt order and sign; NaN without a volume
    edges: Tensor  # (G,) number of directed edges


def full_stress(stress: Tensor) -> Tensor:
    """(G, 3, 3) from (G, 6) in Voigt order, xx yy zz yz xz xy."""
    return stress[:, (0, 5, 4, 5, 1, 3, 4, 3, 2)].view(-1, 3, 3)


class Frames:
    """The structures of an evaluation as ``ase.Atoms``, each made when it is asked for."""

    def __init__(self, place: tuple[Tensor, Tensor], evaluation: Evaluation, first_atom: Sequence[int]) -> None:
        self._place, self._evaluation, self._first = place, evaluation, first_atom

    @cached_property
    def _arrays(self) -> list[FloatArray]:
        return [tensor.cpu().numpy() for tensor in (*self._place, *self._evaluation[:3])]

    def __call__(self, i: int, start: Atoms) -> Atoms:
        """Structure ``i``: a copy of ``start`` where it is now, with energy, forces and, if there is one, stress."""
        positions, cell, energy, forces, stress = self._arrays
        atoms, of_structure = start.copy(), slice(self._first[i], self._first[i + 1])
        atoms.set_cell(cell[i])
        atoms.positions = positions[of_structure]
        results = {"energy": float(energy[i]), "free_energy": float(energy[i]), "forces": forces[of_structure].copy()}
        if np.isfinite(stress[i]).all():
            results["stress"] = stress[i].copy()
        atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms


class BatchEvaluator:
    """Evaluates the same structures again and again while they move; the structures may be exchanged in between."""

    def __init__(self, predictor: Predictor) -> None:
        if not predictor.potential.forces_learnt:
            advise(FORCES_NOT_LEARNT)
        self.predictor = predictor
        self.neighbours = VerletBatch(predictor.device)
        self._most_edges: float = math.inf  # in memory; known after it did not suffice

    def arrange(self, members: Sequence[Member]) -> None:
        """The structures from now on, in order; at least one."""
        self.neighbours.arrange(member.verlet for member in members)
        bare = [
            member.graph.replace(edge_index=torch.zeros(2, 0).long(), cell_shifts=torch.zeros(0, 3).long())
            for member in members
        ]
        self.graph = AtomGraph.batch(bare).to(self.predictor.device)

    def __call__(self, positions: Tensor, cell: Tensor) -> Evaluation:
        """Evaluate all structures at new positions (N, 3) and cells (G, 3, 3), in Å and float64.

        Raises:
            BatchError: structures that the model cannot answer for; the others can be evaluated without them.
        """
        self._check_finite(positions, cell)
        edges = self.neighbours(positions, cell)
        self._check_contacts(edges)
        if self.predictor.max_neighbours is not None:
            edges = _capped(edges, self.predictor.max_neighbours)
        graph = replace(
            self.graph, positions=positions, cell=cell, edge_index=edges.edge_index, cell_shifts=edges.cell_shifts
        )
        counts = torch.bincount(edges.structure_of_edge, minlength=graph.n_structures)
        return _stacked(self._results(graph), counts)

    def frames(self, place: tuple[Tensor, Tensor], evaluation: Evaluation) -> Frames:
        """The structures where they were evaluated."""
        return Frames(place, evaluation, self.neighbours.first_atom)

    def _check_finite(self, positions: Tensor, cell: Tensor) -> None:
        good = torch.isfinite(cell).flatten(1).all(dim=1)
        bad_atoms = ~torch.isfinite(positions).all(dim=1)
        if bad_atoms.any():
            good[self.graph.structure_of_atom[bad_atoms]] = False
        if not good.all():
            bad = torch.nonzero(~good).flatten().tolist()
            raise BatchError(dict.fromkeys(bad, "positions or cell are not finite"))

    def _check_contacts(self, edges: BatchEdges) -> None:
        if len(edges.lengths) == 0 or edges.lengths.min() >= COINCIDENT:
            return
        reasons: dict[int, str] = {}
        for edge in torch.nonzero(edges.lengths < COINCIDENT).flatten().tolist():
            structure = int(edges.structure_of_edge[edge])
            first = self.neighbours.first_atom[structure]
            i, j = sorted((edges.edge_index[:, edge] - first).tolist())
            reasons.setdefault(structure, f"atoms {i} and {j} are {float(edges.lengths[edge]):.3g} Å apart")
        raise BatchError(reasons)

    def _results(self, graph: AtomGraph) -> list[Results]:
        reasons: dict[int, str] = {}
        found = self._answers(graph, 0, reasons)
        if reasons:
            raise BatchError(reasons)
        return found

    def _answers(self, graph: AtomGraph, first: int, reasons: dict[int, str]) -> list[Results]:
        """All at once; by halves if that fails, until the structures that fail stand alone, or lacks memory."""
        alone = graph.n_structures == 1
        if alone or graph.n_edges <= self._most_edges:
            try:
                return self.predictor(graph)
            except (ValueError, MemoryError) as error:
                if alone:
                    reasons[first] = str(error)
                    return []
                if isinstance(error, MemoryError):
                    self._most_edges = graph.n_edges // 2
        middle = graph.n_structures // 2
        left = self._answers(graph.part(0, middle), first, reasons)
        return left + self._answers(graph.part(middle, graph.n_structures), first + middle, reasons)


def _capped(edges: BatchEdges, max_neighbours: int) -> BatchEdges:
    """The nearest neighbours only, as the model was trained; see :func:`gfmpot.graph.neighbours.nearest_only`."""
    arrays = NeighbourList(*(tensor.cpu().numpy() for tensor in edges[:3]))
    kept = nearest_only(arrays, max_neighbours)
    edge_index, shifts, lengths = (torch.from_numpy(array).to(edges.lengths.device) for array in kept)
    first = torch.searchsorted(edges.edge_index[1].contiguous(), edge_index[1].contiguous())
    return BatchEdges(edge_index, shifts, lengths, edges.structure_of_edge[first])


def _stacked(results: Sequence[Results], edges: Tensor) -> Evaluation:
    without = np.full(6, np.nan)
    energy = torch.tensor([single["energy"] for single in results], dtype=torch.float64)
    forces = torch.from_numpy(np.concatenate([single["forces"] for single in results]))
    stress = torch.from_numpy(np.stack([single.get("stress", without) for single in results]))
    energy, forces, stress = (part.to(edges.device, torch.float64) for part in (energy, forces, stress))
    return Evaluation(energy, forces, stress, edges)
