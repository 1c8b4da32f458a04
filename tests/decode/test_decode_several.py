"""Several SIDs in one answer against all ordered choices of different SIDs."""

import numpy as np
import pytest
import reference_decode as twin
import torch

from sidar.decode import TableScorer, several_search
from sidar.index import PrefixIndex

SIZES = (3, 2)
FIXED = [(0, 0), (0, 1), (1, 1), (2, 0), (2, 1)]
LENGTHS = [(0,), (0, 1), (1, 1), (2,)]


class Chain:
    """Prompts of a table scorer in which every answered SID leads to a table of its own."""

    def __init__(self, tuples, roots, count):
        self.number = {codes: place for place, codes in enumerate(tuples)}
        self.tables = {(root,): root for root in range(roots)}
        ways = list(self.tables)
        for _ in range(count - 1):
            ways = [(*way, codes) for way in ways for codes in tuples]
            for way in ways:
                self.tables[way] = len(self.tables)
        self.ways = {table: way for way, table in self.tables.items()}

    def __call__(self, prompt, codes):
        return [self.tables[(*self.ways[prompt[0]], codes)]]


def a_case(tuples, count, seed=0, roots=2):
    chain = Chain(tuples, roots, count)
    scorer = TableScorer.random(
        SIZES,
        prompts=len(chain.tables),
        variable_length=tuples is LENGTHS,
        scale=2.0,
        seed=seed,
    )
    return scorer, chain, PrefixIndex.build(twin.sid_table(tuples, SIZES))


@pytest.mark.parametrize("tuples", [FIXED, LENGTHS], ids=["one length", "lengths"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_wide_beam_finds_what_scoring_every_answer_finds(tuples, count):
    scorer, chain, index = a_case(tuples, count)
    found = several_search(scorer, [[0], [1]], index, chain, count, beam=100)
    for query in range(2):
        wanted = twin.answers(scorer, [query], index, chain, count)
        got = [tuple(sids) for sids in found.sids[query].tolist() if sids[0] >= 0]
        assert got == [sids for _, sids in wanted]
        scores = found.scores[query][: len(got)]
        np.testing.assert_allclose(scores, [score for score, _ in wanted], atol=1e-6)


def test_no_sid_is_answered_twice_although_the_model_would():
    """After SID a the model gives a itself nearly all probability: the answer goes on without."""
    scorer, chain, index = a_case(FIXED, 2, roots=1)
    for table, way in chain.ways.items():
        if len(way) == 2:
            first, second = way[1]
            scorer.tables[0][table] = torch.full((1, 3), -9.0)
            scorer.tables[0][table, 0, first] = 0.0
            scorer.tables[1][table, first] = torch.full((2,), -9.0)
            scorer.tables[1][table, first, second] = 0.0
    narrow = several_search(scorer, [[0]], index, chain, 2, beam=1)
    first, second = narrow.sids[0, 0].tolist()
    assert first == twin.ranking(scorer, 0, index)[0][1]
    assert second >= 0
    assert second != first
    every = several_search(scorer, [[0]], index, chain, 2, beam=50).sids[0]
    assert all(len(set(sids)) == 2 for sids in every.tolist())
    assert len({tuple(sids) for sids in every.tolist()}) == 5 * 4


def test_an_answer_longer_than_the_index_is_refused():
    scorer, chain, index = a_case(FIXED, 1)
    with pytest.raises(ValueError, match="an answer of 6 different SIDs"):
        several_search(scorer, [[0]], index, chain, count=6)
