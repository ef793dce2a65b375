"""Evaluates a potential, in a chosen precision, on one structure or on any number of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gfmpot.config import did_you_mean
from gfmpot.graph import AtomGraph, BatchBudget, InvalidStructureError
from gfmpot.inference.advice import advise
from gfmpot.inference.batches import InBatches
from gfmpot.inference.doubts import Doubts
from gfmpot.inference.paths import Compile, Path, Paths
from gfmpot.inference.precision import dense_layers_in, network_dtype
from gfmpot.models import Potential, Prediction, load
from gfmpot.models.answering import Answering, checked_skip

Results = dict[str, Any]
"""``energy``, ``free_energy``, ``forces``, ``stress`` (where there is a volume), ``energies`` (not with graph readout),
``branch_energies`` and ``branch_weights`` by branch name, ``energy_std`` and, on request, ``forces_std``; eV and Å.
``novelty`` of each atom, if the model estimates its errors: 1 at the edge of what the branches that answer were trained
on."""

_FAR_OUT = "the structure is far from anything the model knows (contacts, density, charge?)"


class Predictor(InBatches[Results]):
    """A potential made ready to answer; its weights are not to be changed afterwards, of which copies are in use.

    Args:
        model: name of an embedded or cached model, path of a checkpoint, or a potential (which is copied).
        head: the branch that answers; None blends them by composition.
        weights: weight by branch name, instead of those from the composition; the others get none.
        precision: ``fp32``, ``fp64`` or ``bf16``.
        device: where to run; None takes a CUDA or ROCm device if there is one.
        compile: let TorchInductor compile the network; see :class:`gfmpot.inference.paths.Paths`.
        uncertainty: ``"energy"``, or ``"forces"`` for ``forces_std`` too; a model that does not estimate its errors
            needs one more backward pass per branch for it.
        allow_unsupported: answer for elements that no branch has learnt.
        skip: leave out branches of less weight than this; see :meth:`gfmpot.models.Potential.forward`.
        budget: the largest batch.
        kernels: use compiled kernels where there are any; without, PyTorch's operations do the same.

    Raises:
        ValueError: an unknown model, head or precision, or a device or weights that cannot be used.
    """

    def __init__(
        self,
        model: str | FilePath | Potential = "default",
        *,
        head: str | None = None,
        weights: Mapping[str, float] | None = None,
        precision: str = "fp32",
        device: str | torch.device | None = None,
        compile: Compile = "auto",
        uncertainty: Literal["energy", "forces"] = "energy",
        allow_unsupported: bool = False,
        skip: float = 0.0,
        budget: BatchBudget | None = None,
        kernels: bool = True,
    ) -> None:
        if uncertainty not in ("energy", "forces"):
            raise ValueError(f"uncertainty must be 'energy' or 'forces', got {uncertainty!r}")
        if head is not None and weights is not None:
            raise ValueError("give either head or weights, not both")
        potential = copy.deepcopy(model) if isinstance(model, Potential) else load(model)
        self.device = usable_device(device)
        self.potential = potential.eval().requires_grad_(False).to(self.device, network_dtype(precision))
        self.precision, self.head, self.uncertainty = precision, head, uncertainty
        self.allow_unsupported, self.budget, self.skip = allow_unsupported, budget or BatchBudget(), checked_skip(skip)
        joint = (uncertainty == "energy" or self.potential.errors is not None) and not skip
        self._paths = Paths(self.potential, precision, compile, kernels=kernels, joint=joint)
        if head is not None:
            self.potential.branch_index(head)
        self.weights = None if weights is None else self._weight_vector(weights)
        self._doubts = Doubts(potential, blended=head is None and weights is None)
        self._last: _Last | None = None
        if potential.config.max_neighbours is not None:
            _warn_of_cap(potential.config.max_neighbours)

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.potential.cutoff

    @property
    def max_neighbours(self) -> int | None:
        """The model's cap on neighbours, None for all."""
        return self.potential.config.max_neighbours

    @property
    def path(self) -> Path:
        """How the network is evaluated now: ``"kernels"``, ``"compiled"``, or ``"plain"``, by PyTorch's operations."""
        return self._paths.name

    def _results(self, graph: AtomGraph) -> list[Results]:
        self._paths.prepare(graph, self._predict)
        prediction = self._predict(graph)
        self._doubts.tell(graph, prediction)
        results = split_results(prediction, graph, self.potential.branch_names)
        for i, single in enumerate(results):
            if not (np.isfinite(single["energy"]) and np.isfinite(single["forces"]).all()):
                place = f"structure {i} of the batch: " if len(results) > 1 else ""
                raise InvalidStructureError(f"{place}energy or forces are not finite; {_FAR_OUT}")
        return results

    def composition_weights(self, graph: AtomGraph) -> dict[str, float]:
        """The weights that the blend gives to a structure, to be frozen for others.

        Raises:
            UnsupportedElementsError: no branch has all elements, and ``allow_unsupported`` is not set.
        """
        graph = graph.to(self.device)
        weights = self.potential.answering(graph, allow_unsupported=self.allow_unsupported).weights
        self._doubts.tell_of_boundaries(graph, weights)
        return dict(zip(self.potential.branch_names, weights[0].tolist(), strict=True))

    def _predict(self, graph: AtomGraph) -> Prediction:
        graph = graph.to(self.device)
        with dense_layers_in(self.precision):
            return self.potential(  # type: ignore[no-any-return]
                graph,
                answering=self._answering(graph),
                spread=self.uncertainty,
                skip=self.skip,
                evaluate=self._paths.evaluate,
                joint=self._paths.joint_for(graph),
            )

    def _answering(self, graph: AtomGraph) -> Answering:
        """As :meth:`Potential.answering`; kept for the same atoms, of which dynamics and relaxations ask again."""
        options = (self.head, self.weights, self.allow_unsupported, self.skip)
        last = self._last  # another thread may replace it meanwhile
        if last is None or not last.holds_for(graph, options):
            last = self._last = _Last.of(self.potential, graph, options)
        return last.answering

    def __getstate__(self) -> dict[str, Any]:
        """Without what is kept from the last evaluation."""
        return {**self.__dict__, "_last": None}

    def _weight_vector(self, weights: Mapping[str, float]) -> Tensor:
        names = self.potential.branch_names
        for name in weights:
            if name not in names:
                raise ValueError(f"weights: no branch {name!r}{did_you_mean(name, names)}")
        vector = torch.tensor([float(weights.get(name, 0.0)) for name in names], dtype=torch.float64)
        if not torch.isfinite(vector).all() or (vector < 0).any() or vector.sum() == 0:
            raise ValueError(f"weights must be finite, not negative and not all zero, got {dict(weights)}")
        return vector / vector.sum()


