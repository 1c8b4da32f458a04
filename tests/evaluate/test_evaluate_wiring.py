"""What reaches what between systems, sets and columns: on lists that are worked by hand."""

import math

import numpy as np
import pytest
from listed_systems import BEAM, CATALOGUE, ITEMS, Channel, Writer, a_set, index, priors, settings

from sidar.evaluate.perquery import PerQuery, read_clusters
from sidar.evaluate.scorer import TOPIC_ORACLE, Scorer
from sidar.evaluate.slices import order_by_hash
from sidar.evaluate.stats import bootstrap_interval
from sidar.evaluate.suite import run_suite
from sidar.types import EvalSet, Prompt


def scored(system, eval_set, cfg=None, also=lambda scorer, values, job: None):
    """{measure: values} of ``system`` on ``eval_set``."""
    scorer, values = Scorer(CATALOGUE, priors(), index(), cfg or settings()), PerQuery()
    job = scorer.open(eval_set)
    scorer.score(values, job, system.name, system.hits(eval_set.prompts, 10), system)
    also(scorer, values, job)
    return values, job


def of(values, system, measure):
    set_name = values.sets()[0]
    return values.get(set_name, system, measure)[1].tolist()


# ------------------------------------------------------------------ columns of one system


def test_expected_columns_take_sids_by_equal_shares_and_their_items_in_random_order():
    """By log π − log n SID 2 (−1.5) comes first, then 1 (−1.89) and 0 (−2.10); the prior's order is
    0, 1, 2, …
    """
    eval_set = a_set("judged", [5, 3, 0])
    writer = Writer("sft", {query: [0, 1, 2, 3, 4, 5, 6] for query in eval_set.query_ids})
    values, _ = scored(writer, eval_set)
    places = [[1], [2, 3], [4, 5, 6]]  # of the one relevant item, each as likely
    want = {
        "expected/mrr": [np.mean([1 / p for p in some]) for some in places],
        "expected/ndcg@10": [np.mean([1 / math.log2(p + 1) for p in some]) for some in places],
        "expected/recall@10": [1.0, 1.0, 1.0],
    }
    for measure, entry in want.items():
        assert of(values, "sft", measure) == pytest.approx(entry)
    # as listed, in the prior's order
    assert of(values, "sft", "item/mrr") == pytest.approx([1 / 6, 1 / 4, 1])


def test_sid_columns_are_cut_at_the_beam_for_every_kind_of_system():
    """Beam 2: the third SID does not count, also where a system hands in more than it was asked
    for.
    """
    eval_set = a_set("judged", [[0], [3], [5], [0, 3, 5, 6]])
    lists = {query: [0, 1, 3, 5, 6, 7] for query in eval_set.query_ids}
    writer, channel = Writer("sft", lists), Channel("bm25", lists)
    for system in (writer, channel):
        values, _ = scored(system, eval_set)
        assert of(values, system.name, "sid/mrr") == [1.0, 0.5, 0.0, 1.0]
        assert of(values, system.name, "sid/recall@8") == [1.0, 1.0, 0.0, 0.5]
        # items are cut at the depth
        assert of(values, system.name, "item/recall@10") == [1.0, 1.0, 1.0, 1.0]
    assert writer.beams == [BEAM]
    oracle, _ = scored(
        channel, eval_set, also=lambda scorer, values, job: scorer.score_oracle(values, job)
    )
    # two of four SIDs in two places
    assert of(oracle, TOPIC_ORACLE, "sid/recall@8") == [1.0, 1.0, 1.0, 0.5]
    wider = settings()
    wider.decode.beam = 3
    assert of(scored(writer, eval_set, wider)[0], "sft", "sid/mrr") == pytest.approx(
        [1.0, 0.5, 1 / 3, 1.0]
    )


def test_invalid_mass_keeps_to_its_queries_and_its_seconds():
    eval_set = a_set("judged", [0] * 12)
    first = [eval_set.query_ids[q] for q in order_by_hash(eval_set.query_ids)[:5]]
    for measured in (None, 3):  # the system may stop before it is through
        writer = Writer("sft", {query: [0] for query in eval_set.query_ids}, measured)
        values, job = scored(writer, eval_set, settings(invalid_queries=5, invalid_seconds=7.5))
        assert writer.invalid_asked == [(first, 7.5)]
        done = measured or 5
        assert values.get("judged", "sft", "invalid/mass")[0] == tuple(first[:done])
        assert job.facts["invalid_sampled"] == {"sft": {"asked": 5, "measured": done}}


