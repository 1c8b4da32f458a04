"""Parts of the bake-off by hand: widths, tests, the sentence, the page's blocks."""

import numpy as np
import pytest
from shop import TINY, mixed_table, table

from sidar.data import toy
from sidar.decode import beam_search
from sidar.evaluate.document import Fold, Page, Picture, Section, Table, Text, Value, to_html, to_markdown
from sidar.evaluate.perquery import PerQuery
from sidar.evaluate.truth import Truth
from sidar.index import PrefixIndex
from sidar.lm import SidLM
from sidar.lm.scorer import LmScorer
from sidar.pipeline.bakeoff import page_cqsid, page_tail, verdict
from sidar.pipeline.bakeoff.caveats import caveats
from sidar.pipeline.bakeoff.claims import Pair, ask
from sidar.pipeline.bakeoff.latency import Counted, beams_for_equal_recall
from sidar.pipeline.bakeoff.page_ids import hourglass
from sidar.pipeline.bakeoff.page_tail import spearman
from sidar.pipeline.bakeoff.stack import add_labelled, stacked
from sidar.pipeline.bakeoff.sweep import modes, sweep, truncated, truncation_beam, width_at
from sidar.retriever import Retriever
from sidar.types import Prompt

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
KEPT = {"seeds": 1, "seed": 0, "samples": 50}


def sentence(values, names, figures=None):
    found = verdict.leaders(values, CLUSTERS, names, **KEPT)
    return found, verdict.sentence(found, figures or {name: {} for name in names}, ["x", "y", "z"], "x")


def test_one_leader_everywhere_is_the_best_and_says_what_goes_along():
    figures = {"x": {"quantised": 0.5, "collision_rate": 0.1}, "y": {"quantised": 0.7, "collision_rate": 0.3}}
    found, said = sentence(per_query({"x": 0.3, "y": 0.5}, sets=("a", "b")), ["x", "y"], figures)
    assert found["kind"] == "best"
    assert said.startswith("**y is best for this catalogue**")
    assert "recall@100 of the nearest SIDs by vector alone (0.700, x 0.500)" in said
    assert "share of items" not in said  # points the other way


def test_methods_that_are_not_told_apart_leave_the_question_open():
    found, said = sentence(per_query({"x": 0.5, "y": 0.5, "z": 0.2}), ["x", "y", "z"])
    assert (found["kind"], found["everywhere"]) == ("cannot tell", ["x", "y"])
    assert said.startswith("**Cannot tell which is best**: x and y")
    assert "leave z behind" in said
    assert said.endswith("The plainest of those that are not told apart is x.")
    assert 0 < found["sets"]["a"]["detectable"] < 0.05


def test_different_leaders_mean_that_it_depends():
    values = per_query({"x": 0.3, "y": 0.5})
    other = per_query({"x": 0.5, "y": 0.3}, sets=("b",))
    for name in ("x", "y"):
        ids, found = other.get("b", name, "item/ndcg@10")
        values.add("b", name, "item", {"ndcg@10": found}, ids)
    found, said = sentence(values, ["x", "y"])
    assert found["kind"] == "depends"
    assert "y on a; x on b" in said


def test_less_is_better_where_it_is():
    values = per_query({"x": 0.3, "y": 0.5}, "invalid/mass")
    better, worse = (ask(values, CLUSTERS, "?", [[Pair(a, b, "invalid/mass")]])[0] for a, b in (("x", "y"), ("y", "x")))
    assert better["effect"] < 0
    assert (better["verdict"], worse["verdict"]) == ("holds", "does not hold")


def test_pairs_across_measures_and_pairs_without_values():
    values = per_query({"x": 0.3}, "beam/semantic/hit@5")
    ids = [f"q{i}" for i in range(N)]
    values.add("a", "y", "beam/semantic", {"hit@10": np.full(N, 0.2)}, ids)
    families = [[Pair("x", "y", "beam/semantic/hit@5", "beam/semantic/hit@10"), Pair("x", "none", "item/mrr")]]
    rows = ask(values, CLUSTERS, "?", families)
    assert len(rows) == 1
    assert rows[0]["effect"] == pytest.approx(0.1, abs=0.02)


