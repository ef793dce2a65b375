"""The ASE calculator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from gfmpot.config import did_you_mean
from gfmpot.graph import AtomGraph, VerletList, graph_from_atoms
from gfmpot.inference import AutoPredictor, Choice, Predictor, Results, build_predictor
from gfmpot.inference.advice import FORCES_NOT_LEARNT, advise
from gfmpot.models import Potential

if TYPE_CHECKING:
    from gfmpot.inference.certificate import Certificate


class GFMCalculator(Calculator):  # type: ignore[misc]
    """Energies, forces and stress of a multi-branch graph foundation model.

    >>> atoms.calc = GFMCalculator()          # the embedded model; nothing is downloaded
    >>> atoms.calc = GFMCalculator(head="mptrj-pbe-u@chgnet")   # one level of theory instead of the blend

    Beside ASE's properties, ``results`` has ``branch_energies`` (eV, each on its own theory's scale),
    ``branch_weights``, ``energy_std`` (eV, estimated error), ``novelty`` (of each atom's surroundings; training ends at
    1) and, with ``uncertainty="forces"``, ``forces_std``. A model that has not learnt its errors gives the spread of
    its branches in place of estimates.
    Stress needs a volume: at least one periodic direction and no zero cell vector.

    Args:
        model: name of an embedded or cached model, path of a checkpoint, or a :class:`gfmpot.Potential`.
        head: the branch that answers, on its theory's own energy scale; None blends the branches by composition.
        weights: weight by branch name, instead of those from the composition.
        precision: of the network, ``"fp32"``, ``"fp64"`` or ``"bf16"``; geometry and energy sums are always float64.
            ``"auto"`` takes the cheapest that keeps to ``tolerance`` on the first structures, and stays with it.
        tolerance: of ``"auto"``, against float64: ``{"energy": 1e-4, "forces": 1e-3}`` (eV/atom, eV/Å) by default.
        device: e.g. ``"cpu"`` or ``"cuda"``; None takes a GPU if there is one.
        compile: ``"auto"`` takes the fastest way there is at once, and lets TorchInductor compile the network after 200
            evaluations only where there are no kernels for it; ``True`` compiles at the first evaluation. Compiled code
            is checked against the plain one, kept on disk, and dropped with a warning if it fails. ``calc.path`` says
            which way is taken.
        skip: leave out branches of less weight than this, in energy and forces alike, and renormalise the others; see
            :meth:`gfmpot.models.Potential.forward` for the error it makes.
        charge: total charge of structures that do not state one in ``atoms.info["charge"]``.
        spin: multiplicity 2S+1 of structures that do not state one in ``atoms.info["spin"]``; None is unspecified.
        uncertainty: ``"energy"``, or ``"forces"`` for ``forces_std`` too.
        allow_unsupported: answer for elements that no branch has learnt, too.
        skin: Å, of the neighbour list that is kept between steps.
        atoms: attach the calculator to these atoms.
        stress_weight: ignored; ``pymatgen.Structure.relax`` passes it to calculator classes.

    Raises:
        ValueError: unknown model, head, precision, or unusable weights.
    """

    name = "gfmpot"
    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces", "stress", "energies"]
    default_parameters: ClassVar[dict[str, Any]] = {
        "model": "default",
        "head": None,
        "weights": None,
        "precision": "fp32",
        "tolerance": None,
        "device": None,
        "compile": "auto",
        "skip": 0.0,
        "charge": 0,
        "spin": None,
        "uncertainty": "energy",
        "allow_unsupported": False,
        "skin": 0.5,
    }

    def __init__(
        self,
        model: str | Path | Potential = "default",
        *,
        head: str | None = None,
        weights: Mapping[str, float] | None = None,
        precision: str = "fp32",
        tolerance: Mapping[str, float] | None = None,
        device: str | None = None,
        compile: bool | Literal["auto"] = "auto",
        skip: float = 0.0,
        charge: int = 0,
        spin: int | None = None,
        uncertainty: Literal["energy", "forces"] = "energy",
        allow_unsupported: bool = False,
        skin: float = 0.5,
        atoms: Atoms | None = None,
        stress_weight: float | None = None,
    ) -> None:
        self._model = model
        self._predictor: Predictor | None = None
        super().__init__(
            atoms=atoms,
            model=_model_name(model),
            head=head,
            weights=None if weights is None else dict(weights),
            precision=precision,
            tolerance=None if tolerance is None else dict(tolerance),
            device=device,
            compile=compile,
            skip=skip,
            charge=charge,
            spin=spin,
            uncertainty=uncertainty,
            allow_unsupported=allow_unsupported,
            skin=skin,
        )
        self._prepare(model, self.parameters)

    @property
    def predictor(self) -> Predictor:
        """What evaluates the model."""
        assert self._predictor is not None
        return self._predictor

    @property
    def potential(self) -> Potential:
        """The model, in the calculator's precision."""
        return self.predictor.potential

    @property
    def heads(self) -> list[str]:
        """The branches of the model, which ``head=`` may name."""
        return self.potential.branch_names

    @property
    def path(self) -> str:
        """How the network is evaluated now: ``"kernels"``, ``"compiled"`` or ``"plain"``."""
        return self.predictor.path

    @property
    def precision(self) -> str:
        """What the network runs in; while ``"auto"`` has not chosen yet, float64."""
        return self.predictor.precision

    @property
    def precision_choice(self) -> Choice | None:
        """What ``precision="auto"`` has chosen, with the errors and times that it measured."""
        return self.predictor.choice if isinstance(self.predictor, AutoPredictor) else None

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Change parameters; results are forgotten and the model is prepared anew.

        A precision that ``"auto"`` has chosen stays, unless model, device, precision or tolerance change.

        Raises:
            ValueError: unknown parameter.
        """
        for key in kwargs:
            if key not in self.default_parameters:
                raise ValueError(f"GFMCalculator has no parameter {key!r}{did_you_mean(key, self.default_parameters)}")
        if self._predictor is None:
            return dict(super().set(**kwargs))
        model = kwargs.get("model", self._model)
        keep = None if {"model", "device", "precision", "tolerance"} & kwargs.keys() else self.precision_choice
        self._prepare(model, {**self.parameters, **kwargs}, keep)  # first, so that a mistake changes nothing
        changed: dict[str, Any] = super().set(**{**kwargs, "model": _model_name(model)})
        self.reset()
        return changed

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate everything at once.

        Raises:
            InvalidStructureError, UnsupportedElementsError: structures that the model cannot answer for.
            PropertyNotImplementedError: stress without a volume, or per-atom energies of a graph-level model.
        """
        super().calculate(atoms, properties, system_changes)
        if {"forces", "stress"} & set(properties) and not self.potential.forces_learnt:
            advise(FORCES_NOT_LEARNT)
        (self.results,) = self.predictor(self._graph(self.atoms, self._verlet))
        if "stress" in properties and "stress" not in self.results:
            raise PropertyNotImplementedError(
                "stress needs a volume: a periodic direction and three cell vectors that are not zero, "
                f"got pbc={self.atoms.pbc.tolist()} and cell lengths {self.atoms.cell.lengths().tolist()} Å"
            )
        if "energies" in properties and "energies" not in self.results:
            raise PropertyNotImplementedError("this model predicts whole structures (readout='graph'), not atoms")

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last evaluation, charge and spin in ``atoms.info`` included."""
        changes: list[str] = super().check_state(atoms, tol=tol)
        if self.atoms is not None:
            changes += [key for key in ("charge", "spin") if atoms.info.get(key) != self.atoms.info.get(key)]
        return changes

    def evaluate_many(self, structures: Iterable[Atoms]) -> list[Results]:
        """Results of many structures, evaluated in batches; the same as one by one, and faster.

        Raises:
            ValueError: a structure that the model cannot answer for; the message names its position in the list.
        """
        return list(self.predictor.many(self._graphs(structures)))

    def certify(
        self,
        structures: Atoms | Sequence[Atoms] | Mapping[str, Atoms],
        *,
        precisions: Sequence[str] = (),
        md_steps: int = 200,
        temperature: float = 300.0,
        on_failure: Callable[[str, ValueError], None] | None = None,
    ) -> Certificate:
        """What rounding does to the answers for these structures: a certificate to print, to keep and to cite.

        Against float64 and against itself: energy, forces and stress, finite differences, symmetries, batches,
        extensivity, repeatability and the drift of the energy in a short NVE run.

        Args:
            structures: one, or several, which may have names.
            precisions: of ``"bf16"``, ``"fp32"``, ``"fp64"``; none given means the calculator's own.
            md_steps: steps of dynamics for each structure and precision; 0 leaves them out.
            temperature: K, of the velocities they begin with, where a structure brings none.
            on_failure: called with the name of a structure that the model cannot answer for, and the error; the others
                are measured then.

        Raises:
            ValueError: no structures, unknown precision, or a structure that the model cannot answer for.
        """
        from gfmpot.calculators.certify import ShortDynamics, named
        from gfmpot.inference.certification import certify

        given = named(structures)
        if not precisions:
            self._decide(atoms for _, atoms in given)
        return certify(
            self._model,
            given,
            precisions=precisions or [self.precision],
            charge=self.parameters["charge"],
            spin=self.parameters["spin"],
            dynamics=ShortDynamics(cache(self._in_precision), md_steps, temperature) if md_steps else None,
            on_failure=on_failure,
            **_options(self.parameters),
        )

    def freeze_weights(self, reference: Atoms) -> dict[str, float]:
        """Use the branch weights of ``reference`` from now on, and return them.

        The blend follows the whole composition, so two unlike fragments far apart do not add exactly. With weights
        frozen to those of the whole (slab and adsorbate, compound and elements) energy differences are consistent.
        A branch that does not support a structure is left out there, and the others are renormalised.

        Raises:
            ValueError: one head answers alone.
        """
        if (head := self.parameters["head"]) is not None:
            raise ValueError(f"freeze_weights freezes the blend, but head={head!r} answers alone: set(head=None) first")
        weights = self.predictor.composition_weights(self._graph(reference))
        self.set(weights=weights)
        return weights

    def _prepare(
        self, model: str | Path | Potential, parameters: Mapping[str, Any], choice: Choice | None = None
    ) -> None:
        how = {key: parameters[key] for key in ("precision", "tolerance")}
        predictor = build_predictor(model, **how, choice=choice, **_options(parameters))
        self._verlet = VerletList(predictor.cutoff, parameters["skin"])
        self._model, self._predictor = model, predictor

    def _decide(self, structures: Iterable[Atoms]) -> None:
        """Let ``"auto"`` choose on the first structure that can be answered for."""
        for atoms in structures:
            with suppress(ValueError):  # whoever evaluates this structure next will be told
                if isinstance(self.predictor, AutoPredictor):
                    self.predictor.decide(self._graph(atoms))
                return

    def _in_precision(self, precision: str) -> GFMCalculator:
        """Another calculator with the same settings, which stays with its first path."""
        own = {key: self.parameters[key] for key in ("charge", "spin", "skin")}
        how = {**_options(self.parameters), "compile": self.parameters["compile"] is True}
        return GFMCalculator(self._model, precision=precision, **own, **how)

    def _graph(self, atoms: Atoms, search: VerletList | None = None) -> AtomGraph:
        p = self.parameters
        return graph_from_atoms(
            atoms,
            cutoff=self.predictor.cutoff,
            charge=p["charge"],
            spin=p["spin"],
            max_neighbours=self.predictor.max_neighbours,
            search=search,
        )

    def _graphs(self, structures: Iterable[Atoms]) -> Iterable[AtomGraph]:
        for i, atoms in enumerate(structures):
            try:
                yield self._graph(atoms)
            except ValueError as error:
                raise type(error)(f"structure {i} ({atoms.get_chemical_formula()}): {error}") from error


def _model_name(model: str | Path | Potential) -> str:
    """What stands for the model in ``todict()``: JSON has no room for weights."""
    return str(model.metadata.get("name", "in-memory")) if isinstance(model, Potential) else str(model)


def _options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are settings of the predictor, whatever its precision."""
    others = ("model", "charge", "spin", "skin", "precision", "tolerance")
    return {key: value for key, value in parameters.items() if key not in others}
