"""Phrasing, splits and files of the grounded queries."""

from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from reference_simulate import rng, sample_facts, small_config, small_log

from sidar.data import sample
from sidar.simulate.grounded import SPLITS, ground, query_id
from sidar.simulate.intents import Intent
from sidar.simulate.lexicon import load_lexicon
from sidar.simulate.phrasing import Phraser

WANTED = Intent(
    "slipper", (("audience", "women"), ("brand", "ugg"), ("colour", "gray"), ("use", "travel"))
)


def phrases(intent=WANTED, n=200, **rates):
    quiet = {"typo": 0.0, "synonym": 0.0, "reorder": 0.0} | rates
    phraser = Phraser(load_lexicon(), small_config(queries=quiet).queries, rng())
    return [phraser.phrase(intent) for _ in range(n)]


def test_without_noise_a_query_says_noun_and_constraints_in_the_usual_order():
    # the audience is said in one of its ways, before or after the noun
    assert {q for q in phrases() if q.startswith("womens") and q.endswith("for travel")} == {
        "womens ugg gray slippers for travel"
    }
    assert "ugg gray slippers women travel" not in set(phrases())


def test_synonyms_replace_whole_words():
    texts = set(" ".join(phrases(synonym=1.0)).split())
    assert {"house", "grey"} <= texts
    assert "slippers" not in texts


def test_reordering_keeps_the_words():
    plain = Intent("slipper", (("brand", "ugg"), ("colour", "gray")))
    assert {tuple(sorted(q.split())) for q in phrases(plain, reorder=1.0)} == {
        ("gray", "slippers", "ugg")
    }
    assert len(set(phrases(plain, reorder=1.0))) == 6


def test_a_slip_changes_one_word_by_one_keystroke():
    plain = Intent("slipper", (("brand", "ugg"),))
    slips = set(phrases(plain, typo=1.0, n=400)) - {"ugg slippers"}
    assert len(slips) > 20
    for slip in slips:
        brand, noun = slip.split()
        assert brand == "ugg"  # too short to slip in
        assert abs(len(noun) - len("slippers")) <= 1


@pytest.fixture(scope="module")
def grounded():
    avoid = sample.judged_queries()
    return ground(sample_facts(), load_lexicon(), small_config().queries, avoid, rng())


def test_splits_are_by_hash_of_the_intent_and_of_the_asked_sizes(grounded):
    assert Counter(grounded.splits) == {"train": 210, "valid": 30, "test": 60}
    ranks = {
        split: [
            sha256(i.key.encode()).hexdigest()
            for i, s in zip(grounded.intents, grounded.splits, strict=True)
            if s == split
        ]
        for split in SPLITS
    }
    assert max(ranks["train"]) < min(ranks["valid"])
    assert max(ranks["valid"]) < min(ranks["test"])


def test_no_query_resembles_a_judged_one(grounded):
    overlap = sample.Overlap(sample.judged_queries())
    assert max(overlap.nearest(query) for query in grounded.queries) < sample.TOO_SIMILAR


def test_queries_are_distinct_as_sets_of_words_across_intents(grounded):
    owners: dict = {}
    for query, intent in zip(grounded.queries, grounded.intent_of.tolist(), strict=True):
        assert owners.setdefault(sample.normal_tokens(query), intent) == intent
    assert len(set(grounded.queries)) == len(grounded.queries)


def test_only_logged_intents_have_several_phrasings_and_the_head_has_most(grounded):
    counts = np.bincount(grounded.intent_of)
    n_train = grounded.splits.count("train")
    assert (counts[n_train:] == 1).all()
    assert counts[:20].mean() > counts[n_train - 50 : n_train].mean()
    assert counts.max() <= small_config().queries.variants


def test_forbidden_queries_are_avoided_wherever_they_come_from(grounded):
    avoid = [*sample.judged_queries(), *grounded.queries[::30]]
    other = ground(sample_facts(), load_lexicon(), small_config().queries, avoid, rng())
    assert not set(grounded.queries[::30]) & set(other.queries)


def test_files_hold_what_was_grounded():
    folder, seen = small_log(), set()
    ids = set(sample.load_catalogue().item_ids)
    for split in SPLITS:
        queries = [
            line.split("\t")
            for line in (folder / f"grounded_{split}.queries.tsv").read_text().splitlines()
        ]
        qrels = [
            line.split("\t")
            for line in (folder / f"grounded_{split}.qrels.tsv").read_text().splitlines()
        ]
        assert queries[0] == ["query_id", "query"]
        assert qrels[0] == ["query_id", "item_id", "grade"]
        assert all(query_id(text) == name for name, text in queries[1:])
        assert {item for _, item, _ in qrels[1:]} <= ids
        assert {grade for _, _, grade in qrels[1:]} <= {"1", "0.1", "0.01"}
        assert {name for name, _, grade in qrels if grade == "1"} == {
            name for name, _ in queries[1:]
        }
        assert not seen & {name for name, _ in queries[1:]}
        seen |= {name for name, _ in queries[1:]}
