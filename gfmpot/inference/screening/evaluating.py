"""From a piece of graphs to columns of results; a structure that fails does not take others with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gfmpot.graph import UNSPECIFIED_SPIN, AtomGraph, InvalidStructureError, graph_from_atoms
from gfmpot.inference.predictor import Predictor, Results
from gfmpot.inference.screening.preparing import Piece, Refused

if TYPE_CHECKING:
    from ase import Atoms

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Relaxation(NamedTuple):
    """The end of a relaxation."""

    atoms: Atoms
    steps: int
    converged: bool


Relax: TypeAlias = "Callable[[Sequence[Atoms]], Sequence[Relaxation | str]]"
"""Relaxes structures; for one that cannot be relaxed, the reason. Charge and multiplicity are in ``atoms.info``."""


@dataclass
class Rows:
    """Results of S structures of N atoms in all, as columns."""

    inputs: Ints  # (S,) number of the file
    indices: Ints  # (S,) place in the file
    formulas: list[str]  # (S,)
    natoms: Ints  # (S,)
    energy: Floats  # (S,) eV
    max_force: Floats  # (S,) eV/Å
    energy_std: Floats  # (S,) eV; NaN where there is no estimate and fewer than two branches know the elements
    novelty: Floats  # (S,) largest of its atoms; NaN from a model that does not estimate its errors
    weights: Floats  # (S, B)
    forces: Floats  # (N, 3) eV/Å, or (0, 3) if they are not wanted
    stress: Floats  # (S, 6) eV/Å³, or (0, 6); NaN without a volume
    relaxations: list[Relaxation] = field(default_factory=list)  # (S,), or none if nothing is relaxed

    def __len__(self) -> int:
        return len(self.formulas)

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Several, of which there is at least one, after each other."""
        joined: dict[str, Any] = {}
        for item in dataclasses.fields(cls):
            values = [getattr(part, item.name) for part in parts]
            lists = isinstance(values[0], list)
            joined[item.name] = [entry for value in values for entry in value] if lists else np.concatenate(values)
        return cls(**joined)

    def select(self, chosen: NDArray[np.bool_]) -> Rows:
        """The rows where ``chosen`` (S,) is true."""
        of_atom = np.repeat(chosen, self.natoms) if len(self.forces) else np.zeros(0, dtype=bool)
        changes: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            mask = of_atom if item.name == "forces" else chosen
            if isinstance(value, list):
                changes[item.name] = [entry for entry, keep in zip(value, chosen, strict=bool(value)) if keep]
            else:
                changes[item.name] = value[mask] if len(value) else value
        return Rows(**changes)


