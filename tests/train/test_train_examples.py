"""From rows to examples: what packing keeps, drops and counts; negatives from the
model's own beam.
"""

import numpy as np
import pyarrow as pa
import pytest
from toy_train import (
    list_stream,
    pseudo_stream,
    tiny_model,
    toy_lists,
    toy_sids,
    validator,
    write_backbone,
)

from sidar.data import toy
from sidar.decode import score_all
from sidar.index import PrefixIndex
from sidar.lm.scorer import LmScorer
from sidar.train.examples import ItemStream, LogStream, PseudoStream
from sidar.train.negatives import BeamNegatives
from sidar.train.pseudo import Matches, item_words, pseudo_query
from sidar.types import Prompt, SemanticIds


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(write_backbone(tmp_path_factory.mktemp("backbone")))


def table(**columns):
    one = {
        "query": "tent",
        "history": [],
        "profile": "",
        "positives": [0],
        "tiers": [1],
        "negatives": [],
        **columns,
    }
    return pa.Table.from_pylist(
        [one], schema=pa.schema([f for f in toy_lists(1).schema if f.name != "request_id"])
    )


def shared_sids():
    """Items 0, 1 and 2 share an SID, item 3 has none."""
    sids = toy_sids()
    codes, lengths = sids.codes.copy(), sids.lengths.copy()
    codes[1] = codes[2] = codes[0]
    codes[3], lengths[3] = -1, 0
    return SemanticIds(codes, lengths, sids.codebook_sizes)


def one(model, max_negatives=3, max_positives=8, **columns):
    stream = LogStream(
        table(**columns),
        shared_sids(),
        model.prompts,
        max_positives=max_positives,
        max_negatives=max_negatives,
        is_list=True,
    )
    return stream.examples([(0, 0)])[0]


def test_lists_are_made_of_sids(model):
    made = one(model, positives=[0, 1, 9], tiers=[1, 3, 1], negatives=[2, 20, 20, 3, 21])
    sids = shared_sids()
    assert [(c.codes, c.is_positive, c.tier) for c in made.candidates] == [
        (sids.tuple_of(0), True, 3),  # 0 and 1 are one SID, its best tier counts
        (sids.tuple_of(9), True, 1),
        (sids.tuple_of(20), False, 0),
        (sids.tuple_of(21), False, 0),
    ]
    assert made.counts == {
        "negatives_sharing_a_positive_sid": 1,  # item 2
        "repeated_sids": 2,  # items 1 and 20
        "rows_without_sid": 1,  # item 3
        "lists": 1,
        "lists_without_negatives": 0,
    }


def weigh(columns, **weights):
    one = table(**columns)
    for name, values in weights.items():
        one = one.append_column(name, pa.array([values], pa.list_(pa.float32())))
    return one


def test_weights_of_a_list_are_read_where_they_are(model):
    columns = {"positives": [0, 1, 9], "tiers": [1, 3, 1], "negatives": [2, 20, 20, 3, 21]}
    both = {"positive_weights": [2.0, 3.0, 4.0], "negative_weights": [0.25, 0.5, 0.75, 2.0, 1.5]}
    made = {}
    for name, kept in (
        ("both", list(both)),
        ("positive", list(both)[:1]),
        ("negative", list(both)[1:]),
        ("none", []),
    ):
        lists = weigh(columns, **{n: both[n] for n in kept})
        stream = LogStream(
            lists, shared_sids(), model.prompts, max_positives=8, max_negatives=3, is_list=True
        )
        made[name] = [c.weight for c in stream.rows([0])[0].candidates]
        replaced = stream.rows([0], [[20]])[0].candidates  # of other negatives nothing is known
        assert [c.weight for c in replaced] == (
            [2, 4, 1] if "positive_weights" in kept else [1, 1, 1]
        )
    assert made == {
        "both": [2, 4, 0.5, 1.5],
        "positive": [2, 4, 1, 1],
        "negative": [1, 1, 0.5, 1.5],
        "none": [1] * 4,
    }
    stream = LogStream(weigh(columns, **both), shared_sids(), model.prompts, max_positives=8)
    # as SFT rows, without negatives
    assert [c.weight for c in stream.rows([0])[0].candidates] == [2, 4]
    unknown = weigh(columns, positive_weights=None)
    stream = LogStream(unknown, shared_sids(), model.prompts, max_positives=8, max_negatives=3)
    assert [c.weight for c in stream.rows([0])[0].candidates] == [1] * 4


