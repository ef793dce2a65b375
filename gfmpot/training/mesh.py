"""Which ranks train which branches: proportional allocation for task parallelism (paper §V-B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BranchGroup:
    """Consecutive ranks, and the branches that they train together."""

    ranks: range
    branches: tuple[int, ...]


def allocate_ranks(sizes: Sequence[int], ranks: int) -> list[BranchGroup]:
    """Groups of ranks, each with its branches, so that the ranks have about the same amount of data each.

    With at least one rank per branch, every branch gets one and the others go by size, with the largest remainders
    rounded up. With fewer, each rank is a group of its own, and branches share them, packed by size (largest first,
    to the rank that has least).

    Args:
        sizes: structures per epoch of each branch.
        ranks: how many there are.

    Raises:
        ValueError: no rank, no branch, or a branch without structures.
    """
    if ranks < 1 or not sizes or min(sizes) < 1:
        raise ValueError(f"expected at least one rank and branches with structures, got {ranks} and {list(sizes)}")
    if ranks < len(sizes):
        return [BranchGroup(range(r, r + 1), branches) for r, branches in enumerate(_packed(sizes, ranks))]
    counts = 1 + _largest_remainders(sizes, ranks - len(sizes))
    ends = np.cumsum(counts).tolist()
    return [BranchGroup(range(end - int(n), end), (b,)) for b, (n, end) in enumerate(zip(counts, ends, strict=True))]


def _largest_remainders(sizes: Sequence[int], seats: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    quota = seats * np.asarray(sizes, dtype=np.float64) / sum(sizes)
    counts = np.floor(quota).astype(np.int64)
    left = np.argsort(counts - quota, kind="stable")[: seats - counts.sum()]
    counts[left] += 1
    return counts


def _packed(sizes: Sequence[int], bins: int) -> list[tuple[int, ...]]:
    loads, content = [0] * bins, [list[int]() for _ in range(bins)]
    for branch in sorted(range(len(sizes)), key=lambda b: -sizes[b]):
        lightest = loads.index(min(loads))
        loads[lightest] += sizes[branch]
        content[lightest].append(branch)
    return [tuple(sorted(branches)) for branches in content]
