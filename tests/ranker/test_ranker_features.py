"""Every feature against a number worked out by hand, and what a day may know of a log."""

import math

import numpy as np
import pyarrow as pa
import pytest

from sidar.answer.memory import Memory, MemoryFacts, key_check, keys_of
from sidar.baselines import Bm25
from sidar.data import toy
from sidar.index import PrefixIndex
from sidar.ranker.columns import all_columns, columns_of, names_of
from sidar.ranker.features import FeatureMaker, Pairs, hide_query
from sidar.ranker.knowledge import ItemFacts, Known, before_day, log_shares
from sidar.ranker.requests import candidates, labels_of, own_counts, request_weights
from sidar.types import Hits, Prompt, Request, SemanticIds

SECRET = b"of this test"
NAN = math.nan
LEVELS = 2
#: Row 0 and 1 share an SID, row 3 has none.
SIDS = SemanticIds(
    np.array([[0, 0], [0, 0], [1, 0], [-1, -1]], np.int32), np.array([2, 2, 2, 0], np.int32), (2, 1)
)
CLICKS = np.array([2, 1, 1, 0])
USUAL = 0.75 * math.log(10) + 0.25 * math.log(20)
NORM = math.sqrt(0.8)  # of the mean of the history's vectors, (.8, .4)


def items():
    return ItemFacts(
        log_price=np.log(np.array([10, 20, NAN, 40])),
        brand=np.array([0, 1, 0, -1]),
        leaf=np.array([0, 0, 1, -1]),
        root=np.array([0, 0, 1, -1]),
        created=np.array([90, NAN, 99, NAN]),
        alive=np.ones(4, bool),
    )


def memory():
    entries = [("towel", 0, 98, 4.0), ("towel", 0, 99, 2.0), ("towel", 1, 99, 2.0)]
    entries.append(("hose", 2, 97, 1.0))
    keys = dict(keys_of(["towel", "hose"], SECRET).to_pandas().itertuples(index=False))
    table = pa.table(
        {
            "key": pa.array([keys[query] for query, *_ in entries], pa.uint64()),
            "row": [row for _, row, _, _ in entries],
            "day": [day for _, _, day, _ in entries],
            "weight": [weight for *_, weight in entries],
            "users": [1] * len(entries),
        }
    )
    return Memory.of(table, MemoryFacts("here", 99, key_check(SECRET)))


def known():
    shares = log_shares(PrefixIndex.build(SIDS), CLICKS, np.ones(4, bool))
    return Known(items(), memory(), SECRET, CLICKS, shares)


class Words:
    """BM25 of the four items, whatever is asked."""

    def scores_of(self, query, rows):
        return np.array([2.0, 1.0, 0.0, 0.0], np.float32)[rows]