def test_holm_runs_over_the_family_of_one_set():
    values = per_query({"x": 0.50, "y": 0.507, "z": 0.507}, seed=3)
    alone = ask(values, CLUSTERS, "?", [[Pair("y", "x", "item/ndcg@10")]])[0]
    family = ask(values, CLUSTERS, "?", [[Pair(name, "x", "item/ndcg@10") for name in ("y", "z")]])
    assert family[0]["p"] == alone["p"]
    assert family[0]["p_holm"] >= alone["p_holm"]


def test_seeds_are_stacked_per_query_and_labels_cut_out():
    values, ids = PerQuery(), ["q0", "q1"]
    for seed, some in enumerate(([0.0, 1.0], [0.5, 0.5])):
        values.add("a", f"x#{seed}", "item", {"ndcg@10": np.array(some)}, ids)
    values.add("a", "x#0", "item", {"mrr": np.zeros(2)}, ids)  # the other seed lacks it
    both = stacked(values, ["x"], [0, 1])
    assert both.get("a", "x", "item/mrr") is None
    found = both.get("a", "x", "item/ndcg@10")
    assert found[0] == ("q0", "q1", "q0", "q1")
    assert found[1].tolist() == [0, 1, 0.5, 0.5]
    labels = [
        {"set": "a", "query_id": q, "labels": f'{{"query": "{label}"}}'}
        for q, label in zip(ids, ("seen", "unseen"), strict=True)
    ]
    add_labelled(both, labels)
    assert both.get("a", "x", "item/ndcg@10[seen]")[1].tolist() == [0, 0.5]
    assert both.get("a", "x", "item/ndcg@10[unseen]")[1].tolist() == [1, 0.5]


# ---------------------------------------------------------------------- caveats


def compared(verdicts, **methods):
    """Results with the tests {(control, set, measure): verdict}; ``methods``: what is known of each but its control."""
    of = {"random": "rqkmeans", "sarq-shuffled": "sarq"}
    names = ["rqkmeans", "sarq", *of]
    known = {name: {"must_lose_to": of.get(name, ""), "equal": True} | methods.get(name, {}) for name in names}
    cell = {"effect": 0.0, "low": 0.0, "high": 0.0, "p_holm": 1.0, "detectable": 0.1, "agree": 1, "other": ""}
    tests = [
        {"question": "controls", "a": of[b], "b": b, "set": each, "measure": f"item/{m}", "verdict": said, **cell}
        for (b, each, m), said in verdicts.items()
    ]
    return {"reference": "rqkmeans", "methods": known, "tests": tests, "seeds": [0]}


def told(control, **by_measure):
    """Verdicts of a control on the sets a and b, by measure."""
    names = {"ndcg": "ndcg@10", "recall": "recall@100"}
    return {
        (control, each, names[m]): said for m, both in by_measure.items() for each, said in zip("ab", both, strict=True)
    }


def test_controls_that_lose_leave_no_caveat():
    lost = ["holds", "holds"]
    found = compared(told("random", ndcg=lost, recall=lost) | told("sarq-shuffled", ndcg=lost, recall=lost))
    assert caveats(found) == []


def test_a_control_that_does_not_lose_is_said():
    found = compared(told("random", ndcg=["cannot tell here"] * 2, recall=["cannot tell here", "does not hold"]))
    assert caveats(found) == [
        "**random** does not lose to rqkmeans by nDCG@10 and R@100 on a and b: this comparison has no power."
    ]


def test_a_control_that_loses_some_tests_is_said_accurately():
    found = compared(told("sarq-shuffled", ndcg=["cannot tell here"] * 2, recall=["holds"] * 2))
    assert caveats(found) == [
        "**sarq-shuffled** does not lose to sarq by nDCG@10 on a and b (it loses the other 2 of 4 tests): there this "
        "comparison of sarq with its control has no power."
    ]
    text = to_markdown(Page("x", [], {}, [page_tail.controls(found)]))
    assert "**sarq-shuffled** loses **in part** against sarq: behind in 2 of 4 tests." in text
    found = compared(told("random", ndcg=["holds", "cannot tell here"]))
    assert caveats(found)[0].startswith("**random** does not lose to rqkmeans by nDCG@10 on b (it loses the other 1 of")