class Evaluation:
    """What is computed of each piece.

    Args:
        predictor: the model.
        forces: keep the forces.
        stress: keep the stress.
        relax: what relaxes the structures before they are evaluated.
    """

    def __init__(self, predictor: Predictor, *, forces: bool, stress: bool, relax: Relax | None) -> None:
        self.predictor, self.forces, self.stress, self.relax = predictor, forces, stress, relax

    def __call__(self, piece: Piece) -> tuple[Rows, list[Refused]]:
        """Results of the structures that could be answered for, and the others."""
        refused: list[Refused] = []
        relaxations: list[Relaxation] = []
        if self.relax is not None:
            piece, relaxations = self._relaxed(piece, self.relax, refused)
        outcomes = self._answers(piece) if len(piece) else []
        refused += [_refusal(piece, i, reason) for i, reason in enumerate(outcomes) if isinstance(reason, str)]
        kept = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
        results = [outcome for outcome in outcomes if not isinstance(outcome, str)]
        return self._rows(piece, kept, results, [relaxations[i] for i in kept] if relaxations else []), refused

    def _answers(self, piece: Piece) -> list[Results | str]:
        """All at once; if that is too much or fails, by halves, until what fails stands alone."""
        graph = piece.graph
        assert graph is not None
        if len(piece) > 1 and not self.predictor.budget.fits(len(piece), graph.n_atoms, graph.n_edges):
            return self._by_halves(piece)
        try:
            return list(self.predictor(graph))
        except (ValueError, MemoryError) as error:  # the predictor evaluates less at once from then on
            reason = str(error)
        return [reason] if len(piece) == 1 else self._by_halves(piece)

    def _by_halves(self, piece: Piece) -> list[Results | str]:
        middle = len(piece) // 2
        return self._answers(piece.part(0, middle)) + self._answers(piece.part(middle, len(piece)))

    def _relaxed(self, piece: Piece, relax: Relax, refused: list[Refused]) -> tuple[Piece, list[Relaxation]]:
        """The piece with the final structures instead, without those that could not be relaxed."""
        kept, graphs, relaxations = [], [], []
        ends = relax(atoms_of(piece))
        if len(ends) != len(piece):
            raise ValueError(f"the relaxer returned {len(ends)} for {len(piece)} structures: expected one result each")
        for i, end in enumerate(ends):
            try:
                if isinstance(end, str):
                    raise InvalidStructureError(end)
                graphs.append(self._graph(end.atoms))
            except InvalidStructureError as error:
                refused.append(_refusal(piece, i, str(error)))
            else:
                kept.append(i)
                relaxations.append(end)
        graph = AtomGraph.batch(graphs) if graphs else None
        formulas = [piece.formulas[i] for i in kept]
        return Piece(piece.block, graph, piece.inputs[kept], piece.indices[kept], formulas), relaxations

    def _graph(self, atoms: Atoms) -> AtomGraph:
        predictor = self.predictor
        return graph_from_atoms(atoms, cutoff=predictor.cutoff, max_neighbours=predictor.max_neighbours)

    def _rows(
        self, piece: Piece, kept: Sequence[int], results: Sequence[Results], relaxations: list[Relaxation]
    ) -> Rows:
        graph = piece.graph
        natoms = np.zeros(0, dtype=np.int64) if graph is None else graph.atoms_per_structure.numpy()[kept]
        forces = np.concatenate([np.zeros((0, 3)), *(result["forces"] for result in results)])
        nowhere = np.full(6, np.nan)
        stress = [result.get("stress", nowhere) for result in results] if self.stress else []
        weights = [list(result["branch_weights"].values()) for result in results]
        return Rows(
            inputs=piece.inputs[kept],
            indices=piece.indices[kept],
            formulas=[piece.formulas[i] for i in kept],
            natoms=natoms,
            energy=np.array([result["energy"] for result in results], dtype=np.float64),
            max_force=_largest(forces, natoms),
            energy_std=np.array([result["energy_std"] for result in results], dtype=np.float64),
            novelty=np.array([_novelty(result) for result in results], dtype=np.float64),
            weights=np.array(weights, dtype=np.float64).reshape(len(results), len(self.predictor.potential.branches)),
            forces=forces if self.forces else forces[:0],
            stress=np.array(stress, dtype=np.float64).reshape(-1, 6),
            relaxations=relaxations,
        )


def atoms_of(piece: Piece) -> list[Atoms]:
    """The structures of a piece, with their charge, and the multiplicity if there is one, in ``info``."""
    from ase import Atoms

    graph, structures = piece.graph, []
    assert graph is not None
    for i, part in enumerate(graph.part(i, i + 1) for i in range(graph.n_structures)):
        info = {"charge": int(graph.charge[i])}
        if graph.spin[i] != UNSPECIFIED_SPIN:
            info["spin"] = int(graph.spin[i])
        numbers, positions = part.atomic_numbers.numpy(), part.positions.numpy()
        structures.append(Atoms(numbers, positions, cell=graph.cell[i].numpy(), pbc=graph.pbc[i].numpy(), info=info))
    return structures


def _novelty(result: Results) -> float:
    return float(result["novelty"].max()) if "novelty" in result else float("nan")


def _refusal(piece: Piece, i: int, reason: str) -> Refused:
    return Refused(int(piece.inputs[i]), int(piece.indices[i]), piece.formulas[i], reason)


def _largest(forces: Floats, natoms: Ints) -> Floats:
    """(S,) eV/Å, norm of the largest force of each structure."""
    if len(natoms) == 0:
        return np.zeros(0)
    starts = np.concatenate([[0], np.cumsum(natoms)[:-1]])
    largest: Floats = np.sqrt(np.maximum.reduceat((forces**2).sum(axis=1), starts))
    return largest
