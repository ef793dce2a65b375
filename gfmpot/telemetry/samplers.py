"""A thread that reads processor, memory and GPUs every few seconds."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from gfmpot.telemetry.gpus import AmdReader, NvidiaReader
from gfmpot.telemetry.host import ProcessReader, RaplReader
from gfmpot.telemetry.reader import AbsentError, Reader, Sample


def open_readers() -> tuple[list[Reader], dict[str, str]]:
    """What can be read on this machine, and why the rest cannot, by the names of the readers."""
    readers: list[Reader] = []
    absent: dict[str, str] = {}
    for kind in (ProcessReader, RaplReader, NvidiaReader, AmdReader):
        try:
            readers.append(kind())
        except AbsentError as error:
            absent[kind.name] = str(error)
    return readers, absent


class Sampler:
    """Reads devices in the background; :meth:`interval` gives a record for the log.

    A record holds the mean of every value, its greatest as ``<value>_max``, and energies as sums, for the host at the
    top level and for every GPU under ``gpu``. ``absent`` says, once, what cannot be read here and why; a device that is
    lost on the way is reported there too and not read again.

    Args:
        seconds: between readings.
        readers: what to read; all that this machine has by default.
    """

    def __init__(self, seconds: float = 5.0, readers: Sequence[Reader] | None = None) -> None:
        if seconds <= 0:
            raise ValueError(f"seconds between readings: got {seconds}, expected more than 0")
        self.seconds = seconds
        found, absent = open_readers() if readers is None else (list(readers), {})
        self._readers, self._absent, self._unreported = found, absent, dict(absent)
        self._recent, self._all = _Means(), _Means()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="gfmpot telemetry", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for reader in self._readers:
            reader.close()
        self._readers = []

    def interval(self) -> dict[str, Any]:
        """What was read since the last call, as a record of kind "telemetry"; read now if nothing was."""
        with self._lock:
            if not self._recent.samples:
                self._read()
            record, self._recent = self._recent.record(), _Means()
            absent, self._unreported = self._unreported, {}
        return {"kind": "telemetry", **record, **({"absent": absent} if absent else {})}

    def summary(self) -> dict[str, Any]:
        """The same over all that was read so far."""
        with self._lock:
            return {"kind": "telemetry", **self._all.record(), "absent": dict(self._absent)}

    def _run(self) -> None:
        while not self._stop.wait(self.seconds):
            with self._lock:
                self._read()

    def _read(self) -> None:
        samples: list[Sample] = []
        for reader in list(self._readers):
            try:
                samples += reader.read()
            except reader.errors as error:
                self._readers.remove(reader)
                self._absent[reader.name] = self._unreported[reader.name] = f"lost: {error}"
        for means in (self._recent, self._all):
            means.add(samples)


class _Means:
    """Means and greatest values, by device."""

    def __init__(self) -> None:
        self.samples = 0
        self._began = time.monotonic()
        self._values: dict[tuple[str, int] | None, dict[str, list[float]]] = defaultdict(dict)
        self._facts: dict[tuple[str, int] | None, dict[str, str | float]] = defaultdict(dict)

    def add(self, samples: Sequence[Sample]) -> None:
        self.samples += 1
        for sample in samples:
            self._facts[sample.gpu].update(sample.facts)
            for name, value in sample.values.items():
                if value is not None:
                    count, total, most = self._values[sample.gpu].get(name, (0, 0.0, value))
                    self._values[sample.gpu][name] = [count + 1, total + value, max(most, value)]

    def record(self) -> dict[str, Any]:
        gpus = sorted(gpu for gpu in {*self._values, *self._facts} if gpu is not None)
        listed = [{"vendor": gpu[0], "index": gpu[1], **self._device(gpu)} for gpu in gpus]
        times = {"samples": self.samples, "interval_s": time.monotonic() - self._began}
        return {**times, **self._device(None), **({"gpu": listed} if listed else {})}

    def _device(self, gpu: tuple[str, int] | None) -> dict[str, Any]:
        found: dict[str, Any] = dict(self._facts[gpu])
        for name, (count, total, most) in self._values[gpu].items():
            found |= {name: total} if name.endswith("energy_j") else {name: total / count, f"{name}_max": most}
        return found