# ------------------------------------------------------------------ a whole report

#: Which of two channels lists the relevant item first, by set; validation and test contradict each
#: other.
FIRST = {"dev": "bm25", "day7": "dense", "judged": "dense", "day8": "bm25"}
ORIGIN = {"dev": "real", "day7": "log", "judged": "real", "day8": "log"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two channels and a writer on two test sets, tuned on two validation sets that say the
    opposite.
    """
    sets = {name: a_set(name, [20] * 9, ORIGIN[name]) for name in FIRST}
    # equal weights list 12 before 20: of a tie the lower row
    right, wrong = [20, 9, 10, 11], [12, 13, 14]
    lists = {
        channel: {
            q: right if FIRST[name] == channel else wrong
            for name, entry in sets.items()
            for q in entry.query_ids
        }
        for channel in ("bm25", "dense")
    }
    systems = {name: Channel(name, one) for name, one in lists.items()}
    cfg = settings(tune_queries=4, invalid_queries=2)
    out = tmp_path_factory.mktemp("report")
    tests, valid = [sets["judged"], sets["day8"]], [sets["dev"], sets["day7"]]
    scores = run_suite(
        systems, tests, CATALOGUE, priors(), index(), out=out, cfg=cfg, tune_sets=valid
    )
    return scores, systems, sets, out


def test_fusion_weights_are_chosen_on_validation_sets_of_the_same_origin(report):
    scores, _, _, _ = report
    fact = scores["fusions"]["bm25+dense"]
    assert fact["parts"] == ("bm25", "dense")
    for name, near in (("judged", "dev"), ("day8", "day7")):
        weights = dict(zip(fact["parts"], fact["sets"][name]["weights"], strict=True))
        assert fact["sets"][name]["tuned"]
        # of the validation set: its relevant item comes first
        assert fact["sets"][name]["value"] == 1.0
        other = "dense" if FIRST[near] == "bm25" else "bm25"
        assert weights[FIRST[near]] > weights[other]
        # the test set says the opposite, and its relevant item comes behind what validation
        # preferred
        assert scores["sets"][name]["systems"]["bm25+dense"]["item/mrr"]["mean"] < 1.0
    assert fact["sets"]["judged"]["weights"] != fact["sets"]["day8"]["weights"]


def test_a_validation_set_is_asked_its_queries_of_lowest_hash_and_each_test_query_once(report):
    _, systems, sets, _ = report
    few = {
        sets[name].query_ids[q]
        for name in ("dev", "day7")
        for q in order_by_hash(sets[name].query_ids)[:4]
    }
    every = {query for name in ("judged", "day8") for query in sets[name].query_ids}
    for system in systems.values():
        assert sorted(system.asked) == sorted(few | every)


def test_queries_of_one_text_are_one_cluster_in_intervals_and_tests(tmp_path):
    """Three requests for one text, written in three ways, and one for another: two clusters of four
    values.
    """
    texts = ["Red shoe", "red SHOE!", " red  shoe", "hat"]
    ids = tuple(f"r{n}" for n in range(4))
    prompts = tuple(map(Prompt, texts))
    eval_set = EvalSet("day8", ids, prompts, {q: {ITEMS[0]: 1.0} for q in ids}, "log")
    good, bad = [0, 1, 2], [1, 2, 0]
    systems = {
        "sft": Writer("sft", dict.fromkeys(texts, bad)),
        "raddpo": Writer("raddpo", dict(zip(texts, [good, good, good, bad], strict=True))),
    }
    cfg = settings(bootstrap=200)
    scores = run_suite(systems, [eval_set], CATALOGUE, priors(), index(), out=tmp_path, cfg=cfg)
    labels = read_clusters(tmp_path)["day8"]
    assert len({labels[q] for q in ids[:3]}) == 1
    assert labels["r3"] != labels["r0"]
    assert scores["sets"]["day8"]["clusters"] == 2
    cell = scores["sets"]["day8"]["systems"]["raddpo"]["item/mrr"]
    values = np.array([1, 1, 1, 1 / 3])
    want = bootstrap_interval(values, np.array(list("aaab")), cfg.seed, samples=200)
    assert (cell["low"], cell["high"]) == pytest.approx(want)
    tests = {(row["a"], row["b"], row["measure"]): row for row in scores["tests"]}
    test = tests["raddpo", "sft", "item/mrr"]
    # one of two clusters differs: every sign is as far
    assert (test["n"], test["clusters"], test["p"]) == (4, 2, 1.0)
