"""The endpoint that collectors scrape."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gfmpot.telemetry import SinkConfig, open_sinks

pytest.importorskip("prometheus_client")
from gfmpot.telemetry.prometheus import Endpoint


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint(address="127.0.0.1", rank=3, host="node7", job="42")
    yield endpoint
    endpoint.close()


def scraped(port: int) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_values_of_records_with_their_labels(endpoint: Endpoint) -> None:
    endpoint.write({"kind": "train", "step": 5, "loss": 2.5, "energy": {"a": 0.1, "b": 0.2}, "time": 1e9})
    endpoint.write({"kind": "valid", "step": 5, "branches": {"a": {"energy_mae": 0.3, "forces_mae": 0.4}}})
    endpoint.write({"kind": "train", "step": 6, "loss": 1.5, "structures_per_second": 900.0})
    gpu = {"vendor": "amd", "index": 1, "name": "x", "power_w": 300.0, "utilization_percent": None}
    endpoint.write({"kind": "telemetry", "rss_gib": 2.0, "gpu": [gpu]})
    endpoint.write({"kind": "train", "regions": {"epoch/data": {"mean": 0.25}}})
    own = 'host="node7",jobid="42",rank="3"'
    assert scraped(endpoint.port) == {
        f"gfmpot_step{{{own}}}": 6.0,
        f"gfmpot_loss{{{own}}}": 1.5,
        f"gfmpot_structures_per_second{{{own}}}": 900.0,
        f"gfmpot_rss_gib{{{own}}}": 2.0,
        f"gfmpot_last_record_timestamp_seconds{{{own}}}": 1e9,
        f'gfmpot_energy_mae_ev_per_atom{{branch="a",{own},split="train"}}': 0.1,
        f'gfmpot_energy_mae_ev_per_atom{{branch="b",{own},split="train"}}': 0.2,
        f'gfmpot_energy_mae_ev_per_atom{{branch="a",{own},split="valid"}}': 0.3,
        f'gfmpot_forces_mae_ev_per_angstrom{{branch="a",{own},split="valid"}}': 0.4,
        f'gfmpot_gpu_power_watts{{gpu="1",{own},vendor="amd"}}': 300.0,
        f'gfmpot_region_seconds{{{own},region="epoch/data"}}': 0.25,
    }


def test_two_endpoints_do_not_mix(endpoint: Endpoint) -> None:
    other = Endpoint(address="127.0.0.1")
    other.write({"step": 1})
    assert scraped(endpoint.port) == {}
    (name,) = scraped(other.port)
    assert re.fullmatch(rf'gfmpot_step{{host="{re.escape(socket.gethostname())}",jobid=".*",rank="0"}}', name)
    other.close()
    with pytest.raises(urllib.error.URLError):
        scraped(other.port)


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "PBS_JOBID", "FLUX_JOB_ID"])
def test_the_job_of_the_scheduler(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "FLUX_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "77")
    endpoint = Endpoint(address="127.0.0.1")
    endpoint.write({"loss": 0.0})
    assert 'jobid="77"' in next(iter(scraped(endpoint.port)))
    endpoint.close()


def test_each_rank_of_a_node_has_its_port(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    sinks = open_sinks(SinkConfig(prometheus=free - 1), tmp_path, rank=9, local_rank=1)
    (endpoint,) = sinks.sinks
    assert isinstance(endpoint, Endpoint)
    assert endpoint.port == free
    sinks.write({"step": 4})
    assert 'rank="9"' in next(name for name in scraped(free) if name.startswith("gfmpot_step"))
    with pytest.raises(OSError, match="in use"):
        Endpoint(free)
    sinks.close()


def test_impossible_port() -> None:
    with pytest.raises(ValueError, match="expected 0 to 65535"):
        SinkConfig(prometheus=70000)
