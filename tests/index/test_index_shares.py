import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidar.index import PrefixIndex
from sidar.index.shares import ItemShares
from sidar.types import SemanticIds

# rows 0, 1, 2 share one SID; row 3 has its own; row 4 has none
TABLE = SemanticIds(
    np.array([[0, 0], [0, 0], [0, 0], [1, 0], [-1, -1]], np.int32),
    np.array([2, 2, 2, 2, 0], np.int32),
    (2, 1),
)
COUNTS = np.array([1, 6, 0, 4, 9], np.float32)


def by_row(index: PrefixIndex, shares: ItemShares) -> dict[int, float]:
    return dict(zip(index.rows.tolist(), np.exp(shares.log_share).tolist(), strict=True))


def test_counts_with_a_pseudo_count_by_hand():
    index = PrefixIndex.build(TABLE, counts=COUNTS)
    assert index.rows.tolist() == [1, 0, 2, 3]  # most interactions first
    found = by_row(index, ItemShares.of(index, pseudo=1.0))
    assert found == pytest.approx({0: 2 / 10, 1: 7 / 10, 2: 1 / 10, 3: 1.0})


def test_temperature_flattens_and_equal_shares_ignore_counts():
    index = PrefixIndex.build(TABLE, counts=COUNTS)
    root = np.sqrt([2, 7, 1])
    warm = by_row(index, ItemShares.of(index, temperature=2.0))
    assert [warm[row] for row in (0, 1, 2)] == pytest.approx((root / root.sum()).tolist())
    even = by_row(index, ItemShares.of(index, rule="uniform"))
    assert even == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3, 3: 1.0})


def test_retired_items_leave_their_share_to_the_others():
    index = PrefixIndex.build(TABLE, counts=COUNTS)
    alive = np.array([True, False, True, False, True])
    found = by_row(index, ItemShares.of(index, alive))
    assert found == pytest.approx({0: 2 / 3, 1: 0.0, 2: 1 / 3, 3: 0.0})


def test_an_index_of_an_older_version_shares_by_its_prior():
    old = PrefixIndex.build(TABLE, np.log1p(COUNTS))
    assert old.counts is None
    assert by_row(old, ItemShares.of(old)) == pytest.approx({0: 0.2, 1: 0.7, 2: 0.1, 3: 1.0})
    bare = PrefixIndex.build(TABLE)
    assert by_row(bare, ItemShares.of(bare)) == pytest.approx(
        {0: 1 / 3, 1: 1 / 3, 2: 1 / 3, 3: 1.0}
    )


def test_counts_survive_the_file(tmp_path):
    index = PrefixIndex.build(TABLE, np.zeros(5), COUNTS)
    index.save(tmp_path)
    again = PrefixIndex.load(tmp_path)
    np.testing.assert_array_equal(again.counts, COUNTS)
    np.testing.assert_array_equal(again.rows, index.rows)


@pytest.mark.parametrize("wrong", [{"pseudo": 0.0}, {"temperature": -1.0}])
def test_what_makes_no_share_is_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        ItemShares.of(PrefixIndex.build(TABLE), **wrong)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 50), st.booleans()),
        min_size=1,
    ),
    st.floats(0.01, 10),
    st.floats(0.2, 5),
)
def test_live_shares_of_an_sid_sum_to_one_and_fall_inside_it(items, pseudo, temperature):
    codes = np.array([item[:2] for item in items], np.int32)
    counts = np.array([item[2] for item in items], np.float32)
    alive = np.array([item[3] for item in items])
    index = PrefixIndex.build(
        SemanticIds(codes, np.full(len(codes), 2, np.int32), (3, 3)), counts=counts
    )
    shares = ItemShares.of(index, alive, pseudo=pseudo, temperature=temperature)
    for start, end in zip(index.rows_start[:-1], index.rows_start[1:], strict=True):
        inside = np.exp(shares.log_share[start:end].astype(np.float64))
        live = alive[index.rows[start:end]]
        assert inside[live].sum() == pytest.approx(float(live.any()), abs=1e-5)
        assert (np.diff(inside[live]) <= 1e-6).all()
        assert not inside[~live].any()