VECTORS = np.array([[1, 0], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
BEAMS = Hits(
    np.array([[0, 1, 2, -1]], np.int32),
    np.zeros((1, 4), np.float32),
    level_logp=np.array([[[-1, -0.5], [-1, -0.5], [-2, -1], [0, 0]]], np.float32),
)
PROMPT = Prompt("towel", history=(2, 0))
EXPECTED = {
    "logp": (-1.5, -1.5, -3, NAN),
    "logp_gap": (0, 0, -1.5, NAN),
    "beam_place": (0, 0, 1, NAN),
    "logp_1": (-1, -1, -2, NAN),
    "logp_2": (-0.5, -0.5, -1, NAN),
    "share": (math.log(3 / 5), math.log(2 / 5), 0, NAN),
    "bm25": (2, 1, 0, 0),
    "bm25_gap": (0, -1, -2, -2),
    "cosine": (1, 0, 0.6, -1),
    "cosine_gap": (0, -1, -0.4, -2),
    "count": (math.log(7), math.log(3), 0, 0),
    "count_recent": (math.log(5), math.log(3), 0, 0),  # 4 of yesterday's yesterday weigh 2
    "count_share": (0.75, 0.25, 0, 0),
    "query_count": (math.log(9),) * 4,
    "prior": tuple(math.log(n / 8) for n in (3, 2, 2, 1)),
    "item_age": (10, NAN, 1, NAN),
    "last_chosen": (1, 1, 3, NAN),
    "price": (math.log(10), math.log(20), NAN, math.log(40)),
    "price_gap": (math.log(10) - USUAL, math.log(20) - USUAL, NAN, math.log(40) - USUAL),
    "category_share": (1, 1, 0, NAN),
    "root_share": (1, 1, 0, NAN),
    "history_length": (2,) * 4,
    "history_item": (0.5, 0, 0.5, 0),
    "history_brand": (1, 0, 1, NAN),
    "history_category": (0.5, 0.5, 0.5, NAN),
    "history_cosine": (0.8 / NORM, 0.4 / NORM, 0.8 / NORM, -0.8 / NORM),
    "history_price": (0, math.log(2), NAN, math.log(4)),
    "query_words": (1,) * 4,
}


def table(prompt=PROMPT, columns=None, beams=BEAMS, own=None):
    maker = FeatureMaker(columns or all_columns(LEVELS), known(), Words(), VECTORS)
    query = np.array([[1, 0]], np.float32)
    own = None if own is None else [own]
    return maker.table([prompt], query, Pairs.of([np.arange(4)]), beams, own)


def test_every_column_has_a_number_worked_out_by_hand():
    assert set(EXPECTED) == set(names_of(all_columns(LEVELS)))


@pytest.mark.parametrize(("place", "name"), list(enumerate(names_of(all_columns(LEVELS)))))
def test_a_column_says_what_it_is_documented_to_say(place, name):
    np.testing.assert_allclose(table()[:, place], EXPECTED[name], rtol=1e-6, atol=1e-6)


def test_a_query_that_nobody_asked_and_a_user_without_history_are_unknown():
    found = dict(zip(names_of(all_columns(2)), table(Prompt("kettle")).T, strict=True))
    of_query = [column.name for column in all_columns(2) if column.of_query]
    assert of_query
    for name in [*of_query, "history_item", "history_brand", "history_cosine", "history_price"]:
        assert np.isnan(found[name]).all(), name
    assert (found["history_length"] == 0).all()
    hidden = hide_query(table(Prompt("towel")), all_columns(2))
    np.testing.assert_array_equal(hidden, table(Prompt("kettle")))


def test_a_request_does_not_know_what_it_chose_itself():
    own = own_counts({0: 3, 2: 1})  # ordered row 0: 4 of its 6; row 2 has no count
    found = dict(zip(names_of(all_columns(2)), table(own=own).T, strict=True))
    np.testing.assert_allclose(found["count_share"], [0.5, 0.5, 0, 0])
    np.testing.assert_allclose(found["count"], np.log([3, 3, 1, 1]), rtol=1e-6)


def test_a_reward_reads_neither_beams_nor_the_other_candidates():
    columns = columns_of("reward", 2)
    assert {column.needs for column in columns} == {"item"}
    alone = FeatureMaker(columns, known(), Words(), VECTORS)
    query = np.array([[1, 0]], np.float32)
    one = alone.table([PROMPT], query, Pairs.of([np.array([1])]))
    np.testing.assert_array_equal(one[0], table(columns=columns, beams=None)[1])


def test_bm25_of_given_items_is_that_of_the_search():
    catalogue = toy.catalogue()
    lexical = Bm25(catalogue)
    rows = np.array([0, 63, 5, 17, 5])
    for query in [*toy.log_queries(), "towel towel hose", "no such word"]:
        np.testing.assert_allclose(
            lexical.scores_of(query, rows), lexical.scores([query])[0][rows], rtol=1e-6
        )
    gone = lexical.renumbered(np.where(np.arange(64) == 5, -1, np.arange(64)))
    assert gone.scores_of("towel", np.array([5])) == 0


def test_what_is_known_before_a_day_leaves_out_that_day_and_those_after():
    before = before_day(memory(), 99)
    assert before.facts.last_day == 98
    rows, counts = before.counts("towel", SECRET)
    assert (rows.tolist(), counts.tolist()) == ([0], [4.0])


def test_item_facts_number_brands_and_categories_and_count_days():
    catalogue = toy.catalogue()
    facts = ItemFacts.of(catalogue)
    brands, paths = catalogue.column("brand"), catalogue.column("category")
    for a, b in ((0, 1), (0, 8), (3, 11), (20, 44)):
        assert (facts.leaf[a] == facts.leaf[b]) == (paths[a] == paths[b])
        assert (facts.root[a] == facts.root[b]) == (paths[a][0] == paths[b][0])
        if brands[a] and brands[b]:
            assert (facts.brand[a] == facts.brand[b]) == (brands[a] == brands[b])
    missing = [row for row, brand in enumerate(brands) if not brand]
    assert (facts.brand[missing] == -1).all()
    assert np.isnan(
        facts.log_price[[r for r, p in enumerate(catalogue.column("price")) if not p]]
    ).all()
    assert facts.created[0] == toy.FIRST_DAY // toy.DAY_US - 30


def request(rows=(), positions=(), actions=()):
    return Request("r", 0, "u", PROMPT, tuple(rows), tuple(positions), tuple(actions))


def test_requests_weigh_the_mean_of_their_choices_propensities():
    weights = np.array([0.0, 1.0, 2.0, 4.0])
    asked = [request([5, 6], [1, 3], [1, 2]), request([5, 6], [1, 0], [0, 1])]
    # (1 + 4) / 2, and 1 for a position that is not known; then over their mean
    np.testing.assert_allclose(request_weights(asked, weights), np.array([2.5, 1.0]) / 1.75)
    np.testing.assert_array_equal(request_weights(asked, None), [1, 1])


def test_candidates_are_the_first_items_of_every_channel_and_what_is_remembered():
    found = Hits(np.array([[4, 2, 9], [-1, -1, -1]]), np.zeros((2, 3)))
    other = Hits(np.array([[7, 4, 1], [3, -1, -1]]), np.zeros((2, 3)))
    pairs = candidates({"a": found, "b": other}, [np.array([8]), np.empty(0, np.int64)], 2)
    assert pairs.rows[pairs.of_request(0)].tolist() == [2, 4, 7, 8]
    assert pairs.rows[pairs.of_request(1)].tolist() == [3]
    asked = [request([7, 4, 99], [1, 2, 3], [3, 0, 1]), request()]
    assert labels_of(pairs, asked).tolist() == [0, 0, 3, 0, 0]
