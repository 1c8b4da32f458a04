"""The CSR prefix index against a set of tuples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_index import TupleIndex, semantic_ids

from sidar.index import PrefixIndex, pack_keys

SIZES = (5, 3, 70_000)  # the last level needs int32 codes
WIDE = (2**16,) * 5  # 85 bits: no packed key


def tables(sizes: tuple[int, ...], shortest: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
    code = st.tuples(*(st.sampled_from(sorted({0, 1, 2, size - 1})) for size in sizes))
    return st.lists(
        st.tuples(code, st.integers(shortest, len(sizes))).map(lambda t: t[0][: t[1]]), max_size=40
    )


def check_equal(index: PrefixIndex, twin: TupleIndex) -> None:
    """Every array of the index says what the set of tuples says."""
    assert len(index) == len(twin.sids)
    above: list[tuple[int, ...]] = [()]
    for depth in range(index.n_levels + 1):
        prefixes = [()] if depth == 0 else twin.prefixes(depth)
        assert index.n_prefixes[depth] == len(prefixes)
        numbers = [twin.sids.index(p) if p in twin.items else -1 for p in prefixes]
        assert index.sid_of[depth].tolist() == numbers
        assert index.terminal[depth].tolist() == [n >= 0 for n in numbers]
        if depth:
            start, codes = index.child_start[depth - 1], index.codes[depth - 1]
            assert len(start) == len(above) + 1
            for i, prefix in enumerate(above):
                assert codes[start[i] : start[i + 1]].tolist() == twin.children(prefix)
        above = prefixes
    for number, sid in enumerate(twin.sids):
        assert (
            index.rows[index.rows_start[number] : index.rows_start[number + 1]].tolist()
            == twin.items[sid]
        )
        assert tuple(c for c in index.table[number].tolist() if c >= 0) == sid
    assert index.fixed_length == all(len(sid) == index.n_levels for sid in twin.sids)


@pytest.mark.parametrize("sizes", [SIZES, WIDE])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_equals_a_set_of_tuples(sizes: tuple[int, ...], data: st.DataObject) -> None:
    shortest = data.draw(st.sampled_from([0, 1, len(sizes)]))
    tuples = data.draw(tables(sizes, shortest))
    prior = np.array(
        data.draw(
            st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=len(tuples), max_size=len(tuples))
        )
    )
    sids = semantic_ids(tuples, sizes)
    index, twin = PrefixIndex.build(sids, prior), TupleIndex(sids, prior)
    check_equal(index, twin)

    asked = tuples + data.draw(tables(sizes, 0))
    want = [twin.sids.index(t) if t in twin.items else -1 for t in asked]
    assert index.lookup(semantic_ids(asked, sizes).codes).tolist() == want

    k = data.draw(st.integers(1, 9))
    beams = np.array([want[i:] + [-1] * i for i in range(len(want))], np.int64).reshape(
        len(want), len(want)
    )
    rows, source = index.expand_with_source(beams, k)
    for beam, got, origin in zip(beams, rows, source, strict=True):
        assert got.tolist() == twin.expand([twin.sids[s] for s in beam if s >= 0], k)
        for row, place in zip(got, origin, strict=True):
            assert (row < 0) == (place < 0)
            assert place < 0 or sids.tuple_of(row) == twin.sids[beam[place]]


@given(tuples=tables((300, 20, 4), 1))
@settings(max_examples=40, deadline=None)
def test_keys_give_the_same_prefixes_as_codes(tuples: list[tuple[int, ...]]) -> None:
    sids = semantic_ids(tuples, (300, 20, 4))
    built, keyed = (
        PrefixIndex.build(sids),
        PrefixIndex.from_keys(pack_keys(sids.codes, (300, 20, 4)), (300, 20, 4)),
    )
    for d in range(3):
        np.testing.assert_array_equal(built.codes[d], keyed.codes[d])
        np.testing.assert_array_equal(built.child_start[d], keyed.child_start[d])
    assert built.fixed_length == keyed.fixed_length
    assert keyed.expand(np.arange(len(keyed)), 3).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("tuples", [[], [(), ()], [(1, 2, 3)], [(0,)], [(4, 2, 1)] * 9])
def test_small_catalogues(tuples: list[tuple[int, ...]], tmp_path: Path) -> None:
    sids = semantic_ids(tuples, (5, 3, 4))
    index = PrefixIndex.build(sids)
    check_equal(index, TupleIndex(sids))
    index.save(tmp_path)
    check_equal(PrefixIndex.load(tmp_path), TupleIndex(sids))
    assert index.lookup(np.array([[3, 0, 0]])).tolist() == [-1]
    assert index.expand(np.array([[-1, -1]]), 2).tolist() == [[-1, -1]]
    assert index.expand(np.zeros((2, 0), int), 2).tolist() == [[-1, -1], [-1, -1]]


def test_one_huge_sid_is_cut_at_k() -> None:
    sids = semantic_ids([(0, 0, 0)] * 1000 + [(1, 0, 0)], (5, 3, 4))
    index = PrefixIndex.build(sids, prior=np.arange(1001))
    assert index.expand(np.array([1, 0]), 4).tolist() == [1000, 999, 998, 997]


def test_dtypes_are_small() -> None:
    index = PrefixIndex.build(semantic_ids([(0, 0, 69_999), (4, 2, 0)], SIZES))
    assert [c.dtype for c in index.codes] == [np.uint16, np.uint16, np.int32]
    assert {s.dtype for s in index.child_start} == {np.dtype(np.int32)}


@pytest.mark.parametrize("shortest", [1, 3])
def test_saves_and_loads(shortest: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tuples = [tuple(rng.integers(0, 3, 3))[: rng.integers(shortest, 4)] for _ in range(50)]
    sids, prior = semantic_ids(tuples, SIZES), rng.random(50, dtype=np.float32)
    PrefixIndex.build(sids, prior).save(tmp_path)
    loaded = PrefixIndex.load(tmp_path)
    check_equal(loaded, TupleIndex(sids, prior))
    assert loaded.codebook_sizes == SIZES
    assert loaded.prior is not None
    np.testing.assert_array_equal(loaded.prior, prior)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    sids = semantic_ids([(0, 0, 0), (1, 1, 1)], SIZES)
    with pytest.raises(ValueError, match="prior of row 1"):
        PrefixIndex.build(sids, np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="does not fit the SID table of 2 rows"):
        PrefixIndex.build(sids, np.ones(3))
    with pytest.raises(ValueError, match="sidar index"):
        PrefixIndex.load(tmp_path)
    with pytest.raises(ValueError, match="need 85 bits"):
        pack_keys(np.zeros((1, 5), int), WIDE)
    with pytest.raises(ValueError, match="more levels"):
        PrefixIndex.build(sids).lookup(np.zeros((1, 4), int))
