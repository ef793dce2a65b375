"""Which ranks train which branches."""

from __future__ import annotations

import pytest

from gfmpot.training.mesh import BranchGroup, allocate_ranks


def sizes_of(groups: list[BranchGroup]) -> list[int]:
    return [len(group.ranks) for group in groups]


def test_one_rank_each_and_the_rest_by_size() -> None:
    groups = allocate_ranks([100, 10, 50], 16)
    assert [group.branches for group in groups] == [(0,), (1,), (2,)]
    assert sizes_of(groups) == [9, 2, 5]  # 13 ranks by 8.125, 0.8125, 4.0625: the largest remainder is rounded up
    assert [rank for group in groups for rank in group.ranks] == list(range(16))


def test_a_tiny_branch_still_has_a_rank() -> None:
    assert sizes_of(allocate_ranks([10**9, 1], 8)) == [7, 1]


def test_fewer_ranks_than_branches_are_packed_by_size() -> None:
    groups = allocate_ranks([100, 10, 50, 40, 5], 2)
    assert [group.branches for group in groups] == [(0, 4), (1, 2, 3)]
    assert sizes_of(groups) == [1, 1]


def test_as_many_ranks_as_branches() -> None:
    assert sizes_of(allocate_ranks([3, 1, 2], 3)) == [1, 1, 1]


@pytest.mark.parametrize(("sizes", "ranks"), [([], 2), ([3, 0], 2), ([3], 0)])
def test_nonsense_is_refused(sizes: list[int], ranks: int) -> None:
    with pytest.raises(ValueError, match="at least one rank and branches with structures"):
        allocate_ranks(sizes, ranks)
