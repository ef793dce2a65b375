"""How a potential is spread over ranks for training: replicated (DDP), sharded (FSDP2), or by branch.

In every mode a rank computes *sums* of the loss over its own structures, gradients are *summed* over ranks, and the
loop divides by counts over all ranks: the step is the one that a single process would make with all the structures.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from gfmpot.graph import AtomGraph, sum_per_structure
from gfmpot.models import Potential
from gfmpot.models.branches import BranchHeads
from gfmpot.ranks.launch import sum_over_ranks
from gfmpot.training.loss import LossConfig, LossSums
from gfmpot.training.low_rank import LowRankChange
from gfmpot.training.mesh import BranchGroup
from gfmpot.training.objective import Objective
from gfmpot.training.parameters import is_matrix, is_shared

Mode = Literal["ddp", "fsdp", "task"]
Chosen = Callable[[str, nn.Parameter], bool]


class Parallel(ABC):
    """A potential in training on this rank."""

    names: list[str]
    parameters: list[nn.Parameter]
    """What this rank optimises: whole tensors, shards, or those of its own branches."""

    @abstractmethod
    def sums(self, graph: AtomGraph) -> LossSums:
        """The loss of some structures."""

    @abstractmethod
    def synchronise(self, last: bool) -> Any:
        """Context of one forward and backward; gradients are reduced in the ``last`` of a step."""

    @abstractmethod
    def full(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Whole tensors by name from what belongs to each parameter on this rank. Collective."""

    @abstractmethod
    def counts_once(self, name: str) -> bool:
        """Whether this rank is the one that accounts for a parameter when norms are summed over ranks."""

    def stored(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """What a checkpoint holds: whole tensors, or shards that know of each other. Collective."""
        return self.full(tensors)

    @torch.no_grad()
    def restore(self, stored: Mapping[str, Tensor], tensors: Sequence[Tensor]) -> None:
        """The inverse of :meth:`stored`, in place."""
        for name, tensor in zip(self.names, tensors, strict=True):
            tensor.copy_(stored[name])

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient. Collective."""
        grads = [p.grad for n, p in zip(self.names, self.parameters, strict=True) if self.counts_once(n)]
        squares = [local(g).double().square().sum() for g in grads if g is not None]
        total = torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)
        return sum_over_ranks(total.to(local(self.parameters[0]).device)).sqrt()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Replicated(Parallel):
    """A copy on every rank, whose gradients DDP sums while the backward pass goes on; or a single process.

    ``chosen`` says which parameters are trained, if not all.
    """

    def __init__(
        self,
        potential: Potential,
        loss: LossConfig,
        *,
        bf16: bool,
        differences: bool = False,
        chosen: Chosen | None = None,
    ) -> None:
        objective = Objective(copy.deepcopy(potential), loss, bf16=bf16, differences=differences)
        self.names, self.parameters = _trained(objective.potential, chosen)
        self._module: nn.Module = _summing(objective, None) if dist.is_initialized() else objective

    @override
    def sums(self, graph: AtomGraph) -> LossSums:
        return LossSums(*self._module(graph))

    @override
    def synchronise(self, last: bool) -> Any:
        held = isinstance(self._module, DistributedDataParallel) and not last
        return self._module.no_sync() if held else nullcontext()  # type: ignore[operator]

    @override
    def full(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.names, tensors, strict=True))

    @override
    def counts_once(self, name: str) -> bool:
        return not dist.is_initialized() or dist.get_rank() == 0


class OfLowRank(Replicated):
    """As :class:`Replicated`, but matrices of the backbone change by a low rank, and nothing else that is shared."""

    def __init__(
        self, potential: Potential, loss: LossConfig, rank: int, *, bf16: bool, differences: bool = False
    ) -> None:
        super().__init__(potential, loss, bf16=bf16, differences=differences, chosen=_matrix_or_own)
        generator = torch.Generator().manual_seed(0)  # the same directions on all ranks
        self._changes: dict[str, LowRankChange] = {}
        trained: dict[str, nn.Parameter] = {}
        for name, p in zip(self.names, self.parameters, strict=True):
            if is_shared(name):
                self._changes[name] = LowRankChange(p, rank, generator)
                trained |= self._changes[name].parameters(name)
            else:
                trained[name] = p
        self.names, self.parameters = list(trained), list(trained.values())

    @override
    def sums(self, graph: AtomGraph) -> LossSums:
        for change in self._changes.values():
            change.put()
        return super().sums(graph)

    @override
    def gradient_norm(self) -> Tensor:
        for change in self._changes.values():
            change.take_gradient()
        return super().gradient_norm()

    @override
    def stored(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.names, tensors, strict=True))

    @override
    def full(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        found = self.stored(tensors)
        matrices = {name: change.merged(name, found) for name, change in self._changes.items()}
        return {**matrices, **{name: t for name, t in found.items() if not is_shared(name)}}


class Sharded(Parallel):
    """Every rank holds a part of each tensor, of its gradient and of the optimizer's state (FSDP2)."""

    def __init__(self, potential: Potential, loss: LossConfig, *, bf16: bool) -> None:
        self._module = Objective(copy.deepcopy(potential), loss, bf16=bf16)
        for parameter in self._module.potential.weights.parameters():
            parameter.requires_grad_(False)
        blending = set(self._module.potential.weights.parameters())
        fully_shard(self._module, reshard_after_forward=False, ignored_params=blending)
        self.names, self.parameters = _trained(self._module.potential)

    @override
    def sums(self, graph: AtomGraph) -> LossSums:
        sums = LossSums(*self._module(graph))
        # FSDP2 averages gradients, and gloo knows no other factor: the gradient is made larger, the value is not.
        values = sums.values + (dist.get_world_size() - 1) * (sums.values - sums.values.detach())
        return dataclasses.replace(sums, values=values)

    @override
    @contextmanager
    def synchronise(self, last: bool) -> Iterator[None]:
        assert isinstance(self._module, FSDPModule)
        self._module.set_requires_gradient_sync(last)
        self._module.set_reshard_after_backward(last)
        yield

    @override
    def full(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        pairs = zip(self.names, tensors, strict=True)
        return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in pairs}

    @override
    def stored(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.names, tensors, strict=True))

    @override
    def counts_once(self, name: str) -> bool:
        return True