def test_failed_methods_are_named_and_are_not_said_to_be_absent():
    broken = {"failed": "sid", "failed_seed": 0, "error": "out of\nmemory", "equal": False}
    found = compared({}, sarq=broken, random={"equal": False})
    assert caveats(found) == ["**sarq failed** at `sid` (seed 0) and is in no table and no test: out of memory"]
    text = to_markdown(Page("x", [], {}, [page_tail.controls(found)]))
    assert "**sarq-shuffled** is not tested: sarq failed." in text
    assert "**random** is not tested: random missed the code budget." in text
    found["methods"] |= {"cqsid": broken}
    text = to_markdown(Page("x", [], {}, [page_cqsid.section(found)]))
    assert "Not compared: rqvae took no part and cqsid failed." in text
    found["methods"] |= {"sarq+acrq": broken}
    assert "Not compared: sarq+acrq failed." in to_markdown(Page("x", [], {}, [page_tail.section(found)]))


# ---------------------------------------------------------------------- beams


@pytest.mark.parametrize("sids", [table(), mixed_table()], ids=["fixed", "mixed"])
def test_widths_are_expanded_as_by_hand(sids):
    catalogue = toy.catalogue()
    index = PrefixIndex.build(sids, np.arange(64.0))
    retriever = Retriever(SidLM.build(TINY, sids, seed=1), index, sids, catalogue)
    prompts = [Prompt("steel water bottle"), Prompt("linen towel", history=(3,))]
    wanted = [{5, 9, 40}, {63}]
    qrels = {f"q{i}": {catalogue.item_ids[row]: 1.0 for row in rows} for i, rows in enumerate(wanted)}
    truth = Truth.of_catalogue(qrels, ["q0", "q1"], catalogue, 0.0)
    found = sweep(retriever, index, truth, prompts)
    for width in (1, 5, 10, 25):
        beams = retriever.beams(prompts, width)
        for query, rows in enumerate(wanted):
            items = [
                int(row)
                for sid in beams.sids[query]
                if sid >= 0
                for row in index.rows[index.rows_start[sid] : index.rows_start[sid + 1]]
            ]
            assert found[f"items@{width}"][query] == len(items)
            assert found[f"hit@{width}"][query] == bool(rows & set(items))
            assert found[f"recall@{width}"][query] == pytest.approx(len(rows & set(items[:100])) / len(rows))
    assert truncation_beam(index) == len(index)  # a toy holds fewer than 1,000 items
    everything = truncated(retriever, index, truth, prompts, len(index))
    assert everything["hit"].tolist() == [1, 1]
    assert everything["items"].tolist() == [64, 64]
    assert everything["sids"].tolist() == [len(index)] * 2


def test_prompts_are_bared_only_where_there_is_something_to_take_away():
    bare, whole = Prompt("a"), Prompt("a", history=(1,), profile="age 30")
    assert modes([bare]) == {"semantic": [bare]}
    assert modes([whole]) == {"personalised": [whole], "semantic": [bare]}


def test_the_width_for_a_recall_is_read_off_the_curve():
    curve = {1: 0.1, 10: 0.4, 100: 0.6}
    assert width_at(curve, 0.05) == 1
    assert width_at(curve, 0.4) == pytest.approx(10)
    assert width_at(curve, 0.5) == pytest.approx(10**1.5)
    assert width_at(curve, 0.7) == float("inf")


