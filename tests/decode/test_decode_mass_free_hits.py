"""Invalid mass against the whole code product, free beams and what is wrong with them, and SIDs
turned into items.
"""

import math
from typing import ClassVar

import numpy as np
import pytest
import reference_decode as slow
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode_search import SIZES, index_of, worlds

from sidar.decode import (
    KINDS,
    TableScorer,
    beam_search,
    free_beam_search,
    invalid_mass,
    kind_shares,
    to_hits,
    uniform_invalid_mass,
)
from sidar.index import PrefixIndex
from sidar.index.shares import ItemShares


@settings(deadline=None, max_examples=100)
@given(worlds(), st.integers(1, 7))
def test_invalid_mass_is_the_probability_of_everything_that_is_no_product(world, rows):
    scorer, index = world
    live = {tuple(c for c in row if c >= 0) for row in index.table.tolist()}
    masses = invalid_mass(scorer, [[0], [2]], index, rows=rows)
    for query, prompt in enumerate((0, 2)):
        scores = {codes: slow.sid_logp(scorer, prompt, codes)[0] for codes in slow.all_sids(scorer)}
        # π is a distribution
        assert math.fsum(map(math.exp, scores.values())) == pytest.approx(1.0, abs=1e-5)
        invalid = math.fsum(math.exp(score) for codes, score in scores.items() if codes not in live)
        assert masses[query] == pytest.approx(invalid, abs=1e-5)
        assert masses[query] >= 0
    every, most = (
        invalid_mass(scorer, [[0], [2]], index, rows=rows, tolerance=t) for t in (0.0, 0.1)
    )
    assert (masses - every <= 1e-6 + 1e-12).all()
    # never more than what was allowed
    assert ((most >= every - 1e-12) & (most <= every + 0.1 + 1e-12)).all()


@settings(deadline=None, max_examples=50)
@given(worlds())
def test_the_uniform_models_invalid_mass(world):
    scorer, index = world
    uniform = TableScorer.random(
        scorer.codebook_sizes, variable_length=scorer.variable_length, scale=0.0
    )
    assert uniform_invalid_mass(uniform, index) == pytest.approx(
        invalid_mass(uniform, [[0]], index)[0], abs=1e-6
    )
    possible = len(
        slow.all_sids(
            TableScorer.random(scorer.codebook_sizes, variable_length=not index.fixed_length)
        )
    )
    assert index.density == pytest.approx(index.n_sids / possible)


@settings(deadline=None, max_examples=100)
@given(worlds(), st.integers(1, 300), st.integers(1, 2))
def test_free_beams_are_what_the_model_would_write(world, width, batch):
    scorer, index = world
    everything = PrefixIndex.build(slow.sid_table(slow.all_sids(scorer), scorer.codebook_sizes))
    live = {
        tuple(c for c in row if c >= 0): number for number, row in enumerate(index.table.tolist())
    }
    free = free_beam_search(scorer, [[0], [1]], index, width, batch=batch)
    # an index of everything binds nothing
    bound = beam_search(scorer, [[0], [1]], everything, width)
    if scorer.tables[0].std() > 0.1:  # nothing ties
        np.testing.assert_allclose(free.scores, bound.scores, atol=1e-6)
    for query, place in np.ndindex(free.kind.shape):
        written = tuple(c for c in free.codes[query, place].tolist() if c >= 0)
        assert free.lengths[query, place] == len(written)
        assert free.sids[query, place] == live.get(written, -1)
        assert KINDS[free.kind[query, place]] == ("valid" if written in live else "no such product")
    np.testing.assert_array_equal(free.valid, free.sids >= 0)
    np.testing.assert_allclose(free.invalid_rate(10), (free.sids[:, :10] < 0).mean(1))
    shares = kind_shares(free, 10)
    assert shares["not a code of this level"] == 0
    assert sum(shares.values()) == pytest.approx(1.0)


def shop():
    """Rows 0–5 under three SIDs: (0,0,0) holds 4, 0, 2 by prior, (1,2,1) holds 1 and 5, (3,3,2)
    holds 3.
    """
    tuples = [(0, 0, 0), (1, 2, 1), (0, 0, 0), (3, 3, 2), (0, 0, 0), (1, 2, 1)]
    prior = np.array([2.0, 1.0, 1.0, 0.0, 3.0, 1.0])
    return PrefixIndex.build(slow.sid_table(tuples, SIZES), prior)


def test_hits_expand_sids_in_beam_order_and_inside_by_the_prior():
    index, scorer = shop(), TableScorer.random(SIZES, 2, seed=3)
    beams = beam_search(scorer, [[0], [1]], index, 8)
    inside = {0: [4, 0, 2], 1: [1, 5], 2: [3]}
    for k in (1, 4, 6, 9):
        hits = to_hits(beams, index, k)
        assert hits.rows.shape == hits.scores.shape == (2, k)
        for query in range(2):
            want = [
                (row, place) for place, sid in enumerate(beams.sids[query]) for row in inside[sid]
            ][:k]
            assert hits.rows[query].tolist() == [row for row, _ in want] + [-1] * (k - len(want))
            for at, (_, place) in enumerate(want):
                assert hits.scores[query, at] == np.float32(beams.scores[query, place])
                assert hits.sids[query, at].tolist() == beams.codes[query, place].tolist()
                np.testing.assert_array_equal(
                    hits.level_logp[query, at], beams.level_logp[query, place, :3]
                )
            assert (hits.scores[query, len(want) :] == -np.inf).all()


