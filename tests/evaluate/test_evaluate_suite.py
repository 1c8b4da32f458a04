import dataclasses
import html.parser
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from sidar.artifacts import write_artifact
from sidar.baselines import Bm25, Popularity, SidSystem, tune_fusion
from sidar.config import Config
from sidar.data import toy
from sidar.data.training.priors import Priors
from sidar.evaluate import GroupRanking, Truth, evaluate, expected_scores, read_trec
from sidar.evaluate.claims import pairs
from sidar.evaluate.measures.metrics import objective
from sidar.evaluate.perquery import PerQuery
from sidar.evaluate.scorer import TOPIC_ORACLE, Scorer, relevance_threshold
from sidar.evaluate.slices import order_by_hash
from sidar.evaluate.suite import run_suite
from sidar.evaluate.systems import (
    TextSystem,
    default_fusions,
    fusion_parts,
    is_generative,
)
from sidar.evaluate.table import (
    MANY,
    check_table,
    print_table,
    print_verdicts,
    read_scores,
    to_markdown,
)
from sidar.index import PrefixIndex
from sidar.types import EvalSet, Hits, Prompt, SemanticIds


class ShelfModel(SidSystem):
    """A generative system without a language model: ranks SIDs by the words that their items share
    with the query.
    """

    def __init__(self, name, catalogue, index, noise):
        self.name, self.index = name, index
        titles = [set(title.lower().split()) for title in catalogue.column("title")]
        members = [
            index.rows[index.rows_start[s] : index.rows_start[s + 1]] for s in range(index.n_sids)
        ]
        self.words = [set().union(*(titles[row] for row in rows)) for rows in members]
        self.noise = np.random.default_rng(5).random(index.n_sids) * noise

    def sid_ranking(self, prompts, beam):
        scores = (
            np.array([[len(w & set(p.query.lower().split())) for w in self.words] for p in prompts])
            + self.noise
        )
        order = np.argsort(-scores, axis=1, kind="stable")[:, :beam]
        return order, np.take_along_axis(scores, order, axis=1)

    def hits(self, prompts, k):
        order, scores = self.sid_ranking(prompts, 40)
        rows, source = self.index.expand_with_source(order, k)
        found = np.take_along_axis(scores, np.maximum(source, 0), axis=1)
        return Hits(rows, np.where(rows >= 0, found, -np.inf).astype(np.float32))

    def invalid(self, prompts, seconds=float("inf")):
        ones = np.ones(len(prompts))
        return {
            "invalid_mass": 0.1 * ones,
            "free_invalid@10": 0.2 * ones,
            "free_not_code@10": 0 * ones,
        }


