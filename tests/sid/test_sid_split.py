"""Splitting of large SIDs: sizes, new codes, and a group for whoever comes later."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.sid.codebooks.split import BucketSplit, projection
from sidar.types import SemanticIds


def counts(codes: np.ndarray) -> np.ndarray:
    return np.unique(codes, axis=0, return_counts=True)[1]


def test_a_split_by_hand() -> None:
    codes = np.array([[0, 1]] * 5 + [[1, 1]] * 3 + [[1, 0]] * 2)
    projected = np.array([5, 1, 4, 2, 3, 9, 8, 7, 0, 0], np.float32)
    split = BucketSplit.fit(codes, projected, (2, 2), most=2, groups=100)
    # five items: 3 groups of 2, 2, 1 in the order of the projection; three items: 2 and 1; two
    # items: whole
    out = split.apply(codes, projected, whole=True)
    # code 1 has groups 1 and 2; both buckets use the same new codes
    assert split.pairs.tolist() == [[1, 1], [1, 2]]
    assert split.size == 4
    assert out[:, 0].tolist() == codes[:, 0].tolist()
    assert out[:5, 1].tolist() == [3, 1, 2, 1, 2]
    assert out[5:8, 1].tolist() == [2, 1, 1]
    assert out[8:, 1].tolist() == [0, 0]
    np.testing.assert_array_equal(split.base(out), codes)
    SemanticIds(out, np.full(10, 2, np.int32), (2, split.size))  # a valid table
    later = split.apply(np.array([[0, 1]] * 4), np.array([-9.0, 2.4, 4.4, 99.0], np.float32))
    assert later[:, 1].tolist() == [1, 1, 2, 3]  # newcomers fall between the same cuts
    # was never split
    assert split.apply(np.array([[1, 0]] * 9), np.zeros(9, np.float32))[:, 1].tolist() == [0] * 9


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.integers(1, 12),
    st.integers(2, 6),
    st.booleans(),
    st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_no_group_is_larger_than_it_may_be(
    buckets: list[int], most: int, groups: int, ties: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = np.repeat([[i // 2, i % 2] for i in range(len(buckets))], buckets, axis=0)
    codes = codes[rng.permutation(len(codes))]
    projected = (rng.integers(0, 4, len(codes)) if ties else rng.permutation(len(codes))).astype(
        np.float32
    )
    split = BucketSplit.fit(codes, projected, (3, 2), most, groups)
    out = split.apply(codes, projected, whole=True)
    np.testing.assert_array_equal(split.base(out), codes)
    assert out[:, 1].max() < split.size
    for bucket, size in zip(*np.unique(codes, axis=0, return_counts=True), strict=True):
        own = counts(out[(codes == bucket).all(1)])
        parts = min(-(-size // most), groups) if size > most else 1
        assert own.max() <= -(-size // parts)  # ≤ most, unless the cap on groups forbids it
        if size <= most * groups:
            assert own.max() <= most
    if not ties:
        # one by one as all at once
        np.testing.assert_array_equal(split.apply(codes, projected), out)
        shuffled = rng.permutation(len(codes))
        np.testing.assert_array_equal(
            split.apply(codes[shuffled], projected[shuffled], whole=True), out[shuffled]
        )


def test_identical_items_are_spread_over_groups_in_the_order_of_rows() -> None:
    codes, same = np.zeros((7, 1), int), np.ones(7, np.float32)
    split = BucketSplit.fit(codes, same, (1,), most=3, groups=100)
    out = split.apply(codes, same, whole=True)[:, 0]
    assert out.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert split.apply(codes[:1], same[:1])[0, 0] == 2  # alone: the upper group


def test_the_cap_on_groups_leaves_larger_ones() -> None:
    codes = np.zeros((1000, 2), int)
    projected = np.random.default_rng(0).random(1000).astype(np.float32)
    split = BucketSplit.fit(codes, projected, (1, 1), most=50, groups=10)
    assert counts(split.apply(codes, projected, whole=True)).tolist() == [100] * 10
    never = BucketSplit.fit(codes, projected, (1, 1), most=None, groups=10)
    assert never.size == 1
    np.testing.assert_array_equal(never.apply(codes, projected, whole=True), codes)


def test_the_projection_is_the_items_own() -> None:
    x = np.random.default_rng(0).standard_normal((9000, 6)).astype(np.float32)
    whole = projection(x, 1)
    assert projection(x[8990:], 1).tolist() == whole[8990:].tolist()
    assert projection(np.repeat(x[:1], 50, axis=0), 1).tolist() == [whole[0]] * 50
    assert projection(x, 2).tolist() != whole.tolist()
    assert projection(x[:0], 1).shape == (0,)


def test_most_and_groups_are_those_of_the_paper() -> None:
    codes = np.zeros((120, 1), int)
    projected = np.arange(120, dtype=np.float32)
    assert counts(
        BucketSplit.fit(codes, projected, (1,), 50, 100).apply(codes, projected)
    ).tolist() == [40, 40, 40]
    with pytest.raises(ValueError, match="leave codebooks"):
        SemanticIds(np.array([[3]], np.int32), np.ones(1, np.int32), (3,))
