"""The model for torch-sim (https://github.com/TorchSim/torch-sim): its integrators, optimizers and autobatchers.

>>> import torch_sim as ts
>>> from gfmpot.calculators.torch_sim import TorchSimModel
>>> model = TorchSimModel()
>>> final = ts.optimize(structures, model, optimizer=ts.frechet_cell_fire, autobatcher=model.in_flight_batcher())

For relaxation and dynamics without torch-sim see :mod:`gfmpot.calculators.batched`.
"""

from __future__ import annotations

from collections import defaultdict
from math import pi
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from gfmpot.calculators.batch_evaluation import BatchEvaluator, Evaluation, Member, full_stress
from gfmpot.graph import UNSPECIFIED_SPIN, BatchBudget, BatchError, InvalidStructureError, VerletList, build_graph
from gfmpot.graph.build import whole
from gfmpot.inference import Predictor, build_predictor
from gfmpot.models import Potential

try:
    from torch_sim import BinningAutoBatcher, InFlightAutoBatcher, SimState
    from torch_sim.models.interface import ModelInterface
    from torch_sim.typing import MemoryScaling
except ImportError as error:
    raise ImportError('torch-sim is not installed: pip install "gfmpot[md]"') from error

_DTYPES = (torch.float32, torch.float64)


class TorchSimModel(ModelInterface):  # type: ignore[misc]
    """Energies, forces and stress for torch-sim's states.

    Neighbour lists are kept with a skin from call to call, also when an autobatcher exchanges systems and when
    positions are wrapped into the cell. Charge and multiplicity are read from states that have ``charge`` and ``spin``
    (torch-sim 0.4 and later; 0 is an unspecified multiplicity).

    Args:
        model: name of an embedded or cached model, path of a checkpoint, or a :class:`gfmpot.Potential`.
        dtype: of the states and results, float64 or float32; float32 rounds positions.
        charge: total charge of systems in states without one.
        spin: multiplicity 2S+1 of systems in states without one; None is unspecified.
        skin: Å, of the neighbour lists.
        options: those of :func:`gfmpot.inference.build_predictor`: ``precision`` (of the network), ``head``,
            ``weights``, ``device``, ...

    Raises:
        ValueError: another dtype, or options that the predictor refuses.
    """

    def __init__(
        self,
        model: str | Path | Potential = "default",
        *,
        dtype: torch.dtype = torch.float64,
        charge: int = 0,
        spin: int | None = None,
        skin: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__()
        if dtype not in _DTYPES:
            raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
        predictor = build_predictor(model, **options)
        self._evaluator, self._skin = BatchEvaluator(predictor), skin
        self._charge = whole(charge, "charge")
        self._spin = UNSPECIFIED_SPIN if spin is None else whole(spin, "spin")
        self._device, self._dtype = predictor.device, dtype
        self._compute_stress = self._compute_forces = True
        self._memory_scales_with = "n_edges" if "n_edges" in get_args(MemoryScaling) else "n_atoms_x_density"
        self._systems: list[_System] = []
        self._members: list[Member] = []

    @property
    def predictor(self) -> Predictor:
        """What evaluates the model."""
        return self._evaluator.predictor

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.predictor.cutoff

    def forward(self, state: SimState | dict[str, Any], **_: Any) -> dict[str, Tensor]:
        """Evaluate all systems of a state.

        Returns:
            ``energy`` (G,) eV, ``forces`` (N, 3) eV/Å and ``stress`` (G, 3, 3) eV/Å³ (NaN without a volume).

        Raises:
            InvalidStructureError: a system that the model cannot answer for; the message has its number.
        """
        if isinstance(state, dict):
            state = SimState(**state)
        positions = state.positions.detach().to(self.device, torch.float64)
        cell = state.row_vector_cell.detach().to(self.device, torch.float64).contiguous()
        try:
            self._arrange(self._read(state), positions, cell)
            place = self._evaluator.neighbours.unwrapped(positions, cell), cell
            return self._converted(self._evaluator(*place))
        except BatchError as error:
            raise InvalidStructureError(str(error).replace("structure ", "system ")) from error

    def max_memory_scaler(self, budget: BatchBudget | None = None) -> float:
        """A batch's limit for autobatchers, in the unit of ``memory_scales_with``, from a budget of edges.

        With ``n_atoms_x_density``, edges are estimated from the density: atoms x neighbours in a sphere of the cutoff.
        """
        edges = (budget or BatchBudget()).max_edges
        if self.memory_scales_with == "n_edges":
            return float(edges)
        return 1000.0 * edges / (4.0 / 3.0 * pi * self.cutoff**3)  # torch-sim takes volumes in nm³

    def in_flight_batcher(self, budget: BatchBudget | None = None, **options: Any) -> InFlightAutoBatcher:
        """An autobatcher for optimizations; ``options`` are torch-sim's."""
        return InFlightAutoBatcher(self, **{**self._batching(budget), **options})

    def binning_batcher(self, budget: BatchBudget | None = None, **options: Any) -> BinningAutoBatcher:
        """An autobatcher for dynamics; ``options`` are torch-sim's."""
        return BinningAutoBatcher(self, **{**self._batching(budget), **options})

    def _batching(self, budget: BatchBudget | None) -> dict[str, Any]:
        limits = {"max_memory_scaler": self.max_memory_scaler(budget), "memory_scales_with": self.memory_scales_with}
        return {**limits, "cutoff": self.cutoff} if self.memory_scales_with == "n_edges" else limits

    def _read(self, state: SimState) -> list[_System]:
        """What tells the systems of a state apart."""
        n = int(state.system_idx[-1]) + 1
        sizes = torch.bincount(state.system_idx, minlength=n).tolist()
        numbers = torch.split(state.atomic_numbers.cpu().to(torch.int64), sizes)
        pbc = tuple(np.broadcast_to(torch.as_tensor(state.pbc).cpu().numpy(), (3,)).tolist())
        charges = self._stated(state, "charge", n, self._charge)
        spins = self._stated(state, "spin", n, self._spin)
        return [
            _System(z.numpy().tobytes(), pbc, charge, spin)
            for z, charge, spin in zip(numbers, charges, spins, strict=True)
        ]

    def _stated(self, state: SimState, name: str, n: int, default: int) -> list[int]:
        stated = getattr(state, name, None)
        if stated is None:
            return [default] * n
        return [whole(value, f"system {i}: {name}") for i, value in enumerate(stated.flatten().tolist())]

    def _arrange(self, systems: list[_System], positions: Tensor, cell: Tensor) -> None:
        """Find the neighbour lists of these systems among those of the last call; new systems get new ones.

        A list serves any system with the same atoms: one that does not cover the geometry searches again.
        """
        if systems == self._systems:
            return
        known: dict[_System, list[Member]] = defaultdict(list)
        for system, member in zip(self._systems, self._members, strict=True):
            known[system].append(member)
        first, members, reasons = 0, [], {}
        xyz, boxes = positions.cpu().numpy(), cell.cpu().numpy()
        for i, system in enumerate(systems):
            of_system = xyz[first : first + len(system.atomic_numbers)]
            first += len(of_system)
            try:
                members.append(self._known(known[system], of_system) or self._new(system, of_system, boxes[i]))
            except ValueError as error:
                reasons[i] = str(error)
        if reasons:
            raise BatchError(reasons)
        self._evaluator.arrange(members)
        self._systems, self._members = systems, members

    def _known(self, members: list[Member], positions: np.ndarray) -> Member | None:
        """The member that the system is most likely to be, taken from the list; None if it is like none of them."""
        if not members:
            return None
        references = np.stack([member.verlet.reference.positions for member in members])
        away = np.minimum(np.abs(references - positions), 1.0).mean(axis=(1, 2))  # some atoms may have been wrapped
        nearest = int(away.argmin())
        return members.pop(nearest) if away[nearest] < self._skin else None

    def _new(self, system: _System, positions: np.ndarray, cell: np.ndarray) -> Member:
        verlet = VerletList(self.cutoff, self._skin)
        graph = build_graph(
            system.atomic_numbers,
            positions,
            cell,
            system.pbc,
            cutoff=self.cutoff,
            charge=system.charge,
            spin=None if system.spin == UNSPECIFIED_SPIN else system.spin,
            search=verlet,
        )
        return Member(graph, verlet)

    def _converted(self, evaluation: Evaluation) -> dict[str, Tensor]:
        stress = full_stress(evaluation.stress)
        found = {"energy": evaluation.energy, "forces": evaluation.forces, "stress": stress}
        return {name: value.to(self.dtype) for name, value in found.items()}


class _System(NamedTuple):
    """What a system is, wherever its atoms are."""

    numbers: bytes
    pbc: tuple[bool, ...]
    charge: int
    spin: int

    @property
    def atomic_numbers(self) -> np.ndarray:
        return np.frombuffer(self.numbers, dtype=np.int64)
