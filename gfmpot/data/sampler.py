"""Which structures make up which batch, for datasets of very different sizes: no state but a position.

The order is a function of (seed, position) alone. Every rank computes the same plan and takes its own part of it, so
ranks never draw the same sample, and a run that stops anywhere, even to go on with another number of ranks, resumes
exactly where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gfmpot.config import tunable

Ints = NDArray[np.int64]
Balance = Literal["natural", "oversample", "temperature", "shares"]

ROUNDS = 6
"""Of the Feistel network; four make it pseudorandom (Luby and Rackoff 1988)."""


@dataclass(frozen=True)
class SamplingConfig:
    """How often the structures of each branch are drawn in an epoch."""

    balance: Balance = "natural"
    """``natural``: each structure once. ``oversample``: branches smaller than ``target`` are repeated up to it (paper
    §VII-A). ``temperature``: proportional to ``n_b ** (1 / temperature)``. ``shares``: as the branches' ``share`` says.
    The last two keep the size of the epoch."""

    target: int | None = None
    """Structures per epoch and branch for ``oversample``; the size of the largest branch if not given."""

    temperature: float = tunable(2.0, 1.0, 5.0)
    """1 is natural; infinite is the same number of structures for each branch."""

    fraction: float = 1.0
    """Of the epoch that is used: 0.1 visits a tenth of the structures, other ones each epoch."""

    def __post_init__(self) -> None:
        if self.target is not None and self.target < 1:
            raise ValueError(f"sampling: target must be at least 1, got {self.target}")
        if self.temperature < 1:
            raise ValueError(f"sampling: temperature must be at least 1 (natural), got {self.temperature}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"sampling: fraction must be above 0 and at most 1, got {self.fraction}")

    def draws(self, sizes: Sequence[int], shares: Sequence[float]) -> Ints:
        """(B,) structures drawn from each branch of ``sizes`` in an epoch; at least one."""
        n = np.asarray(sizes, dtype=np.float64)
        if self.balance == "oversample":
            n = np.maximum(n, self.target or n.max())
        elif self.balance == "temperature":
            weights = n ** (1 / self.temperature)
            n = n.sum() * weights / weights.sum()
        elif self.balance == "shares":
            n = n.sum() * np.asarray(shares) / np.sum(shares)
        return np.maximum(1, np.rint(self.fraction * n)).astype(np.int64)


@dataclass(frozen=True)
class BatchConfig:
    """Size of the batch of one rank."""

    structures: int = tunable(32, 4, 256, log=True)
    max_atoms: int | None = None
    """A batch ends before it would have more atoms than this, however few structures that are (but one)."""

    max_edges: int = 50_000
    """A batch with more edges is computed in parts, whose gradients add up: results are the same, memory is bounded."""

    def __post_init__(self) -> None:
        for name in ("structures", "max_atoms", "max_edges"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"batch: {name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Draws:
    """n structures, by branch and index in the branch."""

    position: Ints  # (n,) in the stream
    branch: Ints  # (n,)
    index: Ints  # (n,)


class Sampler:
    """An endless stream of structures, epoch after epoch, each branch in a new random order on every pass.

    Args:
        sizes: structures of each branch.
        draws: structures drawn from each branch per epoch.
        seed: of all orders.
    """

    def __init__(self, sizes: Sequence[int], draws: Ints, seed: int = 0) -> None:
        self.sizes, self.draws, self.seed = np.asarray(sizes, dtype=np.int64), draws, seed
        self._ends = np.cumsum(draws)

    @property
    def epoch_length(self) -> int:
        """Structures per epoch."""
        return int(self._ends[-1])

    def at(self, positions: Ints) -> Draws:
        """The structures at ``positions`` (n,) of the stream."""
        epoch, place = np.divmod(positions, self.epoch_length)
        mixed = np.empty_like(place)
        for e in np.unique(epoch):
            here = epoch == e
            mixed[here] = permuted(place[here], self.epoch_length, (self.seed, 0, int(e)))
        branch = np.searchsorted(self._ends, mixed, side="right")
        draw = epoch * self.draws[branch] + mixed - (self._ends - self.draws)[branch]
        return Draws(positions, branch, self._indices(branch, draw))

    def _indices(self, branch: Ints, draw: Ints) -> Ints:
        """The n-th draw of a branch: passes through all its structures follow each other."""
        index = np.empty_like(draw)
        passed, place = np.divmod(draw, self.sizes[branch])
        for b, p in np.unique(np.stack([branch, passed], axis=1), axis=0).tolist():
            here = (branch == b) & (passed == p)
            index[here] = permuted(place[here], int(self.sizes[b]), (self.seed, 1 + b, p))
        return index

    def plan(self, position: int, ranks: int, batch: BatchConfig, atoms: Sequence[Ints]) -> Ints:
        """(ranks + 1,) bounds in the stream of the batches of all ranks, from ``position`` on.

        Args:
            position: where the step begins.
            ranks: how many batches.
            batch: their size.
            atoms: by branch, (S,) atoms of its structures; used with ``max_atoms`` only.
        """
        bounds = position + batch.structures * np.arange(ranks + 1)
        if batch.max_atoms is None:
            return bounds
        drawn = self.at(np.arange(bounds[0], bounds[-1]))
        sizes = np.array([atoms[b][i] for b, i in zip(drawn.branch.tolist(), drawn.index.tolist(), strict=True)])
        return position + _bounds(sizes, ranks, batch.structures, batch.max_atoms)


def _bounds(sizes: Ints, ranks: int, structures: int, max_atoms: int) -> Ints:
    """(ranks + 1,) stretches of at most ``structures`` items and ``max_atoms`` in sum, but at least one item."""
    before = np.concatenate([[0], np.cumsum(sizes)])
    bounds = [0]
    for _ in range(ranks):
        start = bounds[-1]
        fitting = int(np.searchsorted(before, before[start] + max_atoms, side="right")) - 1
        bounds.append(min(max(fitting, start + 1), start + structures))
    return np.array(bounds)


def permuted(values: Ints, size: int, key: tuple[int, ...]) -> Ints:
    """The places of ``values`` in a random permutation of 0 … size−1, without making the permutation.

    A Feistel network on the next even power of two; what falls outside walks on until it is inside (Black and Rogaway,
    *Ciphers with arbitrary finite domains*, 2002).
    """
    half = max(1, -(-int(size - 1).bit_length() // 2))
    keys = np.random.default_rng(key).integers(0, 2**64, ROUNDS, dtype=np.uint64)
    result = _feistel(values.astype(np.uint64), half, keys)
    while (outside := result >= size).any():
        result[outside] = _feistel(result[outside], half, keys)
    return result.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask, shift = np.uint64(2**half - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << shift) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): each bit of the result depends on all of ``x``."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