def test_lists_are_cut_and_may_end_up_without_negatives(model):
    made = one(
        model,
        max_negatives=2,
        max_positives=1,
        positives=[8, 9],
        tiers=[1, 1],
        negatives=[20, 9, 21, 22],
    )
    assert [c.is_positive for c in made.candidates] == [True, False, False]
    # 9 was cut as a positive and is still no negative
    assert made.counts["negatives_sharing_a_positive_sid"] == 1
    assert one(model, positives=[0], negatives=[1, 2, 3]).counts["lists_without_negatives"] == 1


def test_requests_whose_positives_have_no_sid_are_left_out_and_counted(model):
    rows = [
        {"positives": [3]},
        {"positives": [3, 5], "tiers": [1, 1]},
        {"positives": []},
        {"positives": [6]},
    ]
    joined = pa.concat_tables([table(**{"tiers": [1] * len(r["positives"]), **r}) for r in rows])
    stream = LogStream(joined, shared_sids(), model.prompts, max_positives=8)
    assert (len(stream), stream.dropped) == (2, 2)
    assert [e.candidates[0].codes for e in stream.examples([(0, 0), (1, 0)])] == [
        shared_sids().tuple_of(5),
        shared_sids().tuple_of(6),
    ]


def test_an_empty_log_is_an_empty_stream(model):
    assert len(LogStream(table().slice(0, 0), shared_sids(), model.prompts, max_positives=8)) == 0


def test_history_enters_as_sids_and_profile_as_text(model):
    plain, personal = one(model), one(model, history=[40], profile="flat")
    vocab = model.vocab
    spelled = [vocab.text_vocab + t for t in vocab.tokens(shared_sids().tuple_of(40))]
    text = ",".join(map(str, personal.tokens))
    assert ",".join(map(str, spelled)) in text
    assert len(personal.tokens) > len(plain.tokens) + 3


def test_item_and_pseudo_streams_skip_what_cannot_be_learned(model):
    alive = np.ones(64, bool)
    alive[10] = False
    texts = ["" if r == 11 else f"item {r}" for r in range(64)]
    stream = ItemStream(texts, shared_sids(), model.prompts, alive)
    assert len(stream) == 61  # without item 3 (no SID), 10 (retired), 11 (nothing to say)
    pseudo = pseudo_stream(model)
    assert len(pseudo) == 64
    assert pseudo.query(5, 0) == pseudo_stream(model).query(5, 0)
    assert len({pseudo.query(5, epoch) for epoch in range(20)}) > 5


def test_item_prompts_differ_from_searches_for_the_same_words(model):
    words = "Cast Iron Skillet"
    item = ItemStream([words] * 64, toy_sids(), model.prompts, np.ones(64, bool)).examples(
        [(0, 0)]
    )[0]
    search = one(model, query=words)
    assert item.tokens != search.tokens
    assert (item.is_list, search.is_list) == (False, True)


def test_beam_negatives_are_the_models_best_answers_that_nobody_clicked(model):
    index = PrefixIndex.build(toy_sids())
    model.eval()
    lists = list_stream(model, max_negatives=4)
    negatives = BeamNegatives(model, index, width=64, max_positives=8)
    found = negatives(lists, [0, 1, 2])
    prompts = model.prompts.encode_batch(lists.prompts([0, 1, 2]), toy_sids())
    exact = score_all(LmScorer(model), prompts, index)
    made = lists.rows([0, 1, 2], found)
    for number, example in enumerate(made):
        right = {c.codes for c in example.candidates if c.is_positive}
        wrong = [c.codes for c in example.candidates if not c.is_positive]
        order = np.argsort(-np.asarray(exact[number]), kind="stable")
        best = [tuple(index.table[s]) for s in order]
        assert wrong == [codes for codes in best if codes not in right][:4]