@dataclass(frozen=True)
class _Last:
    """What was answered last, for whom and how."""

    answering: Answering
    atoms: tuple[Tensor, ...]
    options: tuple[Any, ...]

    @classmethod
    def of(cls, potential: Potential, graph: AtomGraph, options: tuple[Any, ...]) -> _Last:
        head, weights, allow_unsupported, skip = options
        answering = potential.answering(
            graph, head=head, weights=weights, allow_unsupported=allow_unsupported, skip=skip
        )
        return cls(answering, tuple(tensor.clone() for tensor in _identity(graph)), options)

    def holds_for(self, graph: AtomGraph, options: tuple[Any, ...]) -> bool:
        """Whether the atoms and the options are the same, wherever the atoms are now."""
        same_options = all(
            a is b or (not isinstance(a, Tensor) and a == b) for a, b in zip(self.options, options, strict=True)
        )
        return same_options and all(map(torch.equal, self.atoms, _identity(graph)))


def _identity(graph: AtomGraph) -> tuple[Tensor, ...]:
    """What an answer depends on beside positions."""
    return graph.atomic_numbers, graph.structure_of_atom, graph.charge, graph.spin


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or a CUDA (or ROCm) device if there is one, or the CPU.

    Raises:
        ValueError: a device that does not exist here, or that has no float64.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=chosen, dtype=torch.float64).device  # geometry is float64
    except (RuntimeError, AssertionError, TypeError) as error:  # torch asserts that it was built for the device
        kinds = ("cpu", "cuda", "mps", "xpu")
        kind = str(chosen).split(":")[0]
        hint = "" if kind in kinds else did_you_mean(kind, kinds)
        raise ValueError(f"device {str(chosen)!r} cannot be used ({str(error).splitlines()[0]}){hint}") from error


def split_results(prediction: Prediction, graph: AtomGraph, names: list[str]) -> list[Results]:
    """The results of each structure of a batch as NumPy arrays and floats."""
    fields = {name: None if value is None else value.cpu().numpy() for name, value in vars(prediction).items()}
    ends = np.cumsum(graph.atoms_per_structure.cpu().numpy())
    starts = np.concatenate([[0], ends[:-1]])
    return [
        _structure_results(fields, names, i, slice(a, b)) for i, (a, b) in enumerate(zip(starts, ends, strict=True))
    ]


def _structure_results(fields: dict[str, Any], names: list[str], i: int, atoms: slice) -> Results:
    results: Results = {"energy": float(fields["energy"][i]), "free_energy": float(fields["energy"][i])}
    for name in ("forces", "energies", "forces_std", "novelty"):
        if fields[name] is not None:
            results[name] = fields[name][atoms]
    if np.isfinite(fields["stress"][i]).all():
        results["stress"] = fields["stress"][i]
    energies, weights = fields["branch_energies"][i], fields["branch_weights"][i]
    results["branch_energies"] = {n: float(e) for n, e in zip(names, energies, strict=True) if np.isfinite(e)}
    results["branch_weights"] = {n: float(w) for n, w in zip(names, weights, strict=True)}
    results["energy_std"] = float(fields["energy_std"][i])
    return results


def _warn_of_cap(max_neighbours: int) -> None:
    advise(
        f"this model keeps only the {max_neighbours} nearest neighbours: its energy jumps when neighbours change "
        "places, so do not run dynamics with it"
    )
