"""Processor and memory: this process through /proc, packages through RAPL."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gfmpot.telemetry.reader import GIB, AbsentError, Sample


class ProcessReader:
    """Processor time and resident memory of this process, memory of the machine; layouts as in proc(5).

    ``cpu_percent`` is 100 for one busy core. Other processes, such as workers of a loader, are not counted.
    """

    name = "process"
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, root: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        if not (root / "self" / "stat").is_file():
            raise AbsentError(f"no {root / 'self' / 'stat'}: not Linux")
        self._before = clock(), self._cpu_seconds()

    def read(self) -> list[Sample]:
        """The share of processor time is that since the last reading."""
        (then, spent_then), now = self._before, (self._clock(), self._cpu_seconds())
        self._before = now
        percent = 100 * (now[1] - spent_then) / (now[0] - then) if now[0] > then else None
        memory = self._meminfo()
        values = {
            "cpu_percent": percent,
            "rss_gib": self._resident() / GIB,
            "memory_used_gib": (memory["MemTotal"] - memory["MemAvailable"]) / GIB,
        }
        return [Sample(values, {"cpu_cores": cores(), "memory_total_gib": memory["MemTotal"] / GIB})]

    def close(self) -> None:
        """Nothing is held."""

    def _cpu_seconds(self) -> float:
        # the second field is the program's name in parentheses, which may hold spaces
        fields = (self._root / "self" / "stat").read_text().rpartition(")")[2].split()
        user, system = fields[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _resident(self) -> int:
        return int((self._root / "self" / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _meminfo(self) -> dict[str, int]:
        lines = (self._root / "meminfo").read_text().splitlines()
        rows = (line.replace(":", " ").split() for line in lines)
        return {row[0]: int(row[1]) * 1024 for row in rows if len(row) == 3}


class RaplReader:
    """Energy of the processor packages from the powercap counters of Linux (Intel's name, AMD's too).

    Layout: https://docs.kernel.org/power/powercap/powercap.html. Since 2020 most systems let only root read them.
    """

    name = "rapl"
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, root: Path = Path("/sys/class/powercap"), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._zones = clock, [_Zone.open(folder) for folder in _packages(root)]
        if not self._zones:
            raise AbsentError(f"no intel-rapl package zones in {root}")
        self._before = clock()

    def read(self) -> list[Sample]:
        """Mean power since the last reading, and the energy."""
        now = self._clock()
        energy = sum(zone.joules() for zone in self._zones)
        power = energy / (now - self._before) if now > self._before else None
        self._before = now
        return [Sample({"cpu_power_w": power, "cpu_energy_j": energy}, {"cpu_packages": len(self._zones)})]

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class _Zone:
    file: Path
    span: int
    """µJ at which the counter starts again from zero."""

    last: int

    @classmethod
    def open(cls, folder: Path) -> _Zone:
        file = folder / "energy_uj"
        try:
            return cls(file, int((folder / "max_energy_range_uj").read_text()), int(file.read_text()))
        except OSError as error:
            raise AbsentError(f"{file} cannot be read ({error.strerror})") from error

    def joules(self) -> float:
        now = int(self.file.read_text())
        spent = now - self.last if now >= self.last else now - self.last + self.span
        self.last = now
        return 1e-6 * spent


def _packages(root: Path) -> list[Path]:
    """Zones of whole packages: neither their parts, nor the platform (psys), which includes them."""
    zones = (path for path in sorted(root.glob("intel-rapl:*")) if re.fullmatch(r"intel-rapl:\d+", path.name))
    return [zone for zone in zones if (zone / "name").read_text().startswith("package")]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
