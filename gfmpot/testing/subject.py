"""What conformance is measured on: anything that maps ``ase.Atoms`` to energy, forces and perhaps stress."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray
from torch import Tensor

from gfmpot.graph import AtomGraph, graph_from_atoms
from gfmpot.models import BackboneConfig, BranchInfo, Potential, PotentialConfig, Prediction
from gfmpot.testing.structures import Samples, has_volume

Results = Mapping[str, NDArray[np.float64]]
"""``energy`` () eV, ``forces`` (n, 3) eV/Å; where there is a volume ``stress`` (6,) eV/Å³, where known ``energies`` of
atoms (n,) eV."""

Evaluate = Callable[[Atoms], Results]

Energies = Callable[[Sequence[Atoms]], NDArray[np.float64]]
"""Structures to their energies (G,), eV."""

RANDOM_FORCE = 2.0
"""eV/Å, largest force on a test molecule to which random weights are scaled: tiny forces would test nothing."""


@dataclass(frozen=True)
class Subject:
    """A way to evaluate structures, and what is known about it."""

    name: str
    evaluate: Evaluate
    energies: Energies
    """As ``evaluate``, but without derivatives and perhaps in batches: what finite differences are made of."""

    samples: Samples
    """Structures of elements that it supports."""

    cutoff: float | None = None
    """Å; without it smoothness at the cutoff cannot be tested."""

    potential: Potential | None = None
    """Float64; what batches, gradients of parameters, charge and spin are tested on."""

    head: str | None = None
    refuses: bool = True
    """Whether bad structures must be refused with an error that names the culprit."""


def potential_subject(potential: Potential, head: str | None = None, name: str = "") -> Subject:
    """A copy of ``potential`` in float64, answering by ``head`` or by its blend."""
    exact = copy.deepcopy(potential).double().eval().requires_grad_(True)
    answering = exact.branches if head is None else [exact.branches[exact.branch_index(head)]]

    def supports(symbols: Collection[str]) -> bool:
        return any(set(symbols) <= set(branch.e0) for branch in answering)

    label = name or str(potential.metadata.get("name", "potential"))
    return Subject(
        name=f"{label}, {head or 'blend'}",
        evaluate=evaluator(exact, head),
        energies=energy_evaluator(exact, head),
        samples=Samples(supports),
        cutoff=exact.cutoff,
        potential=exact,
        head=head,
    )


def calculator_subject(
    calculator: Any, cutoff: float | None = None, elements: Collection[str] | None = None, *, strict: bool = False
) -> Subject:
    """An ASE calculator; of one that carries a :class:`Potential`, cutoff and elements are known.

    Raises:
        ValueError: a calculator of gfmpot that does not compute in float64.
    """
    potential = getattr(calculator, "potential", None)
    name = str(getattr(calculator, "name", None) or type(calculator).__name__)
    evaluate = calculator_evaluator(calculator)
    if isinstance(potential, Potential):
        if potential.dtype != torch.float64:
            raise ValueError(f"conformance is measured in float64, got {potential.dtype}: use precision='fp64'")
        own = potential_subject(potential, calculator.parameters.get("head"))
        return Subject(name, evaluate, one_by_one(evaluate), own.samples, cutoff or potential.cutoff)

    def supports(symbols: Collection[str]) -> bool:
        return elements is None or set(symbols) <= set(elements)

    return Subject(name, evaluate, one_by_one(evaluate), Samples(supports), cutoff, refuses=strict)


def evaluator(potential: Potential, head: str | None = None) -> Evaluate:
    """Structure by structure, in the potential's own precision."""

    def evaluate(atoms: Atoms) -> Results:
        (results,) = split(potential(graph_for(potential, atoms), head=head, spread="none"), [len(atoms)])
        return results

    return evaluate


def energy_evaluator(potential: Potential, head: str | None = None) -> Energies:
    """All structures in one batch, without derivatives."""

    def energies(structures: Sequence[Atoms]) -> NDArray[np.float64]:
        batch = AtomGraph.batch([graph_for(potential, atoms) for atoms in structures])
        energy: Tensor = potential(batch, head=head, spread="none", derivatives=False).energy
        return energy.cpu().numpy()

    return energies