def test_beam_negatives_of_a_long_list_are_none_of_its_clicks(model):
    index = PrefixIndex.build(toy_sids())
    model.eval()
    sids = toy_sids()
    short = {**table().to_pylist()[0], "positives": [5], "tiers": [1]}
    prompts = model.prompts.encode_batch([Prompt("tent")], sids)
    best = BeamNegatives(model, index, 64, 8)(
        LogStream(table(), sids, model.prompts, max_positives=8), [0]
    )[0]
    clicked = best[:20]  # the model's own best answers were all clicked: more than the cap of 8
    long = {**short, "positives": clicked, "tiers": [1] * 20}
    rows = pa.Table.from_pylist([short, long], schema=table().schema)
    lists = LogStream(rows, sids, model.prompts, max_positives=8, max_negatives=3, is_list=True)
    assert lists.positive_counts([0, 1]) == [1, 20]
    narrow = BeamNegatives(model, index, width=11, max_positives=8)
    both, alone = narrow(lists, [0, 1]), narrow(lists, [1])
    assert [len(both[0]), len(both[1])] == [11, 44]
    assert both[1] == alone[0]  # a function of the list, not of its batch
    packed = lists.rows([1], alone)[0].candidates
    wrong = [c.codes for c in packed if not c.is_positive]
    assert len(wrong) == 3
    assert not {*wrong} & {sids.tuple_of(row) for row in clicked}
    exact = score_all(LmScorer(model), prompts, index)[0]
    order = [tuple(index.table[s]) for s in np.argsort(-np.asarray(exact), kind="stable")]
    assert wrong[0] == next(
        codes for codes in order if codes not in {sids.tuple_of(row) for row in clicked}
    )


def test_a_list_of_two_hundred_clicks_is_packed_like_a_short_one(model):
    clicked = list(range(4, 64)) * 4
    made = one(model, positives=clicked, tiers=[1] * len(clicked), negatives=[0, 5])
    assert [c.is_positive for c in made.candidates] == [True] * 8 + [False]
    assert [c.codes for c in made.candidates[:8]] == [
        shared_sids().tuple_of(row) for row in range(4, 12)
    ]
    assert made.length == len(made.tokens) + sum(len(c.codes) for c in made.candidates)


def test_validation_measures_and_leaves_the_model_as_it_was(model):
    model.train()
    found = validator(model)(model)
    assert model.training
    assert set(found) == {"nll", "recall@8"}
    assert found["nll"] > 0
    assert 0 <= found["recall@8"] <= 1
    assert found == validator(model)(model)
    assert all(p.grad is None for p in model.parameters())


def test_validation_on_lists_adds_their_statistics(model):
    from sidar.train.validate import Validator

    examples = list_stream(model).examples([(i, 0) for i in range(8)])
    found = Validator(examples, PrefixIndex.build(toy_sids()), precision="fp32")(model)
    assert {"pairs/accuracy", "logp/other_positives", "first/entropy"} <= set(found)
    assert Validator([], PrefixIndex.build(toy_sids()))(model) == {}


def test_matches_are_the_items_that_have_every_word():
    catalogue = toy.catalogue()
    columns = (catalogue.column(name) for name in ("title", "category", "brand"))
    words = [item_words(*parts) for parts in zip(*columns, strict=True)]
    alive = np.array([row for row in range(64) if row % 7])  # some rows may not match
    matches = Matches(words, alive)
    bags = [{*w.title, *w.category, *w.brand.split()} for w in words]
    rng = np.random.default_rng(0)
    several = 0
    for row in alive.tolist() * 3:
        query = pseudo_query(words[row], rng)
        slow = [other for other in alive if set(query.split()) <= bags[other]]
        assert matches(query).tolist() == slow
        assert row in slow
        several += len(slow) > 1
    assert several
    assert matches("no-such-word towel").tolist() == matches("").tolist() == []


def test_pseudo_queries_are_multi_label(model):
    columns = (toy.catalogue().column(name) for name in ("title", "category", "brand"))
    words = [item_words(*parts) for parts in zip(*columns, strict=True)]
    sids, alive = toy_sids(), toy.catalogue().alive
    one = PseudoStream(words, sids, model.prompts, alive, 0)
    many = PseudoStream(words, sids, model.prompts, alive, 0, max_positives=4)
    draws = [(i, 5) for i in range(len(many))]
    matches = Matches(words, np.arange(64))
    for (index, epoch), single, example in zip(
        draws, one.examples(draws), many.examples(draws), strict=True
    ):
        right = {sids.tuple_of(row) for row in matches(many.query(index, epoch))}
        codes = [c.codes for c in example.candidates]
        assert codes[0] == single.candidates[0].codes == sids.tuple_of(index)
        assert len(codes) == len(set(codes)) <= 4
        assert set(codes) <= right
        assert all(c.is_positive for c in example.candidates)
    assert many.examples(draws) == many.examples(draws)
