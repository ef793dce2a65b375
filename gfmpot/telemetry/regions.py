"""Nested timers in the manner of GPTL, with which the paper measures its runs (§VI, Figure 3).

A region is a named stretch of code; regions entered inside another one are its children, and the same name under two
parents is two regions. Names join with ``/``: ``epoch/forward``.

Example:
    >>> timer = Regions()
    >>> with timer("epoch"):
    ...     with timer("forward"):
    ...         pass
    >>> list(timer.total())
    ['epoch', 'epoch/forward']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING

from gfmpot.telemetry.tree import NOTHING, Cursor, Region, RegionTime

if TYPE_CHECKING:
    import torch
    from rich.table import Table
    from torch.distributed import ProcessGroup

    from gfmpot.telemetry.ranks import RankTimes


class Regions:
    """The regions of one rank. One thread may use it.

    Entering and leaving a region costs about a microsecond. Work queued on a GPU is counted where the program waits
    for it; with ``device``, every entry and exit waits for that device, so that regions own their work, at the price
    of the overlap between host and device: an option for finding out, not for production.
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        self._cursor = Cursor(_synchroniser(device))
        self._root = self._cursor.region
        self._past: dict[str, RegionTime] = {}

    def __call__(self, name: str) -> Region:
        """The region ``name`` inside the current one, to be entered with ``with`` at once."""
        region = self._cursor.region
        return region.children.get(name) or region.child(name)

    def total(self) -> dict[str, RegionTime]:
        """Times since the start or the last :meth:`reset`, by path, parents before children."""
        return {path: time + self._past.get(path, NOTHING) for path, time in self._since_last().items()}

    def interval(self) -> dict[str, RegionTime]:
        """Times since the last call (or the start). Regions may be open: what they took so far counts here."""
        times = self._since_last()
        self._past = {path: time + self._past.get(path, NOTHING) for path, time in times.items()}
        for _, region in self._root.walk():
            region.clear()
        return times

    def reset(self) -> None:
        """Begin anew; regions that are open count from now on."""
        self.interval()
        self._past = {}

    def gather(
        self,
        times: Mapping[str, RegionTime] | None = None,
        group: ProcessGroup | None = None,
        device: str | torch.device = "cpu",
    ) -> dict[str, RankTimes]:
        """Mean, least and most over the ranks of a process group. Every rank of it must call.

        Args:
            times: what :meth:`interval` or :meth:`total` returned here; the latter by default.
            group: of torch.distributed; all ranks by default. One rank where it is not initialised.
            device: on which the group communicates: "cpu" for gloo, the rank's own device for nccl and xccl.
        """
        from gfmpot.telemetry.ranks import over_ranks

        gathered = over_ranks(self.total() if times is None else times, group, device)
        for path in gathered:  # so that ranks with different regions agree from now on, and need not compare names
            self._root.descend(path)
        return {path: gathered[path] for path, _ in self._root.walk() if path in gathered}

    def table(self) -> Table:
        """:meth:`total` as a table to print, indented as regions are nested."""
        from gfmpot.telemetry.tables import region_table

        return region_table(self.total())

    def _since_last(self) -> dict[str, RegionTime]:
        self._credit_open()
        return {path: region.time() for path, region in self._root.walk()}

    def _credit_open(self) -> None:
        now, region = perf_counter(), self._cursor.region
        while region.parent is not None:
            region.credit(now)
            region = region.parent


def _synchroniser(device: str | torch.device | None) -> Callable[[], None] | None:
    if device is None:
        return None
    import torch

    chosen = torch.device(device)
    return None if chosen.type == "cpu" else lambda: torch.accelerator.synchronize(chosen)
