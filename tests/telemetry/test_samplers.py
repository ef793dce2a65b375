"""Readers on the real /proc and on imitations of devices, and the thread that reads."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gfmpot.telemetry import Sampler
from gfmpot.telemetry.gpus import AmdReader, NvidiaReader
from gfmpot.telemetry.host import ProcessReader, RaplReader
from gfmpot.telemetry.reader import GIB, AbsentError, Sample
from gfmpot.telemetry.samplers import open_readers

TICKS = os.sysconf("SC_CLK_TCK")


def ticking(*times: float) -> Any:
    return itertools.chain(times, itertools.repeat(times[-1])).__next__


def write_process(root: Path, user: int, system: int, pages: int, available: int) -> None:
    (root / "self").mkdir(exist_ok=True)
    stat = f"7 (a name) with (parens) R 1 1 1 0 -1 4194304 99 0 0 0 {user} {system} 500 600 20 0 1 0 1 2 3"
    (root / "self" / "stat").write_text(stat)
    (root / "self" / "statm").write_text(f"99999 {pages} 3 4 0 5 0\n")
    (root / "meminfo").write_text(
        f"MemTotal:       8388608 kB\nMemFree:   1 kB\nMemAvailable: {available} kB\nHugePages_Total: 0\n"
    )


def test_process_arithmetic(tmp_path: Path) -> None:
    write_process(tmp_path, 10 * TICKS, 2 * TICKS, 0, 0)
    reader = ProcessReader(tmp_path, ticking(50.0, 54.0))
    write_process(tmp_path, 15 * TICKS, 3 * TICKS, 2 * GIB // os.sysconf("SC_PAGE_SIZE"), 6 * 1024**2)
    (sample,) = reader.read()
    assert sample.values == {"cpu_percent": 150.0, "rss_gib": 2.0, "memory_used_gib": 2.0}
    assert sample.facts["memory_total_gib"] == 8.0


def test_real_process() -> None:
    reader = ProcessReader()
    ballast = bytearray(64 * 2**20)
    until = time.process_time() + 0.2
    while time.process_time() < until:
        ballast[0] ^= 1
    (sample,) = reader.read()
    assert 20 < sample.values["cpu_percent"] < 400
    assert 0.06 < sample.values["rss_gib"] < sample.facts["memory_total_gib"]
    assert 0 < sample.values["memory_used_gib"] < sample.facts["memory_total_gib"]


def test_no_proc(tmp_path: Path) -> None:
    with pytest.raises(AbsentError, match="not Linux"):
        ProcessReader(tmp_path)


def write_zone(root: Path, folder: str, name: str, energy: int) -> None:
    (root / folder).mkdir(exist_ok=True)
    for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", 1_000_000_000)):
        (root / folder / file).write_text(f"{value}\n")


def test_rapl_sums_packages_and_survives_the_wrap(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 100_000_000)
    write_zone(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    for part, name in (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0")):
        write_zone(tmp_path, part, name, 0)
    reader = RaplReader(tmp_path, ticking(0.0, 10.0, 20.0))
    write_zone(tmp_path, "intel-rapl:0", "package-0", 400_000_000)
    write_zone(tmp_path, "intel-rapl:1", "package-1", 49_000_000)
    for part in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        (tmp_path / part / "energy_uj").write_text("777000000")
    (sample,) = reader.read()
    assert sample.values["cpu_energy_j"] == pytest.approx(300 + 50)
    assert sample.values["cpu_power_w"] == pytest.approx(35)
    assert sample.facts == {"cpu_packages": 2}
    assert reader.read()[0].values["cpu_energy_j"] == 0


def test_rapl_absent_or_unreadable(tmp_path: Path) -> None:
    with pytest.raises(AbsentError, match="no intel-rapl package zones"):
        RaplReader(tmp_path / "none")
    write_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    (tmp_path / "intel-rapl:0" / "energy_uj").mkdir()  # root may read any file, so a file with mode 000 shows nothing
    with pytest.raises(AbsentError, match="energy_uj cannot be read"):
        RaplReader(tmp_path)


class NVMLError(Exception):
    """As pynvml has it."""


class NVMLNotSupportedError(NVMLError):
    """As pynvml has it, NVMLError_NotSupported."""


class FakeNvml:
    """Two GPUs; the second is a part of one, and tells neither power nor utilisation."""

    NVMLError, NVMLError_NotSupported = NVMLError, NVMLNotSupportedError

    def __init__(self, powers: tuple[int, ...] = (400_000, 600_000), count: int = 2) -> None:
        self.powers, self.count, self.down = iter(powers), count, False

    def nvmlInit(self) -> None:  # noqa: N802
        if self.count < 0:
            raise NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.down = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, gpu: int) -> str | bytes:  # noqa: N802
        return "NVIDIA H200" if gpu == 0 else b"NVIDIA H200 MIG"

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:  # noqa: N802
        if gpu == 1:
            raise NVMLNotSupportedError
        power = next(self.powers, None)
        if power is None:
            raise NVMLError("GPU is lost")
        return power

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:  # noqa: N802
        if gpu == 1:
            raise NVMLNotSupportedError
        return SimpleNamespace(gpu=87, memory=40)

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=(3 + gpu) * GIB, total=140 * GIB)


def test_nvidia() -> None:
    nvml = FakeNvml()
    reader = NvidiaReader(nvml, ticking(0.0, 0.0, 10.0))
    first, part = reader.read()
    assert first.values == {"power_w": 400.0, "utilization_percent": 87.0, "memory_gib": 3.0, "energy_j": None}
    assert (first.gpu, first.facts) == (("nvidia", 0), {"name": "NVIDIA H200"})
    assert part.values == {"power_w": None, "utilization_percent": None, "memory_gib": 4.0, "energy_j": None}
    assert part.facts == {"name": "NVIDIA H200 MIG"}
    assert reader.read()[0].values["energy_j"] == pytest.approx(5000)  # the mean of 400 and 600 W over 10 s
    reader.close()
    assert nvml.down


@pytest.mark.parametrize(("count", "message"), [(-1, "NVML: Driver Not Loaded"), (0, "NVML finds no GPU")])
def test_no_nvidia(count: int, message: str) -> None:
    with pytest.raises(AbsentError, match=message):
        NvidiaReader(FakeNvml(count=count))


class FakeAmdSmi:
    """A card that tells its power as MI300 do, and one as MI200 do."""

    AmdSmiException = RuntimeError
    powers = (
        {"socket_power": "N/A", "current_socket_power": 512, "average_socket_power": 0xFFFFFFFF},
        {"socket_power": 0xFFFFFFFFFFFFFFFF, "current_socket_power": 0xFFFF, "average_socket_power": 300},
    )

    def __init__(self, count: int = 2) -> None:
        self.count = count

    def amdsmi_init(self) -> None:
        if self.count < 0:
            raise RuntimeError("Error code:\n\t34 | not found")

    def amdsmi_shut_down(self) -> None:
        self.count = 0

    def amdsmi_get_processor_handles(self) -> list[int]:
        return list(range(self.count))

    def amdsmi_get_power_info(self, gpu: int) -> dict[str, Any]:
        return self.powers[gpu]

    def amdsmi_get_gpu_activity(self, gpu: int) -> dict[str, Any]:
        return {"gfx_activity": 75 if gpu == 0 else "N/A", "umc_activity": 1}

    def amdsmi_get_gpu_vram_usage(self, gpu: int) -> dict[str, int]:
        return {"vram_total": 196592, "vram_used": 2048}

    def amdsmi_get_gpu_asic_info(self, gpu: int) -> dict[str, str]:
        return {"market_name": f"AMD Instinct {gpu}"}


def test_amd() -> None:
    reader = AmdReader(FakeAmdSmi(), ticking(0.0, 0.0, 2.0, 2.0))
    new, old = reader.read()
    assert new.values == {"power_w": 512.0, "utilization_percent": 75.0, "memory_gib": 2.0, "energy_j": None}
    assert (old.values["power_w"], old.values["utilization_percent"]) == (300.0, None)
    assert (old.gpu, old.facts) == (("amd", 1), {"name": "AMD Instinct 1"})
    assert [sample.values["energy_j"] for sample in reader.read()] == [1024.0, 600.0]


@pytest.mark.parametrize(("count", "message"), [(-1, r"AMD SMI: Error code: 34 \| not found"), (0, "finds no GPU")])
def test_no_amd(count: int, message: str) -> None:
    with pytest.raises(AbsentError, match=message):
        AmdReader(FakeAmdSmi(count))


def test_missing_modules_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def without(name: str) -> Any:
        if name == "amdsmi":
            raise KeyError("libamd_smi.so")  # as the real one does without ROCm
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(AbsentError, match=r"gfmpot\[telemetry\]"):
        NvidiaReader()
    with pytest.raises(AbsentError, match=r"finds no library of the driver \('libamd_smi.so'\)"):
        AmdReader()


class FakeReader:
    """Tells what it is given, then is lost."""

    name = "fake"
    errors = (OSError,)

    def __init__(self, *readings: list[Sample]) -> None:
        self.readings: Iterator[list[Sample]] = iter(readings)
        self.closed = False

    def read(self) -> list[Sample]:
        found = next(self.readings, None)
        if found is None:
            raise OSError("gone")
        return found

    def close(self) -> None:
        self.closed = True


def gpu(power: float | None, energy: float | None) -> Sample:
    return Sample({"power_w": power, "energy_j": energy}, {"name": "G"}, ("fake", 0))


def test_records_hold_means_greatest_values_and_energies() -> None:
    host = [Sample({"rss_gib": rss}, {"cpu_cores": 4}) for rss in (1.0, 3.0, 5.0)]
    reader = FakeReader([host[0], gpu(100, None)], [host[1], gpu(200, 50)], [host[2], gpu(None, None)])
    sampler = Sampler(1000, [reader])
    sampler._read()
    sampler._read()
    record = sampler.interval()
    assert (record["kind"], record["samples"], record["cpu_cores"]) == ("telemetry", 2, 4)
    assert (record["rss_gib"], record["rss_gib_max"]) == (2.0, 3.0)
    assert record["gpu"] == [
        {"vendor": "fake", "index": 0, "name": "G", "power_w": 150, "power_w_max": 200, "energy_j": 50}
    ]
    assert "absent" not in record
    record = sampler.interval()  # read now
    assert (record["samples"], record["rss_gib"], record["gpu"]) == (
        1,
        5.0,
        [{"vendor": "fake", "index": 0, "name": "G"}],
    )
    assert sampler.interval()["absent"] == {"fake": "lost: gone"}
    assert "absent" not in sampler.interval()
    summary = sampler.summary()
    assert (summary["rss_gib"], summary["gpu"][0]["energy_j"], summary["absent"]) == (3.0, 50, {"fake": "lost: gone"})


def test_this_machine_in_the_background() -> None:
    readers, absent = open_readers()
    assert {reader.name for reader in readers} | set(absent) == {"process", "rapl", "nvidia", "amd"}
    for reader in readers:
        reader.close()
    with Sampler(0.02) as sampler:
        deadline = time.monotonic() + 5
        while sampler.summary()["samples"] < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        record = sampler.interval()
    json.dumps(record, allow_nan=False)
    assert record["samples"] >= 3
    assert record["rss_gib"] > 0
    assert record.get("absent", {}) == absent  # reported once
    assert not sampler._thread.is_alive()


def test_closes_its_readers() -> None:
    reader = FakeReader()
    with Sampler(1000, [reader]):
        pass
    assert reader.closed
    with pytest.raises(ValueError, match="expected more than 0"):
        Sampler(0)
