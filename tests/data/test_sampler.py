"""Which structures make a batch: balance, no repetition, the same for everybody, from any position on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from gfmpot.data.sampler import BatchConfig, Sampler, SamplingConfig, permuted

SIZES, SHARES = [1000, 30, 200], [1.0, 1.0, 2.0]


def sampler(seed: int = 0, **balance: object) -> Sampler:
    return Sampler(SIZES, SamplingConfig(**balance).draws(SIZES, SHARES), seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_permutations(size: int) -> None:
    everything = permuted(np.arange(size), size, (1, 2))
    assert sorted(everything.tolist()) == list(range(size))
    some = np.arange(0, size, 3)
    assert np.array_equal(permuted(some, size, (1, 2)), everything[::3])
    if size > 20:
        assert not np.array_equal(everything, permuted(np.arange(size), size, (1, 3)))
        assert abs(np.corrcoef(everything, np.arange(size))[0, 1]) < 0.3


def test_natural_epoch_has_every_structure_once() -> None:
    stream = sampler()
    drawn = stream.at(np.arange(stream.epoch_length))
    assert stream.epoch_length == sum(SIZES)
    for branch, size in enumerate(SIZES):
        assert sorted(drawn.index[drawn.branch == branch].tolist()) == list(range(size))
    # branches are mixed, not one after the other
    assert len(set(drawn.branch[:100].tolist())) == 3
    following = stream.at(np.arange(stream.epoch_length, 2 * stream.epoch_length))
    assert not np.array_equal(drawn.index, following.index)


def test_oversampling_repeats_small_branches_evenly() -> None:
    stream = sampler(balance="oversample", target=300)
    assert stream.draws.tolist() == [1000, 300, 300]
    drawn = stream.at(np.arange(stream.epoch_length))
    assert np.bincount(drawn.index[drawn.branch == 1]).tolist() == [10] * 30
    assert set(np.bincount(drawn.index[drawn.branch == 2]).tolist()) == {1, 2}


def test_temperature_and_shares_keep_the_epoch() -> None:
    root = np.sqrt(SIZES)
    expected = 1230 * root / root.sum()
    assert sampler(balance="temperature", temperature=2.0).draws.tolist() == np.rint(expected).tolist()
    assert sampler(balance="shares").draws.tolist() == [308, 308, 615]
    assert sampler(fraction=0.1).draws.tolist() == [100, 3, 20]


def test_a_fraction_visits_everything_over_several_epochs() -> None:
    stream = sampler(fraction=0.1)
    drawn = stream.at(np.arange(10 * stream.epoch_length))
    for branch, size in enumerate(SIZES):
        assert sorted(drawn.index[drawn.branch == branch].tolist()) == list(range(size))


def test_ranks_share_a_step_without_overlap_and_agree_with_one_rank() -> None:
    stream = sampler()
    batch = BatchConfig(structures=8)
    four = stream.plan(0, 4, batch, [])
    assert four.tolist() == [0, 8, 16, 24, 32]
    assert stream.plan(0, 1, BatchConfig(structures=32), []).tolist() == [0, 32]


def test_batches_end_before_they_have_too_many_atoms() -> None:
    rng = np.random.default_rng(0)
    atoms = [rng.integers(1, 60, size) for size in SIZES]
    stream, batch = sampler(), BatchConfig(structures=16, max_atoms=200)
    position = 0
    for _ in range(20):
        bounds = stream.plan(position, 3, batch, atoms)
        assert bounds[0] == position
        for start, stop in pairwise(bounds):
            drawn = stream.at(np.arange(start, stop))
            sizes = [atoms[b][i] for b, i in zip(drawn.branch, drawn.index, strict=True)]
            assert 1 <= len(sizes) <= 16
            assert sum(sizes) <= 200
            after = stream.at(np.array([stop]))
            assert len(sizes) == 16 or sum(sizes) + atoms[after.branch[0]][after.index[0]] > 200
        position = int(bounds[-1])


def test_one_structure_larger_than_the_budget_goes_alone() -> None:
    atoms = [np.full(size, 500) for size in SIZES]
    assert sampler().plan(7, 2, BatchConfig(max_atoms=100), atoms).tolist() == [7, 8, 9]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="fraction must be above 0"):
        SamplingConfig(fraction=0.0)
    with pytest.raises(ValueError, match="temperature must be at least 1"):
        SamplingConfig(temperature=0.5)
    with pytest.raises(ValueError, match="max_atoms must be at least 1"):
        BatchConfig(max_atoms=0)
