"""GPUs of NVIDIA (NVML) and AMD (AMD SMI): power, utilisation, memory, energy.

All GPUs of a node are read, whatever devices a process may use: one rank of each node is enough.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from gfmpot.telemetry.reader import GIB, AbsentError, Sample, Trapezoid


class NvidiaReader:
    """GPUs through ``pynvml`` (of nvidia-ml-py; functions as in NVIDIA's NVML API reference)."""

    name = "nvidia"

    def __init__(self, module: ModuleType | Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = module or _imported("pynvml", 'pip install "gfmpot[telemetry]"')
        self._clock, self._energy = clock, Trapezoid()
        self.errors: tuple[type[Exception], ...] = (self._nvml.NVMLError,)
        try:
            self._nvml.nvmlInit()
            self._gpus = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        except self.errors as error:
            raise AbsentError(f"NVML: {error}") from error
        if not self._gpus:
            raise AbsentError("NVML finds no GPU")

    def read(self) -> list[Sample]:
        """One sample for each GPU; memory is that of all processes."""
        return [self._sample(index, gpu) for index, gpu in enumerate(self._gpus)]

    def close(self) -> None:
        """Shut NVML down."""
        self._nvml.nvmlShutdown()

    def _sample(self, index: int, gpu: Any) -> Sample:
        nvml = self._nvml
        power = self._told(lambda: 1e-3 * nvml.nvmlDeviceGetPowerUsage(gpu))
        values = {
            "power_w": power,
            "utilization_percent": self._told(lambda: float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)),
            "memory_gib": self._told(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used / GIB),
            "energy_j": self._energy.energy(index, self._clock(), power),
        }
        return Sample(values, {"name": _text(nvml.nvmlDeviceGetName(gpu))}, ("nvidia", index))

    def _told(self, ask: Callable[[], float]) -> float | None:
        try:
            return ask()
        except self._nvml.NVMLError_NotSupported:  # utilisation of a part of a GPU (MIG), for one
            return None


class AmdReader:
    """GPUs through ``amdsmi`` of ROCm.

    Power is the first that a card tells of ``socket_power``, ``current_socket_power`` (MI300 on) and
    ``average_socket_power`` (MI200 and before); ``vram_used`` is in MiB
    (https://rocm.docs.amd.com/projects/amdsmi, Python API). Of a card with two dies, such as the MI250X, each die is a
    GPU, and the power of the card is told by the first.
    """

    name = "amd"

    def __init__(self, module: ModuleType | Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._smi = module or _imported("amdsmi", "it comes with ROCm, or from PyPI")
        self._clock, self._energy = clock, Trapezoid()
        self.errors: tuple[type[Exception], ...] = (self._smi.AmdSmiException,)
        try:
            self._smi.amdsmi_init()
            self._gpus = list(self._smi.amdsmi_get_processor_handles())
        except self.errors as error:
            raise AbsentError(f"AMD SMI: {' '.join(str(error).split())}") from error
        if not self._gpus:
            raise AbsentError("AMD SMI finds no GPU")

    def read(self) -> list[Sample]:
        """One sample for each GPU; memory is that of all processes."""
        return [self._sample(index, gpu) for index, gpu in enumerate(self._gpus)]

    def close(self) -> None:
        """Shut AMD SMI down."""
        self._smi.amdsmi_shut_down()

    def _sample(self, index: int, gpu: Any) -> Sample:
        smi = self._smi
        power = _first(smi.amdsmi_get_power_info(gpu), *_AMD_POWERS)
        mib = _first(smi.amdsmi_get_gpu_vram_usage(gpu), "vram_used")
        values = {
            "power_w": power,
            "utilization_percent": _first(smi.amdsmi_get_gpu_activity(gpu), "gfx_activity"),
            "memory_gib": None if mib is None else mib / 1024,
            "energy_j": self._energy.energy(index, self._clock(), power),
        }
        return Sample(values, {"name": smi.amdsmi_get_gpu_asic_info(gpu)["market_name"]}, ("amd", index))


_AMD_POWERS = ("socket_power", "current_socket_power", "average_socket_power")
_AMD_UNKNOWN = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
"""What AMD SMI gives for what a card does not tell, besides texts such as "N/A"."""


def _first(answer: Mapping[str, Any], *keys: str) -> float | None:
    known = (answer[key] for key in keys if isinstance(answer.get(key), int | float))
    return next((float(value) for value in known if value not in _AMD_UNKNOWN), None)


def _imported(module: str, hint: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, KeyError) as error:  # amdsmi without ROCm's library ends in a KeyError
        if isinstance(error, ModuleNotFoundError):
            raise AbsentError(f"Python module {module} is not installed ({hint})") from error
        raise AbsentError(f"Python module {module} finds no library of the driver ({error})") from error


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
