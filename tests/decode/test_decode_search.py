"""Beam, exact and exhaustive search over tables: what comes out, with which scores,
in which order.
"""

import numpy as np
import pytest
import reference_decode as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidar.decode import TableScorer, Trie, beam_search, exact_search, score_all
from sidar.index import PrefixIndex

SIZES = (5, 4, 3)


@st.composite
def worlds(draw):
    """A random policy over random SIDs: (scorer with 3 prompts, index)."""
    variable = draw(st.booleans())
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    scale = draw(st.sampled_from([0.0, 1.0, 5.0]))  # 0: every choice ties
    scorer = TableScorer.random(
        sizes, 3, variable_length=variable, scale=scale, seed=draw(st.integers(0, 10**6))
    )
    sids = draw(st.lists(st.sampled_from(slow.all_sids(scorer)), min_size=1, max_size=40))
    return scorer, PrefixIndex.build(slow.sid_table(sids, sizes))


def assert_ranked(beams, scorer, prompts, index, n):
    for query, prompt in enumerate(prompts):
        want = slow.ranking(scorer, prompt, index)[:n]
        assert beams.sids[query].tolist() == [number for _, number, _ in want]
        np.testing.assert_allclose(beams.scores[query], [score for score, _, _ in want], atol=1e-6)
        for place, (_, number, steps) in enumerate(want):
            assert beams.codes[query, place].tolist() == index.table[number].tolist()
            assert beams.lengths[query, place] == (index.table[number] >= 0).sum()
            np.testing.assert_array_equal(
                beams.level_logp[query, place, : len(steps)], np.float32(steps)
            )
            assert not beams.level_logp[query, place, len(steps) :].any()


@settings(deadline=None, max_examples=150)
@given(worlds(), st.integers(1, 3))
def test_a_beam_that_covers_the_index_equals_exhaustive_scoring(world, batch):
    scorer, index = world
    beams = beam_search(scorer, [[0], [1], [2]], index, index.n_sids, batch=batch)
    assert_ranked(beams, scorer, [0, 1, 2], index, index.n_sids)


@settings(deadline=None, max_examples=60)
@given(worlds(), st.lists(st.integers(1, 12), min_size=3, max_size=3), st.integers(1, 3))
def test_beams_of_several_widths_find_together_what_each_finds_alone(world, widths, batch):
    """Ties of whole levels included (scale 0)."""
    scorer, index = world
    prompts = [[0], [1], [2]]
    together = beam_search(scorer, prompts, index, widths, batch=batch)
    exact = exact_search(scorer, prompts, index, widths)
    for query, width in enumerate(widths):
        for joined, search in ((together, beam_search), (exact, exact_search)):
            alone = search(scorer, [prompts[query]], index, width)
            n = alone.sids.shape[1]
            for name in ("sids", "codes", "lengths", "scores", "level_logp"):
                ours = getattr(joined, name)[query]
                np.testing.assert_array_equal(ours[:n], getattr(alone, name)[0])
            assert (joined.sids[query, n:] == -1).all()
    for wrong, words in (([3, 3], "2 beams for 3 prompts"), ([3, 0, 3], "beam is 0")):
        with pytest.raises(ValueError, match=words):
            beam_search(scorer, prompts, index, wrong)


@settings(deadline=None, max_examples=150)
@given(worlds(), st.integers(1, 50), st.integers(1, 7))
def test_exact_search_equals_exhaustive_scoring(world, k, rows):
    scorer, index = world
    assert_ranked(exact_search(scorer, [[2], [0]], index, k, rows=rows), scorer, [2, 0], index, k)


@settings(deadline=None, max_examples=50)
@given(worlds(), st.integers(1, 7))
def test_score_all_scores_every_sid(world, rows):
    scorer, index = world
    scores = score_all(scorer, [[0], [2]], index, rows=rows)
    for query, prompt in enumerate((0, 2)):
        for score, number, _ in slow.ranking(scorer, prompt, index):
            assert float(scores[query, number]) == pytest.approx(score, abs=1e-6)


@settings(deadline=None, max_examples=150)
@given(worlds(), st.integers(1, 6))
def test_a_narrow_beam_returns_that_many_sids_with_exact_scores(world, width):
    scorer, index = world
    beams = beam_search(scorer, [[0], [1]], index, width)
    assert beams.sids.shape == (2, min(width, index.n_sids))
    for query in range(2):
        exact = {number: score for score, number, _ in slow.ranking(scorer, query, index)}
        assert len(set(beams.sids[query])) == len(beams.sids[query])
        for number, score in zip(beams.sids[query], beams.scores[query], strict=True):
            assert score == pytest.approx(exact[number], abs=1e-6)
        order = list(zip(-beams.scores[query], beams.sids[query], strict=True))
        assert order == sorted(order)
        want = slow.beam(scorer, query, index, width)  # where nothing ties, the very same beams
        if len({score for score, _, _ in want}) == len(want) and scorer.tables[0].std() > 0.1:
            np.testing.assert_allclose(
                beams.scores[query], [score for score, _, _ in want], atol=1e-6
            )


@settings(deadline=None, max_examples=50)
@given(worlds(), st.integers(1, 6))
def test_a_batch_equals_one_at_a_time(world, width):
    scorer, index = world
    together = beam_search(scorer, [[0], [1], [2]], index, width, batch=3)
    for query in range(3):
        alone = beam_search(scorer, [[query]], index, width)
        for field in ("sids", "codes", "lengths", "scores", "level_logp"):
            np.testing.assert_array_equal(getattr(together, field)[query], getattr(alone, field)[0])


