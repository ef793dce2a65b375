"""Predictions beside labels, and the errors between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from gfmpot.data import FrameSet
from gfmpot.data.dataset import Dataset
from gfmpot.graph import AtomGraph, InvalidStructureError
from gfmpot.inference.predictor import Predictor, Results

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Metrics = dict[str, float]

BLOCK = 128
"""Structures that are read together; the predictor packs them into batches by size."""

DIRECTED = 0.01
"""eV/Å: the direction of smaller forces is not compared."""


@dataclass(frozen=True)
class Comparison:
    """S structures with N atoms: what was labelled and what was predicted; NaN where there is nothing."""

    numbers: Ints  # (N,)
    composition: Floats  # (S, 118) atoms of each element
    energy: Floats  # (S,) eV
    energy_predicted: Floats
    forces: Floats  # (N, 3) eV/Å
    forces_predicted: Floats
    stress: Floats  # (S, 6) eV/Å³
    stress_predicted: Floats

    def __len__(self) -> int:
        return len(self.energy)

    @classmethod
    def of(cls, frames: FrameSet, results: Sequence[Results]) -> Comparison:
        """The labels of structures, and what a predictor said of each."""
        none = np.full(6, np.nan)
        return cls(
            frames.numbers,
            frames.composition(),
            frames.energy,
            np.array([each["energy"] for each in results], dtype=np.float64),
            frames.forces,
            np.concatenate([np.zeros((0, 3)), *(each["forces"] for each in results)]),
            frames.stress,
            np.array([each.get("stress", none) for each in results], dtype=np.float64).reshape(-1, 6),
        )

    @classmethod
    def join(cls, parts: Sequence[Comparison]) -> Comparison:
        """Several as one; there must be at least one."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    @property
    def atoms(self) -> Floats:
        """(S,) number of atoms."""
        return np.asarray(self.composition.sum(axis=1), dtype=np.float64)

    def on_one_scale(self) -> Comparison:
        """With labels shifted by an energy per element, fitted to the errors: what is left does not depend on zeros.

        Where the elements outnumber the structures, nothing would be left, so that energies become NaN.
        """
        error = self.energy_predicted - self.energy
        labelled = np.isfinite(error)
        if labelled.sum() <= np.count_nonzero(self.composition[labelled].any(axis=0)):
            return replace(self, energy=np.full(len(self), np.nan))
        return replace(self, energy=self.energy + self.composition @ element_energies(self.composition, error))

    def metrics(self) -> Metrics:
        """Errors in eV and Å; what has no labels is left out.

        Returns:
            ``structures``, ``atoms``; ``energy_mae``, ``energy_rmse`` (eV/atom); ``forces_mae``, ``forces_rmse`` (eV/Å,
            mean norm of the error vector, and root of its mean square), ``forces_component_mae`` (mean absolute
            component), ``forces_relative`` (mean norm of the error over that of the forces), ``forces_cosine`` (mean
            over atoms with a force above 0.01 eV/Å of the cosine of the angle between both); ``stress_mae``,
            ``stress_rmse`` (eV/Å³, by component).
        """
        energy = (self.energy_predicted - self.energy) / self.atoms
        forces, stress = self.forces_predicted - self.forces, self.stress_predicted - self.stress
        norms, sizes = np.linalg.norm(forces, axis=1), np.linalg.norm(self.forces, axis=1)
        size = finite_mean(np.where(np.isfinite(norms), sizes, np.nan))
        found = {
            "energy_mae": finite_mean(np.abs(energy)),
            "energy_rmse": finite_mean(energy**2) ** 0.5,
            "forces_mae": finite_mean(norms),
            "forces_rmse": finite_mean(norms**2) ** 0.5,
            "forces_component_mae": finite_mean(np.abs(forces)),
            "forces_relative": finite_mean(norms) / size if size > 0 else np.nan,
            "forces_cosine": self._cosine(),
            "stress_mae": finite_mean(np.abs(stress)),
            "stress_rmse": finite_mean(stress**2) ** 0.5,
        }
        counts = {"structures": float(len(self)), "atoms": float(self.atoms.sum())}
        return counts | {name: value for name, value in found.items() if np.isfinite(value)}

    def _cosine(self) -> float:
        sizes = np.linalg.norm(self.forces, axis=1), np.linalg.norm(self.forces_predicted, axis=1)
        directed = (sizes[0] > DIRECTED) & (sizes[1] > 0)
        products = (self.forces * self.forces_predicted).sum(axis=1)
        return finite_mean(products[directed] / (sizes[0] * sizes[1])[directed])

    def shares(self) -> Shares:
        """Who makes the error of forces."""
        norms, sizes = (np.linalg.norm(f, axis=1) for f in (self.forces_predicted - self.forces, self.forces))
        labelled = np.isfinite(norms)
        structure = np.repeat(np.arange(len(self)), self.atoms.astype(np.int64))[labelled]
        norms, sizes, numbers = norms[labelled], sizes[labelled], self.numbers[labelled]
        structures, elements = len(self), 119
        return Shares(
            _sums(structure, norms, structures),
            _sums(structure, sizes, structures),
            _sums(numbers, norms, elements),
            _sums(numbers, sizes, elements),
        )

    def pairs(self) -> dict[str, Floats]:
        """Arrays by the names that :func:`gfmpot.training.report_parity.read_pairs` knows.

        Energies are per atom, less a fit of one energy per element to the labels, which would hide all differences.
        """
        known = self.composition @ element_energies(self.composition, self.energy)
        return {
            "energy_reference": (self.energy - known) / self.atoms,
            "energy_predicted": (self.energy_predicted - known) / self.atoms,
            "forces_reference": self.forces,
            "forces_predicted": self.forces_predicted,
            "stress_reference": self.stress,
            "stress_predicted": self.stress_predicted,
        }


