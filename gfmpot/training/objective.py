"""What is minimised: structures to sums of the loss, in one module."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gfmpot.graph import AtomGraph
from gfmpot.models import Potential, Prediction
from gfmpot.models.potential import Network
from gfmpot.training.differences import sums_by_differences
from gfmpot.training.loss import LossConfig, loss_sums


class Objective(nn.Module):
    """Structures to sums of the loss: forces are computed inside ``forward``, as FSDP2 needs it.

    An ``autograd.grad`` outside the root module's forward would run after its weights were freed or resharded.
    """

    def __init__(
        self,
        potential: Potential,
        loss: LossConfig,
        *,
        bf16: bool,
        network: Network | None = None,
        differences: bool = False,
    ) -> None:
        super().__init__()
        assert not (bf16 and differences), "in bf16 the differences drown in rounding"
        self.potential, self.loss, self.bf16, self.network = potential, loss, bf16, network
        self.differences = differences

    def forward(self, graph: AtomGraph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The fields of :class:`~gfmpot.training.loss.LossSums`."""
        if self.loss.energies_alone:
            prediction = self._energies(graph)
        elif self.differences:
            sums = sums_by_differences(self.potential, graph, self.loss)
            return sums.values, sums.counts, sums.errors, sums.labelled
        else:
            with self._dense(graph):
                prediction = self.potential.labelled(graph, network=self.network)
        sums = loss_sums(prediction, graph, self.loss, len(self.potential.branches))
        return sums.values, sums.counts, sums.errors, sums.labelled

    def _energies(self, graph: AtomGraph) -> Prediction:
        """Without forces, which nothing is to be learnt from; by kernels where there are any."""
        kernels = None if self.bf16 or self.network else self.potential.backbone.training_kernels()
        evaluate = kernels.by_weights if kernels else None
        with self._dense(graph):
            return self.potential.labelled(graph, derivatives=False, network=self.network, evaluate=evaluate)

    def _dense(self, graph: AtomGraph) -> AbstractContextManager[Any]:
        return torch.autocast(graph.positions.device.type, torch.bfloat16) if self.bf16 else nullcontext()
