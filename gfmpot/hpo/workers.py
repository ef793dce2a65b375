"""Where the processes of trials are watched from: threads here, or tasks of a Ray cluster."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol


class Workers(Protocol):
    """Where trials run."""

    def submit(self, function: Callable[..., None], /, *arguments: Any) -> Future[None]:
        """Run a function there."""

    def shutdown(self) -> None:
        """Nothing comes after."""


def local_workers(count: int) -> Workers:
    """Threads that each watch a process."""
    return ThreadPoolExecutor(count, thread_name_prefix="trial")


class RayWorkers:
    """Tasks of a Ray cluster, on whose nodes the folder of the campaign is found under the same path.

    Args:
        count: tasks at the same time.
        ranks: processes of each: it gets as many cores, and of the GPUs that there are, as many or an equal share.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, count: int, ranks: int) -> None:
        try:
            ray = importlib.import_module("ray")
        except ImportError as error:
            raise ImportError('trials on Ray need it: pip install "ray[default]"') from error
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")  # of a cluster that is there; else one on this machine
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        gpus = float(ray.cluster_resources().get("GPU", 0.0))
        self._ray, self._resources = ray, {"num_cpus": ranks, "num_gpus": min(float(ranks), gpus / count)}

    def submit(self, function: Callable[..., None], /, *arguments: Any) -> Future[None]:
        """Run a function in a task."""
        future: Future[None] = self._ray.remote(**self._resources)(function).remote(*arguments).future()
        return future

    def shutdown(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()
