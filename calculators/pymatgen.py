"""The pymatgen interface: structures and molecules in, results and relaxed structures out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian
from pymatgen.core import DummySpecies, Lattice, Molecule, Structure

from gfmpot.calculators.ase import GFMCalculator
from gfmpot.calculators.batched import BatchOptimizerName, relax_many
from gfmpot.calculators.relaxation import OptimizerName, relax
from gfmpot.graph import InvalidStructureError
from gfmpot.inference import Answer, PropertyPredictor, Results
from gfmpot.models import Potential, PropertyModel

AnyStructure: TypeAlias = "Structure | Molecule"


@dataclass(frozen=True)
class Relaxation:
    """A relaxed structure and the way there."""

    final_structure: AnyStructure
    energy: float
    """eV, of the final structure; NaN if it failed."""

    converged: bool
    trajectory: list[AnyStructure]
    """Every step, the start and the end included; from ``relax_many`` only these two."""

    energies: list[float]
    """eV, of every step."""

    error: str | None = None
    """From ``relax_many``: why a structure was refused or failed; its final structure is the start then."""


class GFMPotential:
    """The model for pymatgen; takes the same options as :class:`gfmpot.GFMCalculator`.

    >>> potential = GFMPotential()
    >>> potential.predict(structure)["energy"]            # eV
    >>> potential.relax(structure, fmax=0.01).final_structure

    A charge set on a ``Structure``, ``Molecule.charge`` and ``Molecule.spin_multiplicity`` are honoured; oxidation
    states are not taken for a total charge.
    """

    def __init__(self, model: str | Path | Potential = "default", **options: Any) -> None:
        self.calculator = GFMCalculator(model, **options)

    @overload
    def predict(self, structures: AnyStructure) -> Results: ...

    @overload
    def predict(self, structures: Sequence[AnyStructure]) -> list[Results]: ...

    def predict(self, structures: AnyStructure | Sequence[AnyStructure]) -> Results | list[Results]:
        """Results of one structure, or of many in batches; keys as in ``GFMCalculator.results``.

        Raises:
            TypeError: something else, e.g. the name of a file.
            ValueError: a structure that is disordered or that the model cannot answer for.
        """
        if isinstance(structures, Structure | Molecule | str | Path):
            return self.calculator.evaluate_many([to_atoms(structures)])[0]
        return self.calculator.evaluate_many([to_atoms(structure) for structure in structures])

    @overload
    @staticmethod
    def predict_property(
        structures: AnyStructure, model: str | Path | PropertyModel | PropertyPredictor, **options: Any
    ) -> Answer: ...

    @overload
    @staticmethod
    def predict_property(
        structures: Sequence[AnyStructure | Atoms],
        model: str | Path | PropertyModel | PropertyPredictor,
        **options: Any,
    ) -> list[Answer]: ...

    @staticmethod
    def predict_property(
        structures: AnyStructure | Atoms | Sequence[AnyStructure | Atoms],
        model: str | Path | PropertyModel | PropertyPredictor,
        **options: Any,
    ) -> Answer | list[Answer]:
        """A property of one structure, or of many in batches, by a model that was trained on it.

        >>> GFMPotential.predict_property(structure, "gap.safetensors")
        {'band_gap': 1.2, 'unit': 'eV'}

        Args:
            structures: of pymatgen or ASE, in any mixture.
            model: a file, a :class:`gfmpot.models.PropertyModel`; or for many calls, which need not make it ready each
                time, a :class:`gfmpot.inference.PropertyPredictor`.
            options: those of :class:`gfmpot.inference.PropertyPredictor`, e.g. ``precision`` and ``device``.

        Returns:
            The value under the property's name, and its ``unit``; of a class its probability alone.

        Raises:
            ValueError: a structure that the model cannot answer for, a file of a potential, or options beside a
                predictor, which has its own.
        """
        if isinstance(model, PropertyPredictor) and options:
            raise ValueError(f"a predictor has its own options, got {', '.join(options)}; give them when making it")
        predictor = model if isinstance(model, PropertyPredictor) else PropertyPredictor(model, **options)
        alone = isinstance(structures, Structure | Molecule | Atoms)
        given = [structures] if alone else structures
        answers = predictor.evaluate_many(one if isinstance(one, Atoms) else to_atoms(one) for one in given)
        return answers[0] if alone else answers

    def relax(
        self,
        structure: AnyStructure,
        *,
        cell: bool = True,
        fmax: float = 0.05,
        steps: int = 500,
        optimizer: OptimizerName = "FIRE",
        trajectory: str | Path | None = None,
    ) -> Relaxation:
        """Relax positions and, for a ``Structure``, the cell.

        Args:
            structure: start; it is not changed.
            cell: relax the cell too; a ``Molecule`` has none.
            fmax: eV/Å.
            steps: the most steps to take.
            optimizer: ``"FIRE"``, ``"LBFGS"`` or ``"BFGS"``.
            trajectory: write the steps to this ASE trajectory file, too.
        """
        atoms = to_atoms(structure)
        atoms.calc = self.calculator
        cell = cell and isinstance(structure, Structure)
        relaxed = relax(atoms, cell=cell, fmax=fmax, steps=steps, optimizer=optimizer, trajectory=trajectory)
        path = [_moved(structure, frame) for frame in relaxed.frames]
        return Relaxation(
            _moved(structure, relaxed.atoms), relaxed.energies[-1], relaxed.converged, path, relaxed.energies
        )

    def relax_many(
        self,
        structures: Sequence[AnyStructure],
        *,
        cell: bool = True,
        fmax: float = 0.05,
        steps: int = 500,
        optimizer: BatchOptimizerName = "FIRE",
        trajectories: str | Path | None = None,
        progress: bool = True,
    ) -> list[Relaxation]:
        """Relax many structures, evaluated in batches: each as :meth:`relax` does, only sooner.

        A structure that is refused or fails has an ``error`` in its result; the others are not affected.

        Args:
            structures: starts, in any mixture; they are not changed.
            cell: relax the cells of those that are a ``Structure``, too.
            fmax: eV/Å.
            steps: the most steps for each.
            optimizer: ``"FIRE"`` or ``"LBFGS"``.
            trajectories: folder for the steps of each, as ASE ``.traj`` files named by their number in the list.
            progress: show a bar if standard error is a terminal.

        Returns:
            One result for each structure, in their order.
        """
        results, starts = {}, {}
        for i, structure in enumerate(structures):
            try:
                starts[i] = to_atoms(structure)
            except InvalidStructureError as error:
                results[i] = Relaxation(structure, float("nan"), False, [structure], [], str(error))
        found = relax_many(
            list(starts.values()),
            self.calculator,
            cell=[cell and isinstance(structures[i], Structure) for i in starts],
            fmax=fmax,
            steps=steps,
            optimizer=optimizer,
            trajectories=trajectories,
            names=[str(i) for i in starts],
            progress=progress,
        )
        for i, one in zip(starts, found, strict=True):
            ends = [_moved(structures[i], atoms) for atoms in (one.start, one.atoms)]
            results[i] = Relaxation(ends[1], one.energy, one.converged, ends, one.energies, one.error)
        return [results[i] for i in range(len(structures))]


def to_atoms(structure: AnyStructure) -> Atoms:
    """ASE atoms with charge and multiplicity in ``info``, and constraints where there is ``selective_dynamics``.

    Raises:
        InvalidStructureError: partial or mixed occupancy.
        TypeError: something else than a structure or molecule of pymatgen's.
    """
    if not isinstance(structure, Structure | Molecule):
        raise TypeError(f"expected a Structure or Molecule of pymatgen's, got {type(structure).__name__}")
    if not structure.is_ordered:
        site = next(i for i, s in enumerate(structure) if not s.is_ordered)
        raise InvalidStructureError(
            f"site {site} holds {structure[site].species_string}: disordered structures have no energy of their own; "
            "order it first, e.g. with pymatgen's OrderDisorderedStructureTransformation"
        )
    for i, site in enumerate(structure):
        if isinstance(site.specie, DummySpecies):
            raise InvalidStructureError(f"site {i} holds {site.species_string}, which is no element")
    atoms = Atoms([site.specie.Z for site in structure], structure.cart_coords)
    if isinstance(structure, Structure):
        atoms.set_cell(structure.lattice.matrix)
        atoms.pbc = structure.lattice.pbc
    else:
        atoms.info["spin"] = structure.spin_multiplicity
    # A Structure without a charge of its own reports the sum of its oxidation states, which are labels.
    charge = structure._charge if isinstance(structure, Structure) else structure.charge
    if charge:
        atoms.info["charge"] = charge
    atoms.set_constraint(_constraints(structure))
    return atoms


def _constraints(structure: AnyStructure) -> list[FixAtoms | FixCartesian]:
    """What ``selective_dynamics`` fixes, as pymatgen's own ``AseAtomsAdaptor`` has it."""
    flags = structure.site_properties.get("selective_dynamics")
    if flags is None:
        return []
    fixed = np.array([[not free for free in (site or (True,) * 3)] for site in flags])
    some = np.flatnonzero(fixed.any(axis=1) & ~fixed.all(axis=1))
    whole = np.flatnonzero(fixed.all(axis=1))
    partly: list[FixAtoms | FixCartesian] = [FixCartesian(i, mask=fixed[i]) for i in some]
    return [FixAtoms(whole), *partly] if len(whole) else partly


def _moved(structure: AnyStructure, atoms: Atoms) -> AnyStructure:
    """The structure with the coordinates and cell of ``atoms``; species and site properties stay."""
    if isinstance(structure, Molecule):
        return Molecule(
            structure.species_and_occu,
            atoms.positions,
            charge=structure.charge,
            spin_multiplicity=structure.spin_multiplicity,
            site_properties=structure.site_properties,
            labels=structure.labels,
        )
    return Structure(
        Lattice(atoms.cell.array, pbc=structure.lattice.pbc),
        structure.species_and_occu,
        atoms.positions,
        charge=structure._charge,
        coords_are_cartesian=True,
        site_properties=structure.site_properties,
        labels=structure.labels,
    )