def test_equal_recall_is_the_references_and_a_method_that_never_gets_there_has_none():
    values, ids = PerQuery(), [f"q{i}" for i in range(N)]
    curves = {"x": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), "y": (0.4, 0.5, 0.6, 0.7, 0.7, 0.7, 0.7), "z": (0.1,) * 7}
    for name, curve in curves.items():
        for width, mean in zip((1, 5, 10, 25, 50, 100, 200), curve, strict=True):
            values.add("a", name, "beam/semantic", {f"recall@{width}": np.full(N, mean)}, ids)
    found = beams_for_equal_recall(values, CLUSTERS["a"], "a", "semantic", list(curves), "x", samples=20, seed=0)
    assert found["target"] == pytest.approx(0.95 * 0.7)
    assert 100 < found["beams"]["x"]["beam"] < 200
    assert 10 < found["beams"]["y"]["beam"] < 25
    y = found["beams"]["y"]
    assert [y["low"], y["high"]] == pytest.approx([y["beam"]] * 2)  # no query differs from another
    assert found["beams"]["z"]["beam"] is None
    assert beams_for_equal_recall(values, CLUSTERS["a"], "a", "semantic", ["y"], "x", samples=2, seed=0) == {}


def test_a_counted_search_finds_the_same_and_counts_its_steps():
    sids = table()
    index = PrefixIndex.build(sids)
    scorer = LmScorer(SidLM.build(TINY, sids, seed=1))
    counted = Counted(scorer)
    plain, seen = (beam_search(s, [[1, 2, 3]], index, 4) for s in (scorer, counted))
    assert np.array_equal(plain.sids, seen.sids)
    assert (counted.steps, counted.rows) == (2, 8)  # three levels: two extensions of four prefixes


# ---------------------------------------------------------------------- figures and blocks


def test_a_waist_is_an_hourglass_and_noise_is_none():
    def levels(*even):
        return [{"evenness": x} for x in even]

    assert hourglass(levels(0.95, 0.80, 0.95))
    assert not hourglass(levels(0.95, 0.94, 0.95))
    assert not hourglass(levels(0.95, 0.90, 0.80))
    assert not hourglass(levels(0.5, 0.9))


def test_rank_correlation_with_ties():
    assert spearman([(1, 10), (2, 20), (3, 30)]) == pytest.approx(1)
    assert spearman([(1, 3), (2, 2), (3, 1)]) == pytest.approx(-1)
    assert spearman([(1, 1), (1, 2), (2, 3)]) == pytest.approx(0.866, abs=1e-3)  # ranks 1.5 1.5 3 and 1 2 3
    assert np.isnan(spearman([(1, 1), (1, 2)]))


SVG = '<svg viewBox="0 0 10 10" role="img"><line x1="0" x2="1" y1="0" y2="1"/></svg>'


def test_a_page_is_rendered_twice_from_the_same_blocks():
    blocks = [
        Text("see **this** and `that|x`, [there](x.md)"),
        Table(["", "a|b"], [["row<", Value("1.0", "0–2", best=True)], ["x", "holds"]], words=(1,), note="*n*"),
        Fold("more", [Picture(SVG, "a *picture*", "p.svg", [("one", 0), ("two", 12)])]),
    ]
    page = Page("T<", [Text("lead")], {"fact": "1"}, [Section("at", "S", blocks, "simulated")], "me")
    markdown, html = to_markdown(page), to_html(page)
    assert markdown.startswith("<!-- Written by me; do not edit. -->\n# T<\n")
    assert "|  | a\\|b |" in markdown
    assert "| row< | **1.0** 0–2 |" in markdown
    assert "| x | **holds** |" in markdown
    assert "![a picture](images/p.svg)" in markdown
    assert "## 1. S\n\n*SIMULATED*" in markdown
    assert "<h1>T&lt;</h1>" in html
    assert '<span class="mark holds">holds</span>' in html
    assert "<b>1.0</b><small>0–2</small>" in html
    assert '<a href="x.md">there</a>' in html
    (picture,) = page.pictures()
    alone = picture.standalone()
    assert alone.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "var(--c2)" in alone
    assert "stroke-dasharray" in alone  # the twelfth colour is the second one, dashed
    assert "http" not in html.replace("http://www.w3.org", "")
