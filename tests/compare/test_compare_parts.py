"""Parts of the comparison by hand: beams, paired tests, the sentence, caveats, the page."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shop import TINY, mixed_table, table

from sidar.compare.page import control_sentence, estimate, make_page
from sidar.compare.paired import Pair, Sampling, compare_pairs
from sidar.compare.results import Estimate, MethodResult, PairedResult, Results
from sidar.compare.values import stacked
from sidar.compare.verdict import caveats, find_leaders, sentence
from sidar.data import toy
from sidar.evaluate.measures.truth import Truth
from sidar.evaluate.perquery import PerQuery
from sidar.index import PrefixIndex
from sidar.lm import SidLM
from sidar.serve.retriever import Retriever
from sidar.types import Prompt

ROOT = Path(__file__).parents[2]
N = 60


def per_query(means, measure="item/ndcg@10", sets=("a",), seed=0, spread=0.02):
    """Values of N queries around ``means`` {system: mean}, with noise of their own."""
    rng = np.random.default_rng(seed)
    values, ids = PerQuery(), [f"q{i}" for i in range(N)]
    prefix, _, rest = measure.rpartition("/")
    for each in sets:
        for system, mean in means.items():
            values.add(each, system, prefix, {rest: mean + spread * rng.standard_normal(N)}, ids)
    return values


CLUSTERS = {each: {f"q{i}": f"q{i}" for i in range(N)} for each in ("a", "b")}
SAMPLING = Sampling(samples=50)


def answer(values, names, figures=None):
    leaders = find_leaders(values, CLUSTERS, names, SAMPLING)
    return leaders, sentence(leaders, figures or {name: {} for name in names}, "x")


@pytest.fixture(scope="module")
def kept():
    """The kept comparison of the embedded sample."""
    return Results.from_json(json.loads((ROOT / "experiments/results/bakeoff.json").read_text()))


@pytest.fixture(scope="module")
def cqsid():
    """The replication of CQ-SID's claims, as a module."""
    spec = importlib.util.spec_from_file_location("cqsid", ROOT / "experiments/tokenizers/cqsid.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_leader_everywhere_is_the_best_and_says_what_goes_along():
    figures = {
        "x": {"quantised": 0.5, "collision_rate": 0.1},
        "y": {"quantised": 0.7, "collision_rate": 0.3},
    }
    found, said = answer(per_query({"x": 0.3, "y": 0.5}, sets=("a", "b")), ["x", "y"], figures)
    assert found.kind == "best"
    assert said.startswith("**y is best for this catalogue**")
    assert "recall@100 of the nearest SIDs by vector alone (0.700, x 0.500)" in said
    assert "share of items" not in said  # points the other way


def test_methods_that_are_not_told_apart_leave_the_question_open():
    found, said = answer(per_query({"x": 0.5, "y": 0.5, "z": 0.2}), ["x", "y", "z"])
    assert (found.kind, found.everywhere) == ("cannot tell", ["x", "y"])
    assert said.startswith("**Cannot tell which is best**: x and y")
    assert "leave z behind" in said
    assert said.endswith("The plainest of those that are not told apart is x.")
    assert 0 < found.sets["a"].detectable < 0.05


def test_different_leaders_mean_that_it_depends():
    values = per_query({"x": 0.3, "y": 0.5})
    other = per_query({"x": 0.5, "y": 0.3}, sets=("b",))
    for name in ("x", "y"):
        ids, found = other.get("b", name, "item/ndcg@10")
        values.add("b", name, "item", {"ndcg@10": found}, ids)
    found, said = answer(values, ["x", "y"])
    assert found.kind == "depends"
    assert "y on a; x on b" in said


def test_less_is_better_where_it_is():
    values = per_query({"x": 0.3, "y": 0.5}, "invalid/mass")
    better, worse = (
        compare_pairs(values, CLUSTERS, "?", [[Pair(a, b, "invalid/mass")]], SAMPLING)[0]
        for a, b in (("x", "y"), ("y", "x"))
    )
    assert better.effect < 0
    assert (better.verdict, worse.verdict) == ("holds", "does not hold")


def test_pairs_across_measures_and_pairs_without_values():
    values = per_query({"x": 0.3}, "beam/semantic/hit@5")
    ids = [f"q{i}" for i in range(N)]
    values.add("a", "y", "beam/semantic", {"hit@10": np.full(N, 0.2)}, ids)
    families = [
        [
            Pair("x", "y", "beam/semantic/hit@5", "beam/semantic/hit@10"),
            Pair("x", "none", "item/mrr"),
        ]
    ]
    rows = compare_pairs(values, CLUSTERS, "?", families, SAMPLING)
    assert len(rows) == 1
    assert rows[0].effect == pytest.approx(0.1, abs=0.02)


def test_holm_runs_over_the_family_of_one_set():
    values = per_query({"x": 0.50, "y": 0.507, "z": 0.507}, seed=3)
    asked = [
        [Pair("y", "x", "item/ndcg@10")],
        [Pair(name, "x", "item/ndcg@10") for name in ("y", "z")],
    ]
    alone, *family = compare_pairs(values, CLUSTERS, "?", asked, SAMPLING)
    assert family[0].p == alone.p
    assert family[0].p_holm >= alone.p_holm


def test_seeds_are_stacked_per_query():
    values, ids = PerQuery(), ["q0", "q1"]
    for seed, some in enumerate(([0.0, 1.0], [0.5, 0.5])):
        values.add("a", f"x#{seed}", "item", {"ndcg@10": np.array(some)}, ids)
    values.add("a", "x#0", "item", {"mrr": np.zeros(2)}, ids)  # the other seed lacks it
    both = stacked(values, ["x"], [0, 1])
    assert both.get("a", "x", "item/mrr") is None
    found = both.get("a", "x", "item/ndcg@10")
    assert found[0] == ("q0", "q1", "q0", "q1")
    assert found[1].tolist() == [0, 1, 0.5, 0.5]


# ---------------------------------------------------------------------- caveats


def compared(kept, verdicts, **methods):
    """Results with the tests {(control, set, measure): verdict} and changes to ``methods``."""
    of = {"random": "rqkmeans", "sarq-shuffled": "sarq"}
    names = ["rqkmeans", "sarq", *of]
    known = {name: MethodResult("", of.get(name, ""), equal=True) for name in names}
    known |= {name: replace(known[name], **changes) for name, changes in methods.items()}
    numbers = {"effect": 0.0, "low": 0.0, "high": 0.0, "p": 1.0, "p_holm": 1.0, "detectable": 0.1}
    numbers |= {"n": 8, "clusters": 8, "agree": 1}
    tests = [
        PairedResult(name, "controls", f"item/{m}", of[b], b, verdict=word, **numbers)
        for (b, name, m), word in verdicts.items()
    ]
    return replace(kept, methods=known, tests=tests)


def told(control, **by_measure):
    """Verdicts of a control on the sets a and b, by measure."""
    names = {"ndcg": "ndcg@10", "recall": "recall@100"}
    return {
        (control, each, names[m]): word
        for m, both in by_measure.items()
        for each, word in zip("ab", both, strict=True)
    }


def test_controls_that_lose_leave_no_caveat(kept):
    lost = ["holds", "holds"]
    verdicts = told("random", ndcg=lost, recall=lost) | told(
        "sarq-shuffled", ndcg=lost, recall=lost
    )
    found = compared(kept, verdicts)
    assert caveats(found) == []
    assert (
        control_sentence(found, "random")
        == "**random** loses against rqkmeans: behind in 4 of 4 tests."
    )


def test_a_control_that_does_not_lose_is_a_caveat(kept):
    found = compared(
        kept,
        told("random", ndcg=["cannot tell here"] * 2, recall=["cannot tell here", "does not hold"]),
    )
    assert caveats(found) == [
        (
            "**random** does not lose to rqkmeans by nDCG@10 and R@100 on a and b: this comparison "
            "has no power."
        )
    ]
    words = "**random** does **not** lose against rqkmeans: behind in 0 of 4 tests, ahead in 1."
    assert control_sentence(found, "random") == words


def test_a_control_that_loses_some_tests_is_described_accurately(kept):
    verdicts = told("sarq-shuffled", ndcg=["cannot tell here"] * 2, recall=["holds"] * 2)
    found = compared(kept, verdicts)
    assert caveats(found) == [
        "**sarq-shuffled** does not lose to sarq by nDCG@10 on a and b (it loses the other 2 of 4 "
        "tests): there this comparison of sarq with its control has no power."
    ]
    words = "**sarq-shuffled** loses **in part** against sarq: behind in 2 of 4 tests."
    assert control_sentence(found, "sarq-shuffled") == words
    found = compared(kept, told("random", ndcg=["holds", "cannot tell here"]))
    assert caveats(found)[0].startswith(
        "**random** does not lose to rqkmeans by nDCG@10 on b (it loses the other 1 of"
    )


def test_failed_methods_are_caveats_and_their_controls_are_untested(kept):
    broken = {"failed": "sid", "failed_seed": 0, "error": "out of\nmemory", "equal": False}
    found = compared(kept, {}, sarq=broken, random={"equal": False})
    assert caveats(found) == [
        "**sarq failed** at `sid` (seed 0) and is in no table and no test: out of memory"
    ]
    for control, method in (("sarq-shuffled", "sarq"), ("random", "rqkmeans")):
        words = (
            f"**{control}** is not tested: it or {method} has no figures or missed the code budget."
        )
        assert control_sentence(found, control) == words


# ---------------------------------------------------------------------- beams


@pytest.mark.parametrize("sids", [table(), mixed_table()], ids=["fixed", "mixed"])
def test_widths_are_expanded_as_by_hand(sids, cqsid):
    catalogue = toy.catalogue()
    index = PrefixIndex.build(sids, np.arange(64.0))
    retriever = Retriever(SidLM.build(TINY, sids, seed=1), index, sids, catalogue)
    prompts = [Prompt("steel water bottle"), Prompt("linen towel", history=(3,))]
    wanted = [{5, 9, 40}, {63}]
    qrels = {
        f"q{i}": {catalogue.item_ids[row]: 1.0 for row in rows} for i, rows in enumerate(wanted)
    }
    truth = Truth.of_catalogue(qrels, ["q0", "q1"], catalogue, 0.0)
    hits = cqsid.hit_rates(retriever, index, truth, prompts)
    for width in (1, 5, 10):
        beams = retriever.beams(prompts, width)
        for query, rows in enumerate(wanted):
            items = [
                int(row)
                for sid in beams.sids[query]
                if sid >= 0
                for row in index.rows[index.rows_start[sid] : index.rows_start[sid + 1]]
            ]
            assert hits[f"items@{width}"][query] == len(items)
            assert hits[f"hit@{width}"][query] == bool(rows & set(items))
    assert cqsid.truncation_beam(index) == len(index)  # a toy holds fewer than 1,000 items


def test_prompts_are_bared_only_where_there_is_something_to_take_away(cqsid):
    bare, whole = Prompt("a"), Prompt("a", history=(1,), profile="age 30")
    assert cqsid.prompts_by_mode([bare]) == {"semantic": [bare]}
    assert cqsid.prompts_by_mode([whole]) == {"personalised": [whole], "semantic": [bare]}
    assert set(cqsid.prompts_by_mode([Prompt("", history=(1,))])) == {"personalised"}


def test_the_replication_of_cqsid_is_the_page_of_its_results(cqsid):
    folder = ROOT / "experiments/tokenizers"
    kept = json.loads((folder.parent / "results/cqsid.json").read_text())
    assert (folder / "cqsid.md").read_text() == cqsid.page(kept)


# ---------------------------------------------------------------------- the page


def test_results_are_the_same_after_json(kept):
    again = Results.from_json(json.loads(json.dumps(kept.to_json())))
    assert again == kept
    assert again.to_json()["leaders"]["sets"]["judged_test"]["with"] == [
        "rqkmeans",
        "rqvae",
        "cqsid",
        "sarq",
    ]
    unknown = replace(kept, latency=None, tests=[replace(kept.tests[0], detectable=float("nan"))])
    assert unknown.to_json()["tests"][0]["detectable"] is None
    assert Results.from_json(unknown.to_json()).latency is None


def test_results_of_older_versions_are_read(kept):
    assert (kept.version, kept.beam, kept.latency.beam) == (1, 256, 100)
    assert kept.latency.ms["sarq"] == 39.5944
    assert "SIDs expand in beam order" in make_page(kept).markdown
    value = json.loads((ROOT / "experiments/results/bakeoff.json").read_text())
    later = Results.from_json(value | {"beams": {"beam": 500, "widths": [1]}, "decoding": {}})
    assert (later.version, later.beam, later.latency) == (2, 500, None)
    assert "an item scores log π(SID)" in make_page(later).markdown


def test_figures_of_the_page_are_those_of_the_results(kept):
    text = make_page(kept).markdown
    random = kept.sets["day8-clicks"].systems["random"]["item/recall@100"]
    assert estimate(random) == ".311 *.253–.371*"
    assert f"| {estimate(random)} |" in text
    assert estimate(Estimate(None, None, None, 0)) == ""
    assert "| rqvae | .381 ▼ *.346–.411* |" in text  # significantly worse than the reference
    assert (
        "| cqsid | .351 ▼ *.319–.382* | .259 *.239–.280* | **.877** *.853–.900* | **.951** ▲ "
        "*.924–.974* |"
    ) in text
    # nothing that the tests could have missed
    assert "| grounded_test | rqkmeans | 0.416 | rqkmeans | – |" in text
    assert "| 3.12 | 79 | 189 | 293 | 39.2 |" in text


def test_what_was_not_measured_is_left_out_of_the_page(kept):
    text = make_page(
        replace(kept, latency=None, methods={"rqkmeans": kept.methods["rqkmeans"]}, tests=[])
    ).markdown
    assert "ms per query*:" not in text
    assert "No control took part." in text
    assert "Randomisation tests" not in text