def toy_priors():
    clicks = np.where(np.arange(64) % 8 == 7, 0, np.arange(64)[::-1])
    return Priors(clicks, clicks, 0 * clicks, 0 * clicks, np.ones(64, dtype=np.int32))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    catalogue, priors = toy.catalogue(), toy_priors()
    codes = np.array([[row // 8, row % 3] for row in range(64)], dtype=np.int32)
    index = PrefixIndex.build(SemanticIds(codes, np.full(64, 2, np.int32), (8, 4)), priors.prior)
    judged = dataclasses.replace(toy.judged("test"), name="judged", origin="real")
    made = EvalSet(
        "grounded",
        judged.query_ids,
        judged.prompts,
        {
            q: {item: 0.5 * (grade > 0) for item, grade in each.items()}
            for q, each in judged.qrels.items()
        },
        "simulated",
        {"query": np.array(["seen", "unseen"] * (len(judged) // 2))},
    )
    systems = {
        "bm25": TextSystem("bm25", Bm25(catalogue)),
        "dense": TextSystem("dense", Popularity(np.arange(64.0))),
        "sft": ShelfModel("sft", catalogue, index, noise=1.5),
        "raddpo": ShelfModel("raddpo", catalogue, index, noise=0.1),
    }
    cfg = Config(name="toy", runs=str(folder))
    cfg.evaluate.bootstrap, cfg.evaluate.invalid_queries, cfg.evaluate.depth = 200, 3, 50
    cfg.decode.beam = 16
    (folder / "toy" / "sft").mkdir(parents=True)
    log = [
        {"kind": kind, "step": s, "loss": 1 / s, "weight": 1.0}
        for s in range(1, 5)
        for kind in ("train", "valid")
    ]
    (folder / "toy" / "sft" / "log.jsonl").write_text(
        "\n".join(map(json.dumps, log)) + '\n{"kind": "tr'
    )
    with write_artifact(
        folder / "toy" / "sid", "sid", config={}, inputs={"embed": "ab" * 32}
    ) as draft:
        (draft.path / "quality.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        draft.shapes["items"] = 64
    out = folder / "toy" / "evaluate"
    out.mkdir()
    scores = run_suite(
        systems, [judged, made], catalogue, priors, index, out=out, cfg=cfg,
        tune_sets=[toy.judged("valid")],
        topic_oracle=[judged.name],
    )  # fmt: skip
    return {
        **{
            "out": out,
            "scores": scores,
            "systems": systems,
            "catalogue": catalogue,
            "index": index,
        },
        **{"judged": judged, "grounded": made},
    }


def test_every_file_is_there_and_scores_are_what_was_returned(world):
    out = world["out"]
    assert {p.name for p in out.iterdir()} == {
        "runs", "per_query.parquet", "queries.parquet", "scores.json", "table.md", "report.html",
    }  # fmt: skip
    assert read_scores(out) == json.loads(json.dumps(world["scores"]))
    # four systems and three fusions on two sets
    assert len(list((out / "runs").iterdir())) == 2 * 7


def test_the_table_equals_the_public_verb_on_the_run_files(world):
    for eval_set in (world["judged"], world["grounded"]):
        facts = world["scores"]["sets"][eval_set.name]
        for system in ("bm25", "raddpo", "bm25+dense+sft"):
            run = read_trec(world["out"] / "runs" / f"{eval_set.name}.{system}.trec")
            measures = ["ndcg@10", "rprec", "recall@10", "mrr", "hit@10"]
            again = evaluate(
                eval_set.qrels,
                run,
                measures,
                query_ids=eval_set.query_ids,
                relevant=relevance_threshold(eval_set),
            )
            for measure in measures:
                cell = facts["systems"][system][f"item/{measure}"]
                assert cell["mean"] == pytest.approx(again[measure].mean(), abs=1e-9)
                assert cell["low"] - 1e-12 <= cell["mean"] <= cell["high"] + 1e-12


def test_thresholds_follow_the_kind_of_set(world):
    assert relevance_threshold(world["judged"]) == 1.0
    assert relevance_threshold(world["grounded"]) == 0.0


def test_the_table_can_be_made_again_and_a_touched_number_is_found(world, tmp_path):
    out = world["out"]
    assert check_table(out) > 300
    for name in ("per_query.parquet", "queries.parquet", "table.md"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    scores = read_scores(out)
    scores["sets"][world["judged"].name]["systems"]["sft"]["item/mrr"]["mean"] += 0.001
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    with pytest.raises(ValueError, match="sft, item/mrr: the table says"):
        check_table(tmp_path)
    (tmp_path / "scores.json").write_bytes((out / "scores.json").read_bytes())
    (tmp_path / "table.md").write_text("| made up |")
    with pytest.raises(ValueError, match=r"table\.md was not made"):
        check_table(tmp_path)


def test_per_query_file_is_long_and_reads_back(world):
    table = pq.read_table(world["out"] / "per_query.parquet")
    assert table.column_names == ["set", "system", "measure", "query_id", "value"]
    values = PerQuery.read(world["out"])
    ids, mass = values.get(world["judged"].name, "sft", "invalid/mass")
    assert len(ids) == 3
    assert mass.tolist() == [0.1] * 3
    assert values.get(world["judged"].name, "bm25", "invalid/mass") is None
    with pytest.raises(ValueError, match="3 values for 2 queries"):
        values.add("s", "x", "item", {"mrr": np.zeros(3)}, ["a", "b"])


def test_topic_oracle_is_the_expected_value_on_judged_sets_only(world):
    judged = world["judged"]
    truth = Truth.of_catalogue(judged.qrels, judged.query_ids, world["catalogue"], 1.0)
    want = expected_scores(truth, GroupRanking.of_pool(truth), ["ndcg@10"])["ndcg@10"].mean()
    sets = world["scores"]["sets"]
    assert sets[judged.name]["systems"][TOPIC_ORACLE]["item/ndcg@10"]["mean"] == pytest.approx(want)
    assert TOPIC_ORACLE not in sets["grounded"]["systems"]


def test_sid_level_of_a_baseline_is_its_items_sids_in_order(world):
    index, judged = world["index"], world["judged"]
    run = read_trec(world["out"] / "runs" / f"{judged.name}.bm25.trec")
    numbers = {}
    for sid in range(index.n_sids):
        for row in index.rows[index.rows_start[sid] : index.rows_start[sid + 1]]:
            numbers[world["catalogue"].item_ids[row]] = f"s{sid}"
    sid_run = {
        q: [
            (s, -float(i)) for i, s in enumerate(dict.fromkeys(numbers[item] for item, _ in found))
        ][:16]
        for q, found in run.items()
    }
    sid_qrels = {}
    for q, each in judged.qrels.items():
        for item, grade in each.items():
            best = sid_qrels.setdefault(q, {})
            best[numbers[item]] = max(best.get(numbers[item], 0), grade)
    again = evaluate(sid_qrels, sid_run, ["mrr", "recall@8"], query_ids=judged.query_ids)
    cells = world["scores"]["sets"][judged.name]["systems"]["bm25"]
    assert cells["sid/mrr"]["mean"] == pytest.approx(again["mrr"].mean())
    assert cells["sid/recall@8"]["mean"] == pytest.approx(again["recall@8"].mean())


def test_claims_compare_what_must_be_compared(world):
    tests = world["scores"]["tests"]
    asked = {(t["question"], t["a"], t["b"]) for t in tests}
    assert ("Does alignment improve on SFT?", "raddpo", "sft") in asked
    assert (
        "Does the generative channel improve the fusion?",
        "bm25+dense+raddpo",
        "bm25+dense",
    ) in asked
    assert {t["verdict"] for t in tests} <= {"holds", "does not hold", "cannot tell here"}
    one = next(
        t for t in tests if (t["a"], t["b"], t["measure"]) == ("raddpo", "sft", "item/ndcg@10")
    )
    cells = world["scores"]["sets"][one["set"]]["systems"]
    assert one["effect"] == pytest.approx(
        cells["raddpo"]["item/ndcg@10"]["mean"] - cells["sft"]["item/ndcg@10"]["mean"]
    )
    ladder = pairs(["sft", "sft-continued", "raddpo"], {})
    assert ladder["Does alignment improve on SFT?"] == [("sft-continued", "sft"), ("raddpo", "sft")]
    assert [("raddpo", "sft-continued")] in ladder.values()
    assert pairs(["other"], {}) == {
        "Is the generative channel better than zero-shot dense retrieval?": [("other", "dense")],
        "Is the generative channel better than dense retrieval tuned on the same rows?": [
            ("other", "dense-tuned")
        ],
    }


def test_the_invalid_mass_of_a_model_that_knows_nothing_stands_beside_the_others(world):
    density = world["index"].n_sids / (8 * 4)
    assert world["scores"]["sid_usage"]["density"] == pytest.approx(density)
    assert f"a uniform model has {1 - density:.4f}" in (world["out"] / "report.html").read_text()


def test_slices_and_coverage(world):
    facts = world["scores"]["sets"]["grounded"]
    assert set(facts["slices"]) == {"items", "query"}
    assert facts["slices"]["query"]["seen"]["n"] == len(world["grounded"]) // 2
    values = PerQuery.read(world["out"]).get("grounded", "sft", "item/ndcg@10")[1]
    assert facts["slices"]["query"]["seen"]["systems"]["sft"]["item/ndcg@10"] == pytest.approx(
        values[::2].mean()
    )
    assert "cold" in facts["slices"]["items"]
    kinds = {
        label: each["systems"]["sft"]["items/returned"]
        for label, each in facts["slices"]["items"].items()
    }
    assert sum(kinds.values()) == pytest.approx(facts["systems"]["sft"]["items/returned"]["mean"])
    assert 0 < facts["coverage"]["sft"]["@10"] <= 1


def tuned_by_hand(systems, parts, eval_set, catalogue):
    """Method, weights and value that a fusion of ``parts`` gets on the first 64 queries of one set,
    by hash.
    """
    at = np.sort(order_by_hash(eval_set.query_ids)[:64])
    ids, prompts = ([part[q] for q in at] for part in (eval_set.query_ids, eval_set.prompts))
    small = EvalSet("some", tuple(ids), tuple(prompts), eval_set.qrels, eval_set.origin)
    channels = [systems[part].hits(prompts, 50) for part in parts]
    found = tune_fusion([(channels, objective(small, catalogue, "ndcg@10"))], k=10)
    return {
        "method": found.method,
        "weights": list(found.weights),
        "value": found.value,
        "tuned": True,
    }


def test_fusions_are_tuned_on_the_valid_sets(world):
    valid = toy.judged("valid")
    on_tests = 0
    for name in ("bm25+dense", "bm25+dense+sft", "bm25+dense+raddpo"):
        fact = world["scores"]["fusions"][name]
        assert fact["parts"] == tuple(name.split("+"))
        want = tuned_by_hand(world["systems"], fact["parts"], valid, world["catalogue"])
        assert set(fact["sets"]) == {"judged", "grounded"}
        for test_set, got in fact["sets"].items():
            assert got == {**want, "value": pytest.approx(want["value"])}
            there = tuned_by_hand(
                world["systems"], fact["parts"], world[test_set], world["catalogue"]
            )
            on_tests += there["weights"] != got["weights"]
    assert on_tests  # the test sets would have chosen others


class Checker(html.parser.HTMLParser):
    void = frozenset(
        {"meta", "img", "br", "wbr", "line", "circle", "rect", "polyline", "link", "input"}
    )

    def __init__(self):
        super().__init__()
        self.stack, self.links, self.ids = [], [], set()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        self.links += [v for k, v in attrs.items() if k in ("href", "src") and v]
        if tag not in self.void:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.stack.pop() == tag, f"</{tag}> closes another tag at {self.getpos()}"


def test_the_report_is_one_well_formed_file_that_loads_nothing(world):
    text = (world["out"] / "report.html").read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.stack == []
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in checker.links)
    assert {link[1:] for link in checker.links if link.startswith("#")} <= checker.ids
    assert "http" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.S)
    assert "SIMULATED" in text
    assert "1 more scalars" in text
    assert text.count("<svg ") == text.count('<svg role="img" aria-label="') > 8
    assert '<svg role="img" aria-label="nDCG@10 (items), mean and 95 % interval"' in text
    for system in ("bm25+dense+raddpo", TOPIC_ORACLE):
        assert system in text


def test_markdown_and_console_show_every_system(world):
    text = to_markdown(world["scores"])
    console = Console(width=160)
    with console.capture() as captured:
        print_table(world["out"], console)
    for system in ("bm25", "sft", "bm25+dense+raddpo"):
        assert f"| {system} |" in text
        assert system in captured.get()
    assert "SIMULATED traffic" in text


def test_every_markdown_table_has_a_separator_as_wide_as_its_header(world):
    lines = to_markdown(world["scores"]).splitlines()
    heads = [
        at
        for at, line in enumerate(lines)
        if line.startswith("|") and not lines[at - 1].startswith("|")
    ]
    assert len(heads) > 4
    for at in heads:
        assert set(lines[at + 1]) == {"|", "-"}
        assert lines[at + 1].count("|") == lines[at].count("|") == lines[at + 2].count("|")


def test_of_many_rows_only_the_count_and_those_that_are_worse_are_printed():
    test = {
        "set": "log",
        "question": MANY[0],
        "measure": "item/ndcg@10",
        "a": "answer",
        "effect": 0.1,
    }
    test |= {"low": 0.0, "high": 0.2, "p_holm": 0.01, "detectable": 0.1}
    rows = {
        "bm25": "holds",
        "dense-tuned": "does not hold",
        "memory": "cannot tell here",
        "sft": "holds",
    }
    tests = [{**test, "b": name, "verdict": verdict} for name, verdict in rows.items()]
    tests += [{**tests[0], "measure": "sid/mrr", "b": "raddpo"}]
    console = Console(width=200)
    with console.capture() as captured:
        print_verdicts({"tests": tests}, console)
    _, counts, *worse = captured.get().splitlines()
    assert (
        "each of 4 other rows, item/ndcg@10: better than 2, worse than 1, cannot tell 1" in counts
    )
    assert [line.split("  ")[1] for line in worse] == ["answer − dense-tuned"]


def test_relevant_items_that_no_sid_reaches_are_counted():
    catalogue = toy.catalogue()
    codes = np.array([[row // 8, row % 3] for row in range(64)], dtype=np.int32)
    # item 1 has no SID, item 0 has the first one
    lengths = np.where(np.arange(64) == 1, 0, 2).astype(np.int32)
    index = PrefixIndex.build(
        SemanticIds(np.where(lengths[:, None] > 0, codes, -1), lengths, (8, 4))
    )
    judged = {
        catalogue.item_ids[0]: 1.0,
        catalogue.item_ids[1]: 1.0,
        catalogue.item_ids[2]: 0.0,
        "gone": 1.0,
    }
    small = EvalSet("s", ("q",), (Prompt("q"),), {"q": judged})
    facts = Scorer(catalogue, toy_priors(), index, Config()).open(small).facts
    assert facts["items_without_sid"] == 2


def test_fusion_names_are_read_longest_first():
    systems = ["bm25", "dense", "sft", "dpo", "dpo+sft"]
    assert fusion_parts("bm25+dense+dpo+sft", systems) == ("bm25", "dense", "dpo+sft")
    assert fusion_parts("dpo+sft", systems) is None
    assert fusion_parts("bm25+stranger", systems) is None
    assert default_fusions(["bm25", "sft"], ["sft"]) == {"bm25+sft": ("bm25", "sft")}
    assert list(default_fusions(["bm25", "dense", "dense-tuned", "sft"], ["sft"])) == [
        *("bm25+dense", "bm25+dense+sft"),
        *("bm25+dense-tuned", "bm25+dense-tuned+sft"),
    ]
    assert list(default_fusions(["bm25", "dense-tuned", "sft"], ["sft"])) == [
        "bm25+dense-tuned",
        "bm25+dense-tuned+sft",
    ]
    # a plug-in's channel is added to the baselines, as a model is
    assert list(default_fusions(["bm25", "dense", "mine", "sft"], ["sft"], ["mine"])) == [
        *("bm25+dense", "bm25+dense+mine", "bm25+dense+sft"),
    ]
    fusions = {"bm25+dense": ("bm25", "dense"), "bm25+dense+mine": ("bm25", "dense", "mine")}
    asked = pairs([], fusions, channels=["mine"])["Does a channel of your own improve the fusion?"]
    assert asked == [("bm25+dense+mine", "bm25+dense")]


def test_a_baseline_may_rank_sids_without_being_a_model(world):
    """Its SID columns come from its own order, which goes deeper than the SIDs of the items that
    fit a list.
    """
    cfg = Config.model_validate({"evaluate": {"bootstrap": 20, "depth": 4}})
    index, model = world["index"], ShelfModel("sft", world["catalogue"], world["index"], 0.3)
    twin = ShelfModel("quantised-dense", world["catalogue"], world["index"], 0.3)
    twin.kind = "baseline"
    assert (is_generative(model), is_generative(twin)) == (True, False)
    out = world["out"].with_name("twin")
    scores = run_suite(
        {"sft": model, "quantised-dense": twin},
        [world["judged"]],
        world["catalogue"],
        toy_priors(),
        index,
        out=out,
        cfg=cfg,
    )
    assert scores["kinds"]["quantised-dense"] == "baseline"
    assert scores["fusions"] == {}
    [facts] = scores["sets"].values()
    cells = facts["systems"]
    assert (
        cells["sft"]["sid/recall@64"]["mean"]
        == cells["quantised-dense"]["sid/recall@64"]["mean"]
        > 0
    )
    assert "expected/ndcg@10" in cells["quantised-dense"]
    assert all("quantised-dense" not in (test["a"], test["b"]) for test in scores["tests"])


def test_configured_systems_and_missing_pieces_are_named(world, tmp_path):
    cfg = Config.model_validate(
        yaml.safe_load("evaluate: {systems: [bm25, bm25+nothing], bootstrap: 20}")
    )
    systems = {"bm25": TextSystem("bm25", Bm25(world["catalogue"]))}
    with pytest.raises(ValueError, match=r"names bm25\+nothing"):
        run_suite(
            systems, [world["judged"]], world["catalogue"], toy_priors(), out=tmp_path, cfg=cfg
        )
    with pytest.raises(ValueError, match="nothing to score"):
        run_suite(systems, [], world["catalogue"], toy_priors(), out=tmp_path, cfg=Config())
    with pytest.raises(ValueError, match="sidar evaluate"):
        check_table(tmp_path)


def test_runs_without_sids_models_or_valid_sets(world, tmp_path):
    cfg = Config(name="x", runs=str(tmp_path))
    cfg.evaluate.bootstrap = 20
    channel = TextSystem("bm25", Bm25(world["catalogue"]))
    systems = {"bm25": channel, "dense": TextSystem("dense", Popularity(np.arange(64.0)))}
    scores = run_suite(
        systems, [world["judged"]], world["catalogue"], toy_priors(), out=tmp_path, cfg=cfg
    )
    [facts] = scores["sets"].values()
    assert not any(m.startswith("sid/") for m in facts["systems"]["bm25"])
    assert scores["fusions"]["bm25+dense"]["sets"][world["judged"].name]["tuned"] is False
    assert check_table(tmp_path) > 0
