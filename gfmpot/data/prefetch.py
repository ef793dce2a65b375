"""Reading ahead: while one batch is computed with, the next ones are fetched."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from gfmpot.data.dataset import Dataset
from gfmpot.data.frames import FrameSet


def prefetch(data: Dataset, batches: Iterable[Sequence[int] | NDArray[np.int64]], depth: int = 2) -> Iterator[FrameSet]:
    """The structures of each batch of indices, in order, read by one background thread up to ``depth`` batches ahead.

    Memory holds at most ``depth + 1`` batches. An error in reading is raised where its batch is due. ADIOS2 holds
    Python's lock while it reads, so reading overlaps with what runs outside of it: torch's operations do.

    Raises:
        ValueError: a depth below 1.
    """
    if depth < 1:
        raise ValueError(f"depth of prefetching must be at least 1 batch, got {depth}")
    return _prefetch(data, batches, depth)


def _prefetch(data: Dataset, batches: Iterable[Sequence[int] | NDArray[np.int64]], depth: int) -> Iterator[FrameSet]:
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    waiting: deque[Future[FrameSet]] = deque()
    try:
        for batch in batches:
            waiting.append(pool.submit(data.subset, batch))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # a consumer that stops early leaves no thread behind
