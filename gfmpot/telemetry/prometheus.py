"""An endpoint from which Prometheus, VictoriaMetrics and collectors built on them (Omnistat) scrape a running job."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from gfmpot.telemetry.records import Record

_PLAIN = {
    "step": ("gfmpot_step", "Training step."),
    "epoch": ("gfmpot_epoch", "Passes over the data."),
    "loss": ("gfmpot_loss", "Training loss."),
    "learning_rate": ("gfmpot_learning_rate", "Learning rate."),
    "gradient_norm": ("gfmpot_gradient_norm", "Norm of the gradient before clipping."),
    "structures_per_second": ("gfmpot_structures_per_second", "Structures trained on per second, all ranks."),
    "atoms_per_second": ("gfmpot_atoms_per_second", "Atoms trained on per second, all ranks."),
    "cpu_percent": ("gfmpot_cpu_percent", "Processor time of the process; 100 is one busy core."),
    "rss_gib": ("gfmpot_rss_gib", "Resident memory of the process in GiB."),
    "memory_used_gib": ("gfmpot_memory_used_gib", "Memory in use on the node in GiB."),
    "cpu_power_w": ("gfmpot_cpu_power_watts", "Power of the processor packages."),
}
_ERRORS = {
    "energy": ("gfmpot_energy_mae_ev_per_atom", "Mean absolute error of the energy in eV/atom."),
    "forces": ("gfmpot_forces_mae_ev_per_angstrom", "Mean absolute error of force components in eV/Å."),
    "stress": ("gfmpot_stress_mae_ev_per_cubic_angstrom", "Mean absolute error of stress components in eV/Å³."),
}
_GPU = {
    "power_w": ("gfmpot_gpu_power_watts", "Power of a GPU."),
    "utilization_percent": ("gfmpot_gpu_utilization_percent", "Time during which a GPU was busy, in percent."),
    "memory_gib": ("gfmpot_gpu_memory_gib", "Memory in use on a GPU in GiB."),
}
_REGION = ("gfmpot_region_seconds", "Time in a region since the record before, mean over ranks.")
_TIME = ("gfmpot_last_record_timestamp_seconds", "Unix time of the last record: a job that hangs stops here.")

Measured = tuple[tuple[str, str], dict[str, str], float]
"""Name and description of a gauge, labels, value."""


class Endpoint:
    """Serves the latest values of records as gauges at ``http://HOST:port/metrics``.

    Labels are rank, host and jobid: Prometheus keeps ``job`` for itself.

    Args:
        port: to listen on; 0 takes any that is free, see :attr:`port`.
        address: to listen on; all by default, because scrapers run on other nodes. Nothing can be changed through it.
        rank: a label.
        host: a label; the name of this machine by default.
        job: a label; the job of Slurm, PBS or Flux by default, empty outside of one.

    Raises:
        ValueError: prometheus-client is not installed.
        OSError: the port is taken.
    """

    def __init__(
        self, port: int = 0, *, address: str = "0.0.0.0", rank: int = 0, host: str = "", job: str = ""
    ) -> None:
        try:
            import prometheus_client
        except ImportError as error:
            raise ValueError('prometheus-client is not installed: pip install "gfmpot[telemetry]"') from error
        self._client = prometheus_client
        self._registry = prometheus_client.CollectorRegistry()
        self._labels = {"rank": str(rank), "host": host or socket.gethostname(), "jobid": job or _scheduler_job()}
        self._gauges: dict[str, Any] = {}
        self._server, self._thread = prometheus_client.start_http_server(port, address, self._registry)
        self.port = int(self._server.server_port)

    def write(self, record: Record) -> None:
        """Show its values from now on."""
        for (name, about), labels, value in measurements(record):
            every = {**self._labels, **labels}
            if name not in self._gauges:
                self._gauges[name] = self._client.Gauge(name, about, list(every), registry=self._registry)
            self._gauges[name].labels(**every).set(value)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def measurements(record: Record) -> Iterator[Measured]:
    """What of a record an endpoint shows."""
    for key, gauge in _PLAIN.items():
        yield from _number(gauge, {}, record.get(key))
    for key, gauge in _ERRORS.items():
        for branch, value in _items(record, key):
            yield from _number(gauge, {"split": "train", "branch": branch}, value)
    for branch, errors in _items(record, "branches"):
        for key, gauge in _ERRORS.items():
            yield from _number(gauge, {"split": "valid", "branch": branch}, errors.get(f"{key}_mae"))
    for region, times in _items(record, "regions"):
        yield from _number(_REGION, {"region": region}, times.get("mean"))
    for gpu in record.get("gpu") or []:
        labels = {"vendor": str(gpu["vendor"]), "gpu": str(gpu["index"])}
        for key, gauge in _GPU.items():
            yield from _number(gauge, labels, gpu.get(key))
    yield from _number(_TIME, {}, record.get("time"))


def _number(gauge: tuple[str, str], labels: dict[str, str], value: Any) -> Iterator[Measured]:
    if value is not None:
        yield gauge, labels, float(value)


def _items(record: Record, key: str) -> Iterator[tuple[str, Any]]:
    """Of a mapping in a record; nothing where the key is a number or missing."""
    value = record.get(key)
    return iter(value.items() if isinstance(value, Mapping) else ())


def _scheduler_job() -> str:
    return next((job for name in ("SLURM_JOB_ID", "PBS_JOBID", "FLUX_JOB_ID") if (job := os.environ.get(name))), "")
