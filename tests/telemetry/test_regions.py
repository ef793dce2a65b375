"""Nested timers: on one rank, and over real ranks."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from rich.console import Console

from gfmpot.telemetry import Regions, RegionTime, region_record, region_table


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("gfmpot.telemetry.tree.perf_counter", clock)
    monkeypatch.setattr("gfmpot.telemetry.regions.perf_counter", clock)
    return clock


def spend(timer: Regions, clock: Clock, name: str, seconds: float) -> None:
    with timer(name):
        clock.now += seconds


def test_counts_totals_extremes_and_self_time(clock: Clock) -> None:
    timer = Regions()
    with timer("epoch"):
        for forward in (1.0, 3.0, 2.0):
            spend(timer, clock, "forward", forward)
            clock.now += 0.5
    times = timer.total()
    assert list(times) == ["epoch", "epoch/forward"]
    assert times["epoch/forward"] == RegionTime(3, 6.0, 1.0, 3.0, 6.0)
    assert times["epoch"] == RegionTime(1, 7.5, 7.5, 7.5, 1.5)


def test_one_name_in_two_places_is_two_regions(clock: Clock) -> None:
    timer = Regions()
    spend(timer, clock, "forward", 1.0)
    with timer("validate"):
        spend(timer, clock, "forward", 2.0)
    assert {path: t.total for path, t in timer.total().items()} == {
        "forward": 1.0,
        "validate": 2.0,
        "validate/forward": 2.0,
    }


def test_intervals_add_up_also_with_a_region_open(clock: Clock) -> None:
    timer = Regions()
    with timer("epoch"):
        spend(timer, clock, "data", 1.0)
        first = timer.interval()
        spend(timer, clock, "data", 4.0)
        clock.now += 2.0
    second = timer.interval()
    assert first == {"epoch": RegionTime(0, 1.0, 0.0, 0.0, 0.0), "epoch/data": RegionTime(1, 1.0, 1.0, 1.0, 1.0)}
    assert second["epoch"] == RegionTime(1, 6.0, 7.0, 7.0, 2.0)  # the whole pass took 7 s, 6 of them in this interval
    assert timer.total()["epoch"] == RegionTime(1, 7.0, 7.0, 7.0, 2.0)
    assert timer.total()["epoch/data"] == RegionTime(2, 5.0, 1.0, 4.0, 5.0)
    assert timer.interval()["epoch"].total == 0.0
    timer.reset()
    assert timer.total()["epoch/data"] == RegionTime(0, 0.0, 0.0, 0.0, 0.0)


def test_an_exception_leaves_the_region(clock: Clock) -> None:
    timer = Regions()
    with pytest.raises(ZeroDivisionError), timer("forward"):
        raise ZeroDivisionError
    spend(timer, clock, "backward", 1.0)
    assert list(timer.total()) == ["forward", "backward"]


@pytest.mark.parametrize("name", ["", "epoch/forward"])
def test_names_are_words(name: str) -> None:
    with pytest.raises(ValueError, match="nest regions instead"):
        Regions()(name)


def test_cost_of_a_region() -> None:
    timer = Regions()
    best = float("inf")
    for _ in range(20):  # the least of many: the machine does other things, too
        began = time.perf_counter()
        for _ in range(1000):
            with timer("forward"):
                pass
        best = min(best, (time.perf_counter() - began) / 1000)
    assert best < 2e-6


def test_waits_for_the_device_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    with Regions("cuda:1")("forward"):
        assert waited == [torch.device("cuda:1")]
    assert waited == [torch.device("cuda:1")] * 2
    with Regions("cpu")("forward"), Regions()("forward"):
        pass
    assert len(waited) == 2


def test_table_is_indented_and_json_is_plain(clock: Clock) -> None:
    timer = Regions()
    with timer("epoch"):
        spend(timer, clock, "forward", 0.25)
        clock.now += 0.75
    text = printed(timer.table())
    rows = [line.split() for line in text.splitlines() if "." in line]
    assert rows == [
        ["epoch", "1", "1.000", "0.750", "1000.000", "1000.000", "1000.000", "100.0%"],
        ["forward", "1", "0.250", "0.250", "250.000", "250.000", "250.000", "25.0%"],
    ]
    assert "\n   forward" in text
    record = json.loads(json.dumps(region_record(timer.total())))
    assert record["epoch/forward"] == {"count": 1, "total": 0.25, "min": 0.25, "max": 0.25, "own": 0.25}


def test_one_rank_gathers_itself(clock: Clock) -> None:
    timer = Regions()
    spend(timer, clock, "data", 2.0)
    gathered = timer.gather()
    assert gathered["data"].mean == gathered["data"].min == gathered["data"].max == 2.0
    timer.interval()
    assert region_record(timer.gather(timer.interval())) == {}  # nobody entered it since


def printed(table: object) -> str:
    console = Console(width=120, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def _rank(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    timer = Regions()
    clock = Clock()
    import gfmpot.telemetry.regions
    import gfmpot.telemetry.tree

    gfmpot.telemetry.regions.perf_counter = gfmpot.telemetry.tree.perf_counter = clock  # type: ignore[attr-defined]
    with timer("epoch"):
        spend(timer, clock, "data", 1.0 + rank)
        if rank == 0:
            spend(timer, clock, "checkpoint", 3.0)
        if rank == 1:
            spend(timer, clock, "branch", 1.5)
    names_sent = []
    gather = dist.all_gather_object
    dist.all_gather_object = lambda *arguments: names_sent.append(1) or gather(*arguments)
    first = timer.gather(timer.interval())
    with timer("epoch"):
        spend(timer, clock, "data", 1.0)
    second = timer.gather(timer.interval())
    result = {"first": region_record(first), "second": region_record(second), "names_sent": len(names_sent)}
    Path(folder, f"{rank}.json").write_text(json.dumps({**result, "table": printed(region_table(first))}))
    dist.destroy_process_group()


def test_ranks_with_different_regions_agree(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (2, str(tmp_path)), nprocs=2)
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    first = results[0]["first"]
    assert all(result["first"] == first and result["second"] == results[0]["second"] for result in results)
    assert first["epoch/data"] == {"count": 2, "mean": 1.5, "min": 1.0, "max": 2.0, "own": 1.5}
    assert first["epoch/checkpoint"] == {"count": 1, "mean": 1.5, "min": 0.0, "max": 3.0, "own": 1.5}
    assert first["epoch/branch"] == {"count": 1, "mean": 0.75, "min": 0.0, "max": 1.5, "own": 0.75}
    assert results[0]["second"]["epoch/data"]["mean"] == 1.0
    assert [result["names_sent"] for result in results] == [1, 1]  # once; later a checksum is enough
    assert "data" in results[1]["table"]
    assert "1.33" in next(line for line in results[1]["table"].splitlines() if "  data" in line)  # most over mean
