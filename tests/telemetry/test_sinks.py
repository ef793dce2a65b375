"""Where records go."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gfmpot.telemetry import JsonLines, SinkConfig, open_sinks, read_records
from gfmpot.telemetry.records import scalars

TRAIN = {"kind": "train", "step": 7, "loss": 0.5, "energy": {"a-pbe": 0.1}, "regions": {"data": {"mean": 1.5}}}


def test_lines_begin_with_time_step_and_kind(tmp_path: Path) -> None:
    sink = open_sinks(SinkConfig(), tmp_path / "run")
    before = time.time()
    sink.write({"loss": 1.0, **TRAIN})
    sink.close()
    line = (tmp_path / "run" / "log.jsonl").read_text()
    assert line.endswith("\n")
    record = json.loads(line)
    assert list(record)[:3] == ["time", "step", "kind"]
    assert before <= record["time"] <= time.time()
    assert record["energy"] == {"a-pbe": 0.1}


def test_numbers_of_all_kinds_are_plain(tmp_path: Path) -> None:
    sink = open_sinks(SinkConfig(), tmp_path)
    sink.write(
        {
            "kind": "train",
            "time": 3.0,
            "loss": torch.tensor(0.5),
            "a": np.float32(2.0),
            "b": np.arange(2),
            "c": [float("nan"), float("inf")],
            "d": tmp_path,
            "e": (1, {"x": np.int64(4)}),
        }
    )
    sink.close()
    records, torn = read_records(tmp_path / "log.jsonl")
    assert torn == 0
    assert records == [
        {
            "time": 3.0,
            "kind": "train",
            "loss": 0.5,
            "a": 2.0,
            "b": [0, 1],
            "c": [None, None],
            "d": str(tmp_path),
            "e": [1, {"x": 4}],
        }
    ]


WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from gfmpot.telemetry import JsonLines

sink = JsonLines(Path(sys.argv[1]))
for step in itertools.count():
    sink.write({"step": step, "kind": "train", "text": "x" * 5000})
"""


def test_a_kill_and_a_torn_line_lose_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, str(path)])
    deadline = time.monotonic() + 30
    while (not path.exists() or path.stat().st_size < 50_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    whole = read_records(path)[0]
    with path.open("a") as file:
        file.write('{"step": 99, "kind": "tr')  # what a kill within a write would leave
    sink = JsonLines(path)
    sink.write({"step": 100, "kind": "train"})
    sink.close()
    records, torn = read_records(path)
    assert torn == 1
    assert len(whole) >= 9
    assert records[-1] == {"step": 100, "kind": "train"}
    assert [record["step"] for record in records[:-1]] == list(range(len(whole)))


def test_scalars_have_paths() -> None:
    record = {"loss": 1, "name": "x", "yes": True, "bad": float("nan"), "gpu": [{"power_w": 3.0}], "a": {"b": {"c": 2}}}
    assert dict(scalars(record)) == {"loss": 1.0, "gpu/0/power_w": 3.0, "a/b/c": 2.0}


def test_only_rank_zero_keeps_files(tmp_path: Path) -> None:
    sink = open_sinks(SinkConfig(), tmp_path / "run", rank=3)
    sink.write(TRAIN)
    sink.close()
    assert not (tmp_path / "run").exists()


def test_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = open_sinks(SinkConfig(tensorboard=True), tmp_path)
    sink.write({**TRAIN, "time": 5.0})
    sink.write({"kind": "valid", "step": 9, "branches": {"a-pbe": {"energy_mae": 0.2}}})
    sink.write({"kind": "telemetry", "rss_gib": 2.0})
    sink.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {
        "train/loss": [(7, 0.5)],
        "train/energy/a-pbe": [(7, pytest.approx(0.1))],
        "train/regions/data/mean": [(7, 1.5)],
        "valid/branches/a-pbe/energy_mae": [(9, pytest.approx(0.2))],
        "telemetry/rss_gib": [(9, 2.0)],
    }
    assert events.Scalars("train/loss")[0].wall_time == 5.0


class FakeWandB(types.ModuleType):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.settings: dict[str, Any] = {}
        self.axes: list[tuple[str, str]] = []
        self.finished = 0

    def init(self, **keywords: Any) -> FakeWandB:
        self.runs.append(keywords)
        return self

    @property
    def config(self) -> FakeWandB:
        return self

    def update(self, settings: dict[str, Any], allow_val_change: bool) -> None:
        assert allow_val_change  # a restart may have other settings
        self.settings |= settings

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):  # a run and its restart
        sink = open_sinks(SinkConfig(wandb="project"), tmp_path / "run")
        sink.write({"kind": "start", "step": 0, "config": {"steps": 9}, "world": 2})
        sink.write(TRAIN)
        sink.close()
    first, second = fake.runs
    assert first == second  # one run
    assert (first["project"], first["name"], first["dir"]) == ("project", "run", str(tmp_path / "run"))
    assert fake.settings == {"steps": 9}
    assert fake.logged[:2] == [
        {"step": 0, "start/world": 2.0},
        {"step": 7, "train/loss": 0.5, "train/energy/a-pbe": 0.1, "train/regions/data/mean": 1.5},
    ]
    assert fake.axes[0] == ("*", "step")
    assert fake.finished == 2


@pytest.mark.parametrize(
    ("config", "module", "extra"),
    [
        (SinkConfig(tensorboard=True), "torch.utils.tensorboard", "tensorboard"),
        (SinkConfig(wandb="x"), "wandb", "wandb"),
        (SinkConfig(prometheus=0), "prometheus_client", "telemetry"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: SinkConfig, module: str, extra: str
) -> None:
    hide(monkeypatch, module)
    with pytest.raises(ValueError, match=rf'pip install "gfmpot\[{extra}\]"'):
        open_sinks(config, tmp_path)


def hide(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    import importlib

    real = builtins.__import__

    def refuse(load: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(name: str, *arguments: Any, **keywords: Any) -> Any:
            if name == module:
                raise ImportError(name)
            return load(name, *arguments, **keywords)

        return wrapped

    monkeypatch.setattr(builtins, "__import__", refuse(real))
    monkeypatch.setattr(importlib, "import_module", refuse(importlib.import_module))
