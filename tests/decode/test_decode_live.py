"""Searches through a filtered trie: what survives, and that nothing else can come out."""

import numpy as np
import pytest
import reference_decode as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.decode import (
    TableScorer,
    Trie,
    beam_search,
    exact_search,
    invalid_mass,
    score_all,
    to_hits,
)
from sidar.index import LivePrefixes, PrefixIndex
from sidar.index.shares import ItemShares


@st.composite
def worlds(draw):
    """A random policy over random SIDs with one to three items each, and which rows each of three
    prompts may find (None = all): (scorer, index, allowed).
    """
    variable = draw(st.booleans())
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    scale = draw(st.sampled_from([0.0, 1.0, 5.0]))  # 0: every choice ties
    seed = draw(st.integers(0, 10**6))
    scorer = TableScorer.random(sizes, 3, variable_length=variable, scale=scale, seed=seed)
    sids = draw(st.lists(st.sampled_from(slow.all_sids(scorer)), min_size=1, max_size=40))
    counts = np.random.default_rng(seed).integers(0, 9, len(sids))
    index = PrefixIndex.build(slow.sid_table(sids, sizes), counts=counts)
    mask = st.lists(st.booleans(), min_size=len(sids), max_size=len(sids)).map(np.array)
    allowed = [draw(st.none() | mask) for _ in range(3)]
    return scorer, index, allowed


def views(scorer, index, allowed):
    trie = Trie(index)
    lives = [None if mask is None else LivePrefixes.of(index, mask) for mask in allowed]
    return trie.within([live and trie.live_masks(live) for live in lives]), lives


def allowed_sids(index, mask):
    """SID numbers with an allowed item, from the definition."""
    if mask is None:
        return set(range(index.n_sids))
    rows = [index.rows[a:b] for a, b in zip(index.rows_start, index.rows_start[1:], strict=False)]
    return {number for number, of_sid in enumerate(rows) if mask[of_sid].any()}


@settings(deadline=None, max_examples=40)
@given(worlds())
def test_a_prefix_survives_if_an_allowed_sid_begins_with_it(world):
    _, index, allowed = world
    for mask in allowed:
        if mask is None:
            continue
        live = LivePrefixes.of(index, mask)
        sids = [tuple(c for c in index.table[n].tolist() if c >= 0) for n in range(index.n_sids)]
        wanted = {sids[n] for n in allowed_sids(index, mask)}
        assert {sids[n] for n in np.flatnonzero(live.sids)} == wanted
        paths = [()]
        for depth in range(index.n_levels + 1):
            begun = {sid[:depth] for sid in wanted if len(sid) >= depth}
            assert {paths[p] for p in np.flatnonzero(live.masks[depth])} == begun
            assert live.counts[depth] == len(begun)
            if depth < index.n_levels:
                start, codes = index.child_start[depth], index.codes[depth]
                paths = [
                    (*path, int(code))
                    for p, path in enumerate(paths)
                    for code in codes[start[p] : start[p + 1]]
                ]


def assert_filtered(beams, scorer, index, allowed, n):
    for query, mask in enumerate(allowed):
        inside = allowed_sids(index, mask)
        want = [row for row in slow.ranking(scorer, query, index) if row[1] in inside][:n]
        got = beams.sids[query]
        assert got[got >= 0].tolist() == [number for _, number, _ in want]
        scores = [score for score, _, _ in want]
        np.testing.assert_allclose(beams.scores[query, : len(want)], scores, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(worlds(), st.integers(1, 3))
def test_a_beam_that_covers_the_survivors_equals_exhaustive_scoring(world, batch):
    scorer, index, allowed = world
    trie, lives = views(scorer, index, allowed)
    width = max([1, *(index.n_sids if live is None else live.widest for live in lives)])
    beams = beam_search(scorer, [[0], [1], [2]], trie, width, batch=batch)
    assert_filtered(beams, scorer, index, allowed, index.n_sids)


@settings(deadline=None, max_examples=40)
@given(worlds(), st.integers(1, 20), st.integers(1, 7))
def test_exact_search_and_the_sum_of_everything_keep_to_the_filters(world, k, rows):
    scorer, index, allowed = world
    trie, _ = views(scorer, index, allowed)
    prompts = [[0], [1], [2]]
    assert_filtered(exact_search(scorer, prompts, trie, k, rows=rows), scorer, index, allowed, k)
    scores = score_all(scorer, prompts, trie)
    for query, mask in enumerate(allowed):
        possible = set(torch.isfinite(scores[query]).nonzero().flatten().tolist())
        assert possible == allowed_sids(index, mask)
    mass = invalid_mass(scorer, prompts, trie, tolerance=0)
    np.testing.assert_allclose(mass, 1 - scores.exp().sum(1).numpy(), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(worlds(), st.integers(1, 50))
def test_a_narrow_beam_returns_as_many_sids_as_there_are(world, width):
    """Whatever it gives up, a kept prefix leads to an allowed item."""
    scorer, index, allowed = world
    trie, _ = views(scorer, index, allowed)
    beams = beam_search(scorer, [[0], [1], [2]], trie, width)
    for query, mask in enumerate(allowed):
        found = set(beams.sids[query][beams.sids[query] >= 0].tolist())
        inside = allowed_sids(index, mask)
        assert found <= inside
        assert len(found) == min(width, len(inside))


@settings(deadline=None, max_examples=40)
@given(worlds(), st.integers(1, 12))
def test_with_the_shares_as_bonus_exact_search_finds_the_best_items(world, k):
    scorer, index, allowed = world
    shares = ItemShares.of(index)
    trie, _ = views(scorer, index, allowed)
    bonuses = [shares.best_of_sids(index, mask) for mask in allowed]
    beams = exact_search(scorer, [[0], [1], [2]], trie, k, bonuses=bonuses)
    for query, mask in enumerate(allowed):
        one = type(beams)(**{n: v[query : query + 1] for n, v in vars(beams).items()})
        hits = to_hits(one, index, k, shares=shares, allowed=mask)
        every = []
        for score, number, _ in slow.ranking(scorer, query, index):
            for at in range(index.rows_start[number], index.rows_start[number + 1]):
                if mask is None or mask[index.rows[at]]:
                    every.append(score + float(shares.log_share[at]))
        best = sorted(every, reverse=True)[:k]
        found = hits.scores[0][hits.rows[0] >= 0]
        np.testing.assert_allclose(found, best, atol=1e-5)


def test_a_filter_for_another_catalogue_is_refused():
    index = PrefixIndex.build(slow.sid_table([(0,), (1,)], (2,)))
    with pytest.raises(ValueError, match="names row 1, the filter decides on 1 rows"):
        LivePrefixes.of(index, np.ones(1, bool))


def test_without_a_filter_the_view_is_the_trie():
    trie = Trie(PrefixIndex.build(slow.sid_table([(0,), (1,)], (2,))))
    assert trie.within([None, None]) is trie
    assert trie.of_prompts([0]) is trie
