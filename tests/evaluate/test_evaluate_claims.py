"""The tests and intervals of the report against Holm, sign flips and bootstrap written by hand, by
query clusters.
"""

from dataclasses import asdict

import numpy as np
import pytest
import reference_evaluate as slow

from sidar.compare.paired import Pair, Sampling, compare_pairs
from sidar.evaluate.claims import paired_claims
from sidar.evaluate.perquery import PerQuery, summarise

SAMPLES, SEED = 40, 3
SETS, MEASURES = ("log", "judged"), ("item/ndcg@10", "item/mrr")
GENERATIVE = ["sft", "raddpo", "dpo"]
#: Requests by query: the clusters differ in size, so that a mean over requests is none over
#: queries.
CLUSTERS = {"log": "aaaabbcccdeeefg", "judged": "abcdefghhh"}
#: Gain over zero-shot dense: one query of seven loses, so p is 4 / 128 before Holm.
GAIN = {"a": 0.2, "b": 0.25, "c": 0.15, "d": 0.3, "e": 0.1, "f": 0.2, "g": -0.01, "h": 0.15}


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(7)
    reached = PerQuery()
    for set_name in SETS:
        ids = query_ids(set_name)
        gain = np.array([GAIN[label] for label in CLUSTERS[set_name]])
        for number, measure in enumerate(("ndcg@10", "mrr")):
            dense = rng.random(len(ids)) / 10
            noise = rng.normal(size=(3, len(ids)))
            by_system = {
                "dense": dense,
                "sft": dense + gain,
                "raddpo": dense + 1.5 * gain + 0.01 * (number + 1) * noise[0],
                "dpo": dense + 0.02 * noise[1],
            }
            for system, scores in by_system.items():
                reached.add(set_name, system, "item", {measure: scores}, ids)
    return reached


def query_ids(set_name):
    return [f"{set_name}{n}" for n in range(len(CLUSTERS[set_name]))]


def clusters():
    return {name: dict(zip(query_ids(name), CLUSTERS[name], strict=True)) for name in SETS}


def draws_of(n_clusters):
    """The clusters that each resample draws, from the seed that the report is given."""
    return np.random.default_rng(SEED).integers(0, n_clusters, (SAMPLES, n_clusters)).tolist()


def check_family(family, values, pairs):
    """One question on one set and measure: every number of its rows by hand."""
    set_name, measure = family[0]["set"], family[0]["measure"]
    labels = list(CLUSTERS[set_name])
    assert [(row["a"], row["b"]) for row in family] == pairs
    differences = [
        values.get(set_name, a, measure)[1] - values.get(set_name, b, measure)[1] for a, b in pairs
    ]
    raw = [slow.sign_flip_p(one.tolist(), labels) for one in differences]
    draws = draws_of(len({*labels}))
    for row, difference, p, adjusted in zip(family, differences, raw, slow.holm(raw), strict=True):
        assert row["effect"] == pytest.approx(difference.mean())
        assert row["p"] == pytest.approx(p)
        assert row["p_holm"] == pytest.approx(adjusted)
        interval = slow.cluster_interval(difference.tolist(), labels, draws)
        assert (row["low"], row["high"]) == pytest.approx(interval)
        assert (row["n"], row["clusters"]) == (len(labels), len({*labels}))
        assert row["detectable"] == pytest.approx(
            (1.959964 + 0.841621) * slow.cluster_error(difference, labels)
        )
        word = "cannot tell here"
        if adjusted < 0.05:
            word = "holds" if row["effect"] > 0 else "does not hold"
        assert row["verdict"] == word


def test_every_claim_is_a_clustered_test_under_holm_worked_by_hand(values):
    rows = paired_claims(values, clusters(), GENERATIVE, {}, samples=SAMPLES, seed=SEED)
    asked = {
        "Does alignment improve on SFT?": [("raddpo", "sft"), ("dpo", "sft")],
        "Is the generative channel better than zero-shot dense retrieval?": [
            (name, "dense") for name in GENERATIVE
        ],
    }
    families = {}
    for row in rows:
        families.setdefault((row["set"], row["question"], row["measure"]), []).append(row)
    assert set(families) == {(s, question, m) for s in SETS for question in asked for m in MEASURES}
    for (_, question, _), family in families.items():
        check_family(family, values, asked[question])
    # the data separate what must not be mixed up: Holm changes verdicts, and so do clusters
    assert any(row["p"] < 0.05 <= row["p_holm"] for row in rows)
    assert any(row["p_holm"] < 0.05 for row in rows)
    assert any(row["p_holm"] < 0.05 and row["effect"] < 0 for row in rows)


def test_a_comparison_of_tokenizers_asks_in_the_same_way(values):
    """Holm inside each family of a set; `agree` counts seeds."""
    pairs = [("sft", "dense"), ("raddpo", "dense"), ("dpo", "dense")]
    families = [[Pair(a, b, measure) for a, b in pairs] for measure in MEASURES]
    sampling = Sampling(seed=SEED, samples=SAMPLES)
    rows = [
        asdict(row)
        for row in compare_pairs(values, clusters(), "Is it better?", families, sampling)
    ]
    by_family = {}
    for row in rows:
        by_family.setdefault((row["set"], row["measure"]), []).append(row)
    assert set(by_family) == {(s, m) for s in SETS for m in MEASURES}
    for family in by_family.values():
        check_family(family, values, pairs)


def test_intervals_of_the_table_draw_queries_and_not_requests(values):
    summary = summarise(values, clusters(), samples=SAMPLES, seed=SEED)
    for set_name in SETS:
        labels = list(CLUSTERS[set_name])
        draws = draws_of(len({*labels}))
        for system in (*GENERATIVE, "dense"):
            for measure in MEASURES:
                column = values.get(set_name, system, measure)[1]
                cell = summary[set_name][system][measure]
                interval = slow.cluster_interval(column.tolist(), labels, draws)
                assert (cell["low"], cell["high"]) == pytest.approx(interval)
                assert (cell["mean"], cell["n"]) == (pytest.approx(column.mean()), len(labels))
