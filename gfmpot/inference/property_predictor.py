"""Evaluates a model of a property, in a chosen precision, on any number of structures."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gfmpot.graph import AtomGraph, BatchBudget, InvalidStructureError, graph_from_atoms
from gfmpot.inference.batches import InBatches
from gfmpot.inference.precision import dense_layers_in, network_dtype
from gfmpot.inference.predictor import usable_device
from gfmpot.models import PropertyModel, Target, load_property

if TYPE_CHECKING:
    from ase import Atoms

Answer = dict[str, float | str]
"""``{"band_gap": 1.2, "unit": "eV"}``; of classes the probability alone, ``{"is_metal": 0.93}``."""


class PropertyPredictor(InBatches[float]):
    """A property model made ready to answer; its weights are not to be changed afterwards, of which copies are in use.

    Args:
        model: name of a cached model, path of a checkpoint, or a model (which is copied).
        precision: ``fp32``, ``fp64`` or ``bf16``.
        device: where to run; None takes a CUDA or ROCm device if there is one.
        allow_unsupported: answer for elements that were not in the training data.
        budget: the largest batch.
        charge: total charge of structures that do not state one in ``atoms.info["charge"]``.
        spin: multiplicity 2S+1 of structures that do not state one in ``atoms.info["spin"]``; None is unspecified.
        kernels: use compiled kernels where there are any; without, PyTorch's operations do the same.

    Raises:
        ValueError: an unknown model or precision, the file of a potential, or a device that cannot be used.
    """

    def __init__(
        self,
        model: str | Path | PropertyModel,
        *,
        precision: str = "fp32",
        device: str | torch.device | None = None,
        allow_unsupported: bool = False,
        budget: BatchBudget | None = None,
        charge: int = 0,
        spin: int | None = None,
        kernels: bool = True,
    ) -> None:
        own = copy.deepcopy(model) if isinstance(model, PropertyModel) else load_property(model)
        self.device, self.precision = usable_device(device), precision
        self.model = own.eval().requires_grad_(False).to(self.device, network_dtype(precision))
        self.allow_unsupported, self.budget = allow_unsupported, budget or BatchBudget()
        self.charge, self.spin = charge, spin
        dense = torch.bfloat16 if precision == "bf16" else self.model.dtype
        self._evaluate = self.model.backbone.kernels(dense) if kernels else None

    @property
    def target(self) -> Target:
        """What is predicted."""
        return self.model.target

    def evaluate_many(self, structures: Iterable[Atoms]) -> list[Answer]:
        """Answers for many structures, evaluated in batches.

        Raises:
            ValueError: a structure that the model cannot answer for; the message names its position in the list.
        """
        return [self.answer(value) for value in self.many(self._graphs(structures))]

    def answer(self, value: float) -> Answer:
        """A value under the target's name, with its unit."""
        named: Answer = {self.target.name: value}
        return named if self.target.is_class else {**named, "unit": self.target.unit}

    @torch.no_grad()
    def _results(self, graph: AtomGraph) -> list[float]:
        with dense_layers_in(self.precision):
            values = self.model(
                graph.to(self.device), evaluate=self._evaluate, allow_unsupported=self.allow_unsupported
            )
        bad = torch.nonzero(~values.isfinite()).flatten().tolist()
        if bad:
            place = f"structure {bad[0]} of the batch: " if len(values) > 1 else ""
            raise InvalidStructureError(
                f"{place}{self.target.name} is not finite; the structure is far from anything the model knows "
                "(contacts, density, charge?)"
            )
        return values.tolist()  # type: ignore[no-any-return]

    def _graphs(self, structures: Iterable[Atoms]) -> Iterator[AtomGraph]:
        for i, atoms in enumerate(structures):
            try:
                graph = graph_from_atoms(
                    atoms,
                    cutoff=self.model.cutoff,
                    charge=self.charge,
                    spin=self.spin,
                    max_neighbours=self.model.config.max_neighbours,
                )
                if not self.allow_unsupported:
                    self.model.require_elements(graph)
            except ValueError as error:
                raise type(error)(f"structure {i} ({atoms.get_chemical_formula()}): {error}") from error
            yield graph