class TaskParallel(Parallel):
    """The backbone on every rank; each branch on the ranks of its own group only.

    Gradients of the backbone are summed over all ranks, those of a branch within its group.
    """

    def __init__(self, potential: Potential, loss: LossConfig, groups: Sequence[BranchGroup], *, bf16: bool) -> None:
        rank = dist.get_rank()
        self._groups, self._branches = groups, len(potential.branches)
        self._own = next(group for group in groups if rank in group.ranks)
        # Every rank makes every group: new_group is collective.
        process_groups = [dist.new_group(list(group.ranks)) for group in groups]
        self._group = process_groups[groups.index(self._own)]
        replica = copy.deepcopy(potential)
        trunk = _Trunk(replica)
        heads = _OwnHeads(replica.heads, self._own.branches)
        self.names = [*(n for n, _ in trunk.named_parameters()), *(n for n, _ in heads.named_parameters())]
        self.parameters = [*trunk.parameters(), *heads.parameters()]
        self._trunk, self._heads = _summing(trunk, None), _summing(heads, self._group)
        self._objective = Objective(replica, loss, bf16=bf16, network=self._network)

    @override
    def sums(self, graph: AtomGraph) -> LossSums:
        return LossSums(*self._objective(graph))

    def _network(self, vectors: Tensor, graph: AtomGraph) -> Tensor:
        assert graph.branch is not None
        features = self._trunk(vectors, graph)
        if self._objective.potential.atomwise:
            return self._heads(features, graph.branch[graph.structure_of_atom])  # type: ignore[no-any-return]
        return self._heads(sum_per_structure(features, graph), graph.branch)  # type: ignore[no-any-return]

    @override
    @contextmanager
    def synchronise(self, last: bool) -> Iterator[None]:
        with ExitStack() as stack:
            if not last:
                stack.enter_context(self._trunk.no_sync())
                stack.enter_context(self._heads.no_sync())
            yield

    @override
    def full(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        whole = {}
        for name, tensor in zip(self.names, tensors, strict=True):
            whole[name] = self._joined(name, tensor) if _is_head(name) else tensor
        return whole

    @torch.no_grad()
    def _joined(self, name: str, part: Tensor) -> Tensor:
        whole = part.new_zeros(self._branches, *part.shape[1:])
        if self.counts_once(name):
            whole[list(self._own.branches)] = part
        dist.all_reduce(whole)
        return whole

    @override
    @torch.no_grad()
    def restore(self, stored: Mapping[str, Tensor], tensors: Sequence[Tensor]) -> None:
        for name, tensor in zip(self.names, tensors, strict=True):
            tensor.copy_(stored[name][list(self._own.branches)] if _is_head(name) else stored[name])

    @override
    def counts_once(self, name: str) -> bool:
        return dist.get_rank() == (self._own.ranks.start if _is_head(name) else 0)


class _Trunk(nn.Module):
    """What all branches share, under the names that it has in a potential."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.backbone, self.embedding, self.shown = potential.backbone, potential.embedding, potential.shown

    def forward(self, vectors: Tensor, graph: AtomGraph) -> Tensor:
        features: Tensor = self.backbone(self.embedding(graph), self.shown(vectors, graph), graph)
        return features


class _OwnHeads(nn.Module):
    """Some of the branches; rows come with the numbers that they have among all."""

    place: Tensor

    def __init__(self, heads: BranchHeads, branches: Sequence[int]) -> None:
        super().__init__()
        self.heads = heads.restricted(branches)
        place = torch.full((heads.n_branches,), -1)
        place[list(branches)] = torch.arange(len(branches))
        self.register_buffer("place", place.to(heads.layers[0].weight.device), persistent=False)  # type: ignore[arg-type]

    def forward(self, features: Tensor, branch: Tensor) -> Tensor:
        return self.heads.select(features, self.place[branch])


def _is_head(name: str) -> bool:
    return name.startswith("heads.")


def _matrix_or_own(name: str, p: nn.Parameter) -> bool:
    return is_matrix(name, p) or not is_shared(name)


def _own(name: str, p: nn.Parameter) -> bool:
    return not is_shared(name)


def _trained(potential: Potential, chosen: Chosen | None = None) -> tuple[list[str], list[nn.Parameter]]:
    """All but the weights of the blend and the estimate of errors, which are trained on the finished branches."""
    for name, p in potential.named_parameters():
        p.requires_grad_((_is_head(name) or is_shared(name)) and (chosen is None or chosen(name, p)))
    named = [(n, p) for n, p in potential.named_parameters() if p.requires_grad]
    return [n for n, _ in named], [p for _, p in named]


def _summing(module: nn.Module, group: dist.ProcessGroup | None) -> DistributedDataParallel:
    """DDP that sums gradients; by itself it would average them over its group, and groups differ in size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch 2.13 has another name for it, which 2.8 does not know
        wrapped = DistributedDataParallel(module, process_group=group, broadcast_buffers=False)
    wrapped.register_comm_hook(group, _sum)
    return wrapped


def _sum(group, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def parallelize(
    potential: Potential,
    loss: LossConfig,
    mode: Mode,
    groups: Sequence[BranchGroup],
    *,
    bf16: bool = False,
    differences: bool = False,
    frozen: bool = False,
    low_rank: int | None = None,
) -> Parallel:
    """A copy of ``potential`` for training, spread as ``mode`` says; on a single process, all modes are the same.

    DDP only: with ``differences`` gradients of force losses are made by :mod:`gfmpot.training.differences`; with
    ``frozen`` only the branches are trained, with ``low_rank`` matrices of the backbone change by that rank.
    """
    if not dist.is_initialized() or mode == "ddp":
        if low_rank is not None:
            return OfLowRank(potential, loss, low_rank, bf16=bf16, differences=differences)
        return Replicated(potential, loss, bf16=bf16, differences=differences, chosen=_own if frozen else None)
    if mode == "fsdp":
        return Sharded(potential, loss, bf16=bf16)
    return TaskParallel(potential, loss, groups, bf16=bf16)