def test_hits_of_allowed_rows_fill_up_behind_the_forbidden():
    index, scorer = shop(), TableScorer.random(SIZES, 2, seed=3)
    beams = beam_search(scorer, [[0], [1]], index, 8)
    every = to_hits(beams, index, 6).rows
    allowed = np.array([False, True, True, True, True, False])
    for mask in (allowed, np.stack([allowed, ~allowed])):
        got = to_hits(beams, index, 3, allowed=mask).rows
        for query in range(2):
            keep = mask if mask.ndim == 1 else mask[query]
            want = [row for row in every[query] if keep[row]][:3]
            assert got[query].tolist() == want + [-1] * (3 - len(want))
    np.testing.assert_array_equal(
        to_hits(beams, index, 4, allowed=np.ones(6, bool)).rows, every[:, :4]
    )


@pytest.mark.parametrize("k", [1, 3, 6, 9])
@pytest.mark.parametrize("retired", [(), (4,), (0, 4, 3)])
def test_items_score_the_probability_of_their_sid_times_their_share(k, retired):
    tuples = [(0, 0, 0), (1, 2, 1), (0, 0, 0), (3, 3, 2), (0, 0, 0), (1, 2, 1)]
    index = PrefixIndex.build(slow.sid_table(tuples, SIZES), counts=np.array([3, 1, 0, 2, 8, 1.0]))
    beams = beam_search(TableScorer.random(SIZES, 2, seed=3), [[0], [1]], index, 8)
    alive = ~np.isin(np.arange(6), retired)
    shares = ItemShares.of(index, alive)
    hits = to_hits(beams, index, k, shares=shares)
    for query in range(2):
        want = []
        for place, sid in enumerate(beams.sids[query]):
            for at in range(index.rows_start[sid], index.rows_start[sid + 1]):
                if alive[index.rows[at]]:
                    want.append(
                        (
                            beams.scores[query, place] + shares.log_share[at],
                            place,
                            at,
                            index.rows[at],
                        )
                    )
        want = sorted(want, key=lambda one: (-one[0], one[1], one[2]))[:k]
        assert hits.rows[query].tolist() == [row for *_, row in want] + [-1] * (k - len(want))
        np.testing.assert_allclose(
            hits.scores[query, : len(want)], [one[0] for one in want], rtol=1e-6
        )
        assert [tuple(c) for c in hits.sids[query, : len(want)].tolist()] == [
            tuples[row] for *_, row in want
        ]


def test_shares_let_a_likely_item_of_a_later_sid_pass_unlikely_ones():
    index = PrefixIndex.build(
        slow.sid_table([(0, 0, 0), (0, 0, 0), (1, 0, 0)], SIZES), counts=np.array([99, 0, 5.0])
    )
    beams = beam_search(TableScorer.random(SIZES, 1, seed=0), [[0]], index, 2)
    order = to_hits(beams, index, 3, shares=ItemShares.of(index)).rows[0].tolist()
    listed = to_hits(beams, index, 3).rows[0].tolist()
    assert order.index(2) < order.index(1)
    assert listed in ([0, 1, 2], [2, 0, 1])


def test_one_item_and_no_query():
    index = index_of((4, 0, 2))
    hits = to_hits(beam_search(TableScorer.random(SIZES), [[0]], index), index, 10)
    assert hits.rows[0].tolist() == [0] + [-1] * 9
    none = to_hits(beam_search(TableScorer.random(SIZES), [], index), index, 10)
    assert none.rows.shape == (0, 10)
    assert none.sids.shape == (0, 10, 3)


def test_prompts_with_fewer_outputs_are_padded_beside_the_others():
    """Searched apart, prompts may fill different numbers of places; the rest says
    that it is none.
    """
    tables = TableScorer.random((3, 2), 2).tables
    tables[0][0, 0, 1:] = -math.inf  # two outputs are left to the first prompt, six to the other
    scorer = TableScorer(tables, (3, 2))
    index = PrefixIndex.build(slow.sid_table([(0, 0), (2, 1)], (3, 2)))
    beams = free_beam_search(scorer, [[0], [1]], index, 6, batch=1)
    assert beams.kind.shape == (2, 6)
    assert (beams.kind[0] >= 0).tolist() == [True, True] + [False] * 4
    assert (beams.kind[1] >= 0).all()
    assert np.isneginf(beams.scores[0, 2:]).all()
    assert beams.lengths[0].tolist() == [2, 2, 0, 0, 0, 0]


def test_a_free_search_ends_when_every_output_has_ended():
    class Counting(TableScorer):
        asked: ClassVar[list[int]] = []

        def free_extend(self, state, parents, columns, depth):
            self.asked.append(depth)
            return super().free_extend(state, parents, columns, depth)

    tables = TableScorer.random((3, 2, 2, 2), variable_length=True, scale=0.0).tables
    tables[1][:, :, :-1] = -math.inf  # after one code nothing but EOS
    scorer = Counting(tables, (3, 2, 2, 2), variable_length=True)
    index = PrefixIndex.build(slow.sid_table([(0,), (2,)], (3, 2, 2, 2)))
    beams = free_beam_search(scorer, [[0]], index, 3)
    assert sorted(beams.sids[0]) == [-1, 0, 1]
    assert beams.lengths.tolist() == [[1, 1, 1]]
    assert scorer.asked == [1]
