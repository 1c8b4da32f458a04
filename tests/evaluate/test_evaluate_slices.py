import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.evaluate.slices import first_occurrences, query_cluster, subset_by_hash


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(-1, 6), min_size=9, max_size=9), min_size=1, max_size=4),
    st.integers(1, 12),
)
def test_first_occurrences_equal_a_loop(rows, width):
    out = first_occurrences(np.array(rows), width)
    for row, got in zip(rows, out.tolist(), strict=True):
        want = list(dict.fromkeys(n for n in row if n >= 0))[:width]
        assert got == want + [-1] * (width - len(want))


def test_subsets_do_not_depend_on_order():
    ids = [f"q{i}" for i in range(30)]
    chosen = {ids[i] for i in subset_by_hash(ids, 7)}
    assert {ids[::-1][i] for i in subset_by_hash(ids[::-1], 7)} == chosen
    assert subset_by_hash(ids, None).tolist() == list(range(30))


def test_queries_cluster_by_text():
    assert query_cluster(" Tea  Towels\n") == query_cluster("tea towels")
