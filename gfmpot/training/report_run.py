"""What a training run left in its folder, ready to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gfmpot.telemetry import read_records

Record = dict[str, Any]
Floats = NDArray[np.float64]
Curve = tuple[Floats, Floats]
"""Steps and values."""

QUANTITIES = ("energy", "forces", "stress")
UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}
"""In which errors are shown; logs have them in eV."""

MEANS = {"forces": ", norm", "stress": ", component"}
"""What is averaged, where a label has several numbers."""


@dataclass
class Run:
    """Records of a run by kind, in order. After a restart from an earlier step, what it repeated counts once."""

    folder: Path
    name: str
    starts: list[Record] = field(default_factory=list)
    train: list[Record] = field(default_factory=list)
    valid: list[Record] = field(default_factory=list)
    telemetry: list[Record] = field(default_factory=list)
    parity: dict[str, Path] = field(default_factory=dict)
    torn: int = 0
    """Lines of the log that are no records."""

    @property
    def start(self) -> Record:
        """Of the last start, what the run is."""
        return self.starts[-1] if self.starts else {}

    @property
    def branches(self) -> list[str]:
        """In the order in which the log names them."""
        named = [record.get(quantity) for record in self.train for quantity in QUANTITIES]
        named += [record.get("branches") for record in self.valid]
        return list(dict.fromkeys(branch for each in named if isinstance(each, dict) for branch in each))

    @property
    def steps(self) -> int:
        """The last step in the log."""
        return max((record["step"] for record in [*self.train, *self.valid]), default=0)

    def curve(self, key: str) -> Curve:
        """A number of the training records, e.g. "loss", over steps."""
        return _curve(self.train, key)

    def trained(self, quantity: str, branch: str) -> Curve:
        """Mean absolute error of a branch over training steps, eV/atom, eV/Å or eV/Å³."""
        return _curve(self.train, quantity, branch)

    def validated(self, quantity: str, branch: str) -> Curve:
        """The same of validations."""
        return _curve(self.valid, "branches", branch, f"{quantity}_mae")

    def hours(self, records: Iterable[Record]) -> Floats:
        """When records were written, in hours after the first of the log."""
        every = (r["time"] for kind in (self.starts, self.train, self.valid, self.telemetry) for r in kind)
        began = min(every, default=0.0)
        return np.array([(record["time"] - began) / 3600 for record in records])


def read_run(folder: Path) -> Run:
    """Read ``log.jsonl`` of a run; what is missing there is missing in the result.

    Raises:
        OSError: the log cannot be read.
    """
    records, torn = read_records(folder / "log.jsonl")
    run = Run(folder, folder.resolve().name, torn=torn)
    for record in records:
        _take(run, record)
    return run


def _take(run: Run, record: Record) -> None:
    kind = record.get("kind")
    if kind == "parity":
        run.parity[str(record.get("branch"))] = run.folder / str(record.get("file"))
    elif kind in ("start", "telemetry") and _has(record, "time"):
        (run.starts if kind == "start" else run.telemetry).append(record)
        if kind == "start" and _has(record, "step"):
            run.train, run.valid = (_before(each, record["step"], keep_equal=True) for each in (run.train, run.valid))
    elif kind in ("train", "valid") and _has(record, "time", "step"):
        step = record["step"]
        run.train = _before(run.train, step, keep_equal=kind == "valid")
        run.valid = _before(run.valid, step, keep_equal=kind == "train")
        (run.train if kind == "train" else run.valid).append(record)


def _has(record: Record, *keys: str) -> bool:
    return all(isinstance(record.get(key), int | float) for key in keys)


def _before(records: list[Record], step: int, keep_equal: bool) -> list[Record]:
    """Without those that a restart overtook: they are at the end."""
    while records and (records[-1]["step"] > step or (records[-1]["step"] == step and not keep_equal)):
        records.pop()
    return records


def _curve(records: Sequence[Record], *keys: str) -> Curve:
    points = [(record["step"], found) for record in records if isinstance(found := _inside(record, keys), int | float)]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, dtype=float), np.array(values, dtype=float)


def _inside(record: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


def thinned(curve: Curve, points: int = 250) -> Curve:
    """At most so many points: means over neighbours, equally many each."""
    together = -(-len(curve[0]) // points)
    if together < 2:
        return curve
    starts = np.arange(0, len(curve[0]), together)
    counts = np.diff([*starts, len(curve[0])])
    return np.add.reduceat(curve[0], starts) / counts, np.add.reduceat(curve[1], starts) / counts
