"""Times of regions over the ranks of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from gfmpot.telemetry.tree import RegionTime


@dataclass(frozen=True)
class RankTimes:
    """Wall time of one region over all ranks, in s; a rank that never entered it counts with zero."""

    count: int
    """How often it was left, all ranks together."""

    mean: float
    min: float
    max: float
    """Of the ranks' totals."""

    own: float
    """Mean over ranks of the time spent in no region inside this one."""


def over_ranks(
    times: Mapping[str, RegionTime], group: ProcessGroup | None, device: str | torch.device
) -> dict[str, RankTimes]:
    """Reduce the times of every rank; regions that only some ranks know are included.

    Two small all-reduces, and one to see whether all ranks have the same regions, whatever the number of ranks.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return {path: RankTimes(t.count, t.total, t.total, t.total, t.own) for path, t in times.items()}
    paths = sorted(_common_paths(times, group, device))
    rows = [(t.count, t.total, t.own) if (t := times.get(path)) else (0, 0.0, 0.0) for path in paths]
    ends = [(total, -total) for _, total, _ in rows]
    sums = _reduced(rows, "sum", group, device) / dist.get_world_size(group)
    most = _reduced(ends, "max", group, device)
    return {path: _rank_times(sums[i], most[i], dist.get_world_size(group)) for i, path in enumerate(paths)}


def _rank_times(mean: Tensor, ends: Tensor, ranks: int) -> RankTimes:
    count, total, own = mean.tolist()
    most, least = ends.tolist()
    return RankTimes(round(count * ranks), total, -least, most, own)


def _common_paths(times: Mapping[str, RegionTime], group: ProcessGroup | None, device: str | torch.device) -> set[str]:
    """The regions that any rank has; names travel only where a checksum tells that they differ."""
    import torch.distributed as dist

    digest = hashlib.blake2s("\n".join(sorted(times)).encode(), digest_size=6).digest()
    number = float(int.from_bytes(digest, "big"))  # 48 bits: exact
    most, least = _reduced([(number, -number)], "max", group, device)[0].tolist()
    if most == -least:
        return set(times)
    gathered: list[list[str]] = [[] for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(gathered, list(times), group)
    return {path for paths in gathered for path in paths}


def _reduced(
    rows: Sequence[tuple[float, ...]], how: str, group: ProcessGroup | None, device: str | torch.device
) -> Tensor:
    import torch
    import torch.distributed as dist

    tensor = torch.tensor(rows, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.SUM if how == "sum" else dist.ReduceOp.MAX, group)
    return tensor.cpu()