def one_by_one(evaluate: Evaluate) -> Energies:
    """Energies of structures evaluated singly."""
    return lambda structures: np.array([float(evaluate(atoms)["energy"]) for atoms in structures])


def calculator_evaluator(calculator: Any) -> Evaluate:
    """Fresh results of an ASE calculator; ``energy`` is the one whose gradient the forces are."""
    implemented = set(calculator.implemented_properties)
    energy = "free_energy" if "free_energy" in implemented else "energy"
    others = [name for name in ("forces", "stress", "energies") if name in implemented]

    def evaluate(atoms: Atoms) -> Results:
        calculator.reset()
        results = {"energy": np.array(calculator.get_property(energy, atoms), dtype=np.float64)}
        for name in others:
            if name != "stress" or has_volume(atoms):
                results |= _property(calculator, name, atoms)
        return results

    return evaluate


def _property(calculator: Any, name: str, atoms: Atoms) -> dict[str, NDArray[np.float64]]:
    """One result, or none if the calculator declines."""
    try:
        return {name: np.array(calculator.get_property(name, atoms), dtype=np.float64)}
    except PropertyNotImplementedError:
        return {}


def graph_for(potential: Potential, atoms: Atoms) -> AtomGraph:
    """The graph that the potential needs."""
    graph = graph_from_atoms(atoms, cutoff=potential.cutoff, max_neighbours=potential.config.max_neighbours)
    return graph.to(potential.device)


def split(prediction: Prediction, sizes: Collection[int]) -> list[Results]:
    """Results of each structure of a batch, given their numbers of atoms; stress where there is one."""
    fields = {key: value.detach().cpu().numpy() for key, value in vars(prediction).items() if value is not None}
    ends = np.cumsum(list(sizes))
    results: list[Results] = []
    for i, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        single = {"energy": fields["energy"][i]}
        single |= {key: fields[key][end - size : end] for key in ("forces", "energies") if key in fields}
        if "stress" in fields and not np.isnan(fields["stress"][i]).all():
            single["stress"] = fields["stress"][i]
        results.append(single)
    return results


def random_potential(config: PotentialConfig | BackboneConfig, seed: int = 0) -> Potential:
    """Random weights in float64, two branches that support a few common elements, forces of order eV/Å.

    The first branch knows H, C, N, O, Na, Mg, Cl and Cu; the second H, C, O and Cu. PyTorch's global random state is
    left as it was. Parameters that a constructor sets to zero are drawn at random, too: zero hides a fault.
    """
    config = config if isinstance(config, PotentialConfig) else PotentialConfig(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        potential = Potential(config, _BRANCHES, e0_blend={"C": -0.5, "O": 0.3}, metadata={"name": "random weights"})
        for parameter in potential.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    potential = potential.double().eval()
    _scale_forces(potential)
    return potential


def _scale_forces(potential: Potential) -> None:
    samples = potential_subject(potential).samples
    forces = evaluator(potential)(samples.molecule())["forces"]
    largest = float(np.abs(forces).max())
    assert largest > 0, "the backbone ignores positions: no force on any atom of a molecule"
    with torch.no_grad():
        for parameter in potential.heads.layers[-1].parameters():
            parameter.mul_(RANDOM_FORCE / largest)


_NEUTRAL = tuple((0, spin) for spin in range(8))
_BRANCHES = (
    BranchInfo(
        "first-x",
        e0={s: 0.1 * i for i, s in enumerate(("H", "C", "N", "O", "Na", "Mg", "Cl", "Cu"))},
        states=_NEUTRAL,
    ),
    BranchInfo(
        "second-y",
        e0={"H": 1.0, "C": -2.0, "O": 0.5, "Cu": 0.0},
        alignment={"H": -0.2, "Cu": 0.1},
        scale=2.0,
        states=_NEUTRAL,
    ),
)