@dataclass(frozen=True)
class Shares:
    """Sums over atoms of norms, in eV/Å, of the errors of forces and of the forces as labelled."""

    structure_error: Floats  # (S,)
    structure_force: Floats
    element_error: Floats  # (119,) by atomic number
    element_force: Floats


@dataclass
class Outcome:
    """What came of the structures of a dataset."""

    comparison: Comparison | None = None
    """None if there was nothing to compare."""

    compared: list[int] = field(default_factory=list)
    """(S,) index in the dataset of each structure of the comparison."""

    lacking: Counter[str] = field(default_factory=Counter)
    """Structures by element that the head lacks; one may count for several."""

    unsupported: int = 0
    unlabelled: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    """Reasons by index in the dataset."""


def compare(
    predictor: Predictor,
    data: Dataset,
    chosen: Ints,
    watch: Callable[[int, int], None] = lambda structures, atoms: None,
) -> Outcome:
    """Predictions for the structures ``chosen``, as far as they have labels and elements that the answer covers.

    Args:
        predictor: whose head, or blend, answers.
        data: labelled structures.
        chosen: (M,) indices.
        watch: called with numbers of structures and atoms that were done.
    """
    outcome, parts = Outcome(), []
    for start in range(0, len(chosen), BLOCK):
        block = chosen[start : start + BLOCK]
        frames = data.subset(block)
        rows = np.flatnonzero(_usable(predictor, frames, outcome))
        good = _answers(predictor, _graphs(predictor, frames, rows, block, outcome), block, outcome)
        if good:
            parts.append(Comparison.of(frames.subset(list(good)), list(good.values())))
            outcome.compared += block[list(good)].tolist()
        watch(len(frames), len(frames.numbers))
    outcome.comparison = Comparison.join(parts) if parts else None
    return outcome


def element_energies(composition: Floats, energies: Floats) -> Floats:
    """(118,) eV per element: the least-squares fit of least norm to energies per atom; NaN among them is left out."""
    labelled = np.isfinite(energies)
    counts = composition[labelled]
    atoms = counts.sum(axis=1, keepdims=True)
    fitted = np.linalg.lstsq(counts / atoms, energies[labelled] / atoms[:, 0], rcond=1e-10)[0]
    return np.asarray(fitted, dtype=np.float64)


def _usable(predictor: Predictor, frames: FrameSet, outcome: Outcome) -> NDArray[np.bool_]:
    """(S,) whether a structure has labels and only elements that the answer covers; the others are counted."""
    with_forces = np.logical_or.reduceat(np.isfinite(frames.forces).any(axis=1), frames.offsets[:-1])
    labelled = np.isfinite(frames.energy) | with_forces | np.isfinite(frames.stress).any(axis=1)
    potential = predictor.potential
    supported = potential.references.supported[:, 1:].cpu().numpy()
    if predictor.head is not None:
        supported = supported[[potential.branch_index(predictor.head)]]
    missing = (frames.composition() > 0)[:, None] & ~supported  # (S, B, 118)
    covered = ~missing.any(axis=2).all(axis=1)
    fewest = missing.sum(axis=2).argmin(axis=1)
    for row in np.flatnonzero(labelled & ~covered):
        outcome.lacking.update(chemical_symbols[z + 1] for z in np.flatnonzero(missing[row, fewest[row]]))
    outcome.unlabelled += int((~labelled).sum())
    outcome.unsupported += int((labelled & ~covered).sum())
    return np.asarray(labelled & covered)


def _graphs(
    predictor: Predictor, frames: FrameSet, rows: Ints, block: Ints, outcome: Outcome
) -> list[tuple[int, AtomGraph]]:
    graphs = []
    for row in rows.tolist():
        try:
            graph = frames.graph(row, predictor.cutoff, max_neighbours=predictor.max_neighbours)
        except InvalidStructureError as error:
            outcome.failures[int(block[row])] = str(error.__cause__ or error)  # without its place in the block
        else:
            graphs.append((row, graph))
    return graphs


def _answers(
    predictor: Predictor, graphs: Sequence[tuple[int, AtomGraph]], block: Ints, outcome: Outcome
) -> Mapping[int, Results]:
    """By row: all at once, or, if that fails, by halves until those that fail stand alone."""
    if not graphs:
        return {}
    alone = len(graphs) == 1  # whose error needs no place
    try:
        results = predictor(graphs[0][1]) if alone else list(predictor.many(graph for _, graph in graphs))
    except (ValueError, MemoryError) as error:
        if not alone:
            halves = graphs[: len(graphs) // 2], graphs[len(graphs) // 2 :]
            return {**_answers(predictor, halves[0], block, outcome), **_answers(predictor, halves[1], block, outcome)}
        outcome.failures[int(block[graphs[0][0]])] = str(error)
        return {}
    return {row: result for (row, _), result in zip(graphs, results, strict=True)}


def _sums(places: Ints, values: Floats, size: int) -> Floats:
    """(size,) sums of the values at each place."""
    return np.asarray(np.bincount(places, values, minlength=size), dtype=np.float64)


def finite_mean(values: Floats) -> float:
    """The mean of what is not NaN, or NaN."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