def index_of(*tuples, sizes=SIZES):
    return PrefixIndex.build(slow.sid_table(tuples, sizes))


def test_ties_go_to_the_lower_sid_number_whatever_the_width():
    index = PrefixIndex.build(slow.sid_table(slow.all_sids(TableScorer.random(SIZES)), SIZES))
    uniform = TableScorer.random(SIZES, scale=0.0)
    for width in (1, 2, 7, 30, 60):
        assert beam_search(uniform, [[0]], index, width).sids[0].tolist() == list(range(width))


def test_a_short_sid_competes_with_longer_ones_by_its_whole_probability():
    index = index_of((1,), (1, 0), (1, 0, 2), (2, 3))
    tables = TableScorer.random(SIZES, variable_length=True, scale=0.0).tables
    tables[1][0, 1, -1] = 5.0  # after code 1 the model would rather end
    scorer = TableScorer(tables, SIZES, variable_length=True)
    beams = beam_search(scorer, [[0]], index, 2)
    assert beams.codes[0, 0].tolist() == [1, -1, -1]
    assert beams.level_logp[0, 0, 1] == pytest.approx(float(scorer.tables[1][0, 1, -1]))
    assert beams.scores[0, 0] == pytest.approx(
        float(scorer.tables[0][0, 0, 1] + scorer.tables[1][0, 1, -1])
    )


def test_one_item_and_one_sid_for_all_items():
    scorer = TableScorer.random(SIZES)
    for index in (index_of((4, 0, 2)), index_of(*[(4, 0, 2)] * 9)):
        beams = beam_search(scorer, [[0]], index, 128, k=500)
        assert beams.sids.tolist() == [[0]]
        assert beams.codes.tolist() == [[[4, 0, 2]]]


def test_the_beam_is_raised_to_k():
    scorer = TableScorer.random(SIZES)
    index = index_of(*slow.all_sids(scorer))
    assert beam_search(scorer, [[0]], index, 2, k=30).sids.shape == (1, 30)


def test_no_queries_give_no_beams():
    index = index_of((4, 0, 2))
    assert beam_search(TableScorer.random(SIZES), [], index).sids.shape == (0, 0)
    assert exact_search(TableScorer.random(SIZES), [], index, 5).codes.shape == (0, 0, 3)


def test_an_sid_that_the_model_rules_out_is_not_returned():
    tables = TableScorer.random(SIZES).tables
    tables[0][0, 0, 3] = -torch.inf
    scorer = TableScorer(tables, SIZES)
    index = index_of((3, 0, 0), (3, 1, 1), (2, 0, 0))
    assert beam_search(scorer, [[0]], index, 5).sids.tolist() == [[0]]
    assert exact_search(scorer, [[0]], index, 5).sids.tolist() == [[0]]


def test_errors_name_what_to_do():
    scorer = TableScorer.random(SIZES)
    with pytest.raises(ValueError, match="holds no SID"):
        beam_search(scorer, [[0]], PrefixIndex.build(slow.sid_table([()], SIZES)))
    with pytest.raises(ValueError, match=r"codebooks \(5, 4, 3\), the index holds \(5, 4, 9\)"):
        beam_search(scorer, [[0]], index_of((0, 0, 0), sizes=(5, 4, 9)))
    with pytest.raises(ValueError, match="different lengths"):
        beam_search(scorer, [[0]], index_of((0, 0), (0, 0, 1)))
    with pytest.raises(ValueError, match="beam is 0"):
        beam_search(scorer, [[0]], index_of((0, 0, 0)), 0)
    with pytest.raises(ValueError, match="k is 0"):
        exact_search(scorer, [[0]], index_of((0, 0, 0)), 0)
    broken = TableScorer([table + torch.nan for table in scorer.tables], SIZES)
    with pytest.raises(ValueError, match="NaN"):
        beam_search(broken, [[0]], index_of((0, 0, 0)))
    with pytest.raises(ValueError, match="want one per level"):
        TableScorer(scorer.tables[:2], SIZES)
    with pytest.raises(ValueError, match="depth 1 has shape"):
        TableScorer([scorer.tables[0], scorer.tables[0], scorer.tables[2]], SIZES)


def test_a_trie_is_taken_wherever_an_index_is():
    scorer = TableScorer.random(SIZES)
    index = index_of(*slow.all_sids(scorer)[::3])
    np.testing.assert_array_equal(
        beam_search(scorer, [[0]], Trie(index), 4).sids, beam_search(scorer, [[0]], index, 4).sids
    )


def test_what_one_prompt_rules_out_leaves_empty_places_beside_a_prompt_that_fills_them():
    """Empty places hold −1, length 0 and no step, and nothing goes on from them."""
    tables = TableScorer.random(SIZES, 2).tables
    tables[0][0, 0, 3] = -torch.inf
    scorer = TableScorer(tables, SIZES)
    index = index_of((2, 0, 0), (3, 0, 0), (3, 0, 1), (3, 1, 1))
    beams = beam_search(scorer, [[0], [1]], index, 4)
    assert beams.sids[0].tolist() == [0, -1, -1, -1]
    assert sorted(beams.sids[1]) == [0, 1, 2, 3]
    assert beams.lengths[0].tolist() == [3, 0, 0, 0]
    assert beams.codes[0, 1:].tolist() == [[-1, -1, -1]] * 3
    assert np.isneginf(beams.scores[0, 1:]).all()
    assert not beams.level_logp[0, 1:].any()
