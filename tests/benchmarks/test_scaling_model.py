"""The latency-bandwidth model of benchmarks/scaling.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType

import pytest

pytest.importorskip("lmdb")  # of a benchmark that is imported on the way

LATENCY, BANDWIDTH = 5e-6, 1e9
RANK = {"data": 0.1, "forward": 1.0, "backward": 2.0, "communication": 0.0, "optimizer": 0.4, "structures": 16.0}


@pytest.fixture(scope="module")
def scaling(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("scaling")


def test_sum_of_two_ranks_is_an_exchange_of_halves_there_and_back(scaling: ModuleType) -> None:
    for ring in (True, False):
        assert scaling.allreduce(1e6, 2, LATENCY, BANDWIDTH, ring=ring) == pytest.approx(2 * LATENCY + 1e-3)


def test_ring_is_slower_by_its_rounds_only(scaling: ModuleType) -> None:
    ring, halving = (scaling.allreduce(1e6, 16, LATENCY, BANDWIDTH, ring=ring) for ring in (True, False))
    assert ring - halving == pytest.approx((2 * 15 - 2 * 4) * LATENCY)
    assert halving - 2 * 4 * LATENCY == pytest.approx(2 * 15 / 16 * 1e-3)


def test_one_rank_sums_nothing_and_odd_numbers_round_up(scaling: ModuleType) -> None:
    assert scaling.allreduce(1e6, 1, LATENCY, BANDWIDTH) == 0.0
    assert scaling.allreduce(0.0, 5, LATENCY, BANDWIDTH) == scaling.allreduce(0.0, 8, LATENCY, BANDWIDTH)


def test_fit_finds_the_network_that_made_the_times(scaling: ModuleType) -> None:
    made = [(p, n, scaling.allreduce(n, p, LATENCY, BANDWIDTH, ring=True)) for p in (2, 4) for n in scaling.SIZES]
    assert scaling.fit(made) == pytest.approx((LATENCY, BANDWIDTH))


def test_fit_weighs_short_and_long_messages_alike(scaling: ModuleType) -> None:
    made = [(2, n, 1.1 * scaling.allreduce(n, 2, LATENCY, BANDWIDTH, ring=True)) for n in scaling.SIZES]
    assert scaling.fit(made) == pytest.approx((1.1 * LATENCY, BANDWIDTH / 1.1))


def test_network_that_costs_nothing_leaves_the_fullest_batch(scaling: ModuleType) -> None:
    free = argparse.Namespace(latency=0.0, bandwidth=float("inf"), faster=[1.0])
    for row in scaling.projections({**RANK, "fullest": 1.25}, 10**8, free):
        assert row["PROJECTION"]
        assert row["weak exposed"] == row["weak hidden"] == pytest.approx(3.5 / (3.1 * 1.25 + 0.4))


def test_gradients_hide_behind_the_backward_pass_as_far_as_it_is_long(scaling: ModuleType) -> None:
    network = argparse.Namespace(latency=0.0, bandwidth=1e8, faster=[1.0, 10.0])
    rows = scaling.projections({**RANK, "fullest": 1.0}, 10**8, network)
    slow, fast = (row for row in rows if row["nodes"] == 2048)
    assert slow["ranks"] == 2048 * 8
    assert slow["gradients (s)"] == pytest.approx(2.0, rel=1e-3)
    assert slow["weak hidden"] == pytest.approx(1.0)
    assert slow["weak exposed"] == pytest.approx(3.5 / 5.5, rel=1e-3)
    assert fast["weak hidden"] == pytest.approx(0.35 / (0.35 + 2.0 - 0.2), rel=1e-3)


def test_epoch_of_the_paper_has_less_than_a_batch_for_each_of_the_most_ranks(scaling: ModuleType) -> None:
    network = argparse.Namespace(latency=1e-3, bandwidth=float("inf"), faster=[1.0])
    rows = {row["nodes"]: row for row in scaling.projections({**RANK, "fullest": 1.0}, 10**8, network)}
    batches = 102_400 / 16  # 6,400: less than one for each of 16,384 ranks, yet each makes a step
    epoch = batches / 16_384 * 3.1 + 0.4 + 2 * 14 * 1e-3
    assert rows[2048]["strong exposed"] == pytest.approx(batches * 3.5 / 16_384 / epoch)
    assert rows[1]["strong exposed"] == pytest.approx(3.5 / (3.5 + 2 * 3 * 1e-3))
