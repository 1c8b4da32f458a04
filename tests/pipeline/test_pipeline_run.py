"""The whole path on the toy shop, through the command line, as a user walks it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from toy_leaks import words

from sidar import Retriever, pipeline
from sidar.artifacts import open_artifact
from sidar.config import load_config
from sidar.data import open_dataset, toy
from sidar.evaluate.runs import read_trec
from sidar.evaluate.table import check_table
from sidar.pipeline import stages as pipeline_stages
from sidar.pipeline.runtime import folders
from sidar.pipeline.variants import variants
from sidar.sid import load_sids

STAGES = ["data", "embed", "sid", "sft", "align-raddpo", "index", "answer", "bundle", "evaluate"]
SETTINGS = {
    "name": "shop",
    "threads": 1,
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "events.parquet"},
    "users": {"path": "users.parquet"},
    "lm": {
        "layers": 1,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 64,
        "text_embeddings": "random",
    },
    "sft": {"steps": 6, "batch_size": 8, "validate_every": 3, "checkpoint_every": 3},
    "align": {"steps": 4, "batch_size": 4, "validate_every": 2, "checkpoint_every": 2},
    "decode": {"beam": 16},
    "evaluate": {
        "invalid_queries": 2,
        "bootstrap": 50,
        "max_queries": 8,
        "sets": [
            {
                "name": "judged",
                "queries": "judged_test.queries.tsv",
                "qrels": "judged_test.qrels.tsv",
            },
            {
                "name": "dev",
                "queries": "judged_valid.queries.tsv",
                "qrels": "judged_valid.qrels.tsv",
                "role": "valid",
            },
        ],
    },
}


def sidar(*arguments, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "sidar", *map(str, arguments)], capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    toy.write_inputs(folder)
    (folder / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS))
    sidar("run", "-c", folder / "sidar.yaml")
    return folder


def reasons(folder, *overrides):
    cfg = load_config(folder / "sidar.yaml", list(overrides))
    return {step.stage.name: step.reason for step in pipeline.plan(cfg)}


def test_every_stage_leaves_a_whole_artefact(shop):
    for name in STAGES:
        manifest = open_artifact(shop / "runs/shop" / name, name, verify=True)
        assert manifest.code_version
        assert manifest.files
    assert not list((shop / "runs/shop").glob(".*.tmp*"))
    assert not list((shop / "runs/shop").glob(".*.work"))


def test_semantic_prompts_ask_with_the_query_alone(shop, tmp_path):
    """History and profile reach the model, and nobody else, only where the prompts are
    personalised.
    """
    assert [n for n, why in reasons(shop, "evaluate.prompts=semantic").items() if why] == [
        "evaluate"
    ]
    run = shop / "runs/shop"
    cfg = load_config(
        shop / "sidar.yaml", ["evaluate.prompts=semantic", "evaluate.systems=[bm25, sft]"]
    )
    inputs = folders(run, ("data", "embed", "sid", "index", "answer", "sft"))
    pipeline_stages.evaluate(cfg, inputs, tmp_path, tmp_path / "work")
    for system, same in (("bm25", True), ("sft", False)):
        files = [
            folder / "runs" / f"day8-clicks.{system}.trec"
            for folder in (run / "evaluate", tmp_path)
        ]
        assert (files[0].read_bytes() == files[1].read_bytes()) is same


def test_what_is_up_to_date_is_skipped_and_what_is_stale_says_why(shop):
    assert set(reasons(shop).values()) == {None}
    # what null meant
    assert set(reasons(shop, "align.beta=0.5", "align.positives=mean").values()) == {None}
    # cut at packing, not in the data
    for section, first in (("sft", "sft"), ("preference", "align-raddpo")):
        stale = reasons(shop, f"{section}.max_positives=4")
        assert next(name for name, why in stale.items() if why) == first
    stale = reasons(shop, "align.beta=1.5")
    assert stale["align-raddpo"] == "config changed: align.beta"
    assert [name for name, why in stale.items() if why] == [
        "align-raddpo",
        "answer",
        "bundle",
        "evaluate",
    ]
    stale = reasons(shop, "seed=1")
    assert all(stale[name] for name in ("data", "sid", "sft", "evaluate"))
    assert stale["embed"] is None or "runs first" in stale["embed"]


def test_what_is_scored_makes_only_the_evaluation_stale(shop):
    """Another cap, another set, another target: nothing is trained again."""
    shutil.copytree(shop / "runs/shop", shop / "runs/scored")
    log = [f"{request}\t{query}" for request, query in enumerate(list(toy.log_queries())[:9])]
    (shop / "typed.queries.tsv").write_text("\n".join(["query_id\tquery", *log]) + "\n")
    (shop / "typed.qrels.tsv").write_text(
        "query_id\titem_id\tgrade\n" + "".join(f"{n}\tT000\t1\n" for n in range(9))
    )
    typed = "evaluate.sets=[{name: typed, queries: typed.queries.tsv, qrels: typed.qrels.tsv}]"
    options = ["name=scored", "evaluate.systems=[bm25]"]
    for change, names in (
        ("evaluate.max_queries=5", {"judged", "day8-clicks"}),
        (typed, {"typed", "day8-clicks"}),
        ("evaluate.targets=[order]", {"typed", "day8-orders"}),
    ):
        options.append(change)
        cfg = load_config(shop / "sidar.yaml", options)
        reports = pipeline.run(cfg)
        assert list(reports) == ["evaluate"]
        scores = json.loads((cfg.run_dir / "evaluate/scores.json").read_text())
        assert set(scores["sets"]) == names
        assert (
            max(scores["sets"][name]["queries"] for name in names if name.startswith("day8")) <= 5
        )
        assert list(pipeline.run(cfg)) == []
    trained = {words(r.prompt.query) for r in open_dataset(cfg.run_dir / "data").requests("train")}
    seen = sum(words(query) in trained for query in list(toy.log_queries())[:9])
    assert scores["sets"]["typed"]["trained_on"] == seen > 0
    assert f"typed: {seen} of 9" in reports["evaluate"]["summary"]
    assert "data: {held_out: [{queries: " in reports["evaluate"]["summary"]
    assert "were not held out" in (cfg.run_dir / "evaluate/report.html").read_text()


def test_sets_stored_with_the_data_make_nothing_stale(shop):
    """`sidar validate` writes them again; training reads none of them."""
    if not (shop / "runs/scored").is_dir():
        shutil.copytree(shop / "runs/shop", shop / "runs/scored")
    sets = []
    for change in ("evaluate.max_queries=5", "evaluate.max_queries=6"):
        cfg = load_config(shop / "sidar.yaml", ["name=scored", change])
        pipeline.run(cfg, only="data", force=True)
        open_artifact(cfg.run_dir / "data", "data", verify=True)
        sets.append([len(each) for each in open_dataset(cfg.run_dir / "data").eval_sets("test")])
        stale = [step.stage.name for step in pipeline.plan(cfg) if step.reason]
        assert stale in ([], ["evaluate"])
    assert sets[0] != sets[1]


def test_a_changed_input_file_is_noticed(shop, tmp_path):
    changed = tmp_path / "events.parquet"
    log = pq.read_table(shop / "events.parquet")
    pq.write_table(log.slice(0, log.num_rows - 5), changed)
    assert "config changed: events" in reasons(shop, f"events.path={changed}")["data"]
    original = (shop / "events.parquet").read_bytes()
    try:
        (shop / "events.parquet").write_bytes(changed.read_bytes())
        assert reasons(shop)["data"] == "input changed: file:events.parquet"
    finally:
        (shop / "events.parquet").write_bytes(original)


def test_the_bundle_answers_from_python_and_from_the_shell(shop):
    bundle = shop / "runs/shop/bundle"
    hits = Retriever.load(bundle).search("steel water bottle", k=5)
    assert len(hits) == 5
    assert len({hit.item_id for hit in hits}) == 5
    assert np.all(np.diff([hit.score for hit in hits]) <= 0)
    said = sidar("search", "steel water bottle", "--bundle", bundle, "--k", 3).stdout
    assert hits[0].item_id in said


def test_the_table_is_true_to_its_per_query_files(shop):
    folder = shop / "runs/shop/evaluate"
    assert check_table(folder) > 100
    scores = json.loads((folder / "scores.json").read_text())
    assert {"judged", "day8-clicks"} == set(scores["sets"])
    rows = {
        "bm25",
        "dense",
        "quantised-dense",
        "popularity",
        "sft",
        "raddpo",
        "bm25+dense",
        "bm25+dense+sft",
        "bm25+dense+raddpo",
    }
    assert rows <= set(scores["sets"]["judged"]["systems"])
    assert (folder / "report.html").stat().st_size > 10_000


def test_what_is_served_is_what_was_measured(shop):
    """The bundle answers the prompts of a set with the items of the table's row, best first."""
    run = shop / "runs/shop"
    data = open_dataset(run / "data")
    (test,) = [each for each in data.eval_sets("test") if each.name.endswith("-clicks")]
    ranked = read_trec(run / f"evaluate/runs/{test.name}.answer.trec")
    retriever = Retriever.load(run / "bundle")
    assert retriever.fused is not None
    seen = 0
    for query_id, prompt in zip(test.query_ids, test.prompts, strict=True):
        history = [data.catalogue.item_ids[row] for row in prompt.history]
        answer = retriever.explain(prompt.query, 12, history=history, profile=prompt.profile)
        assert [hit.item_id for hit in answer.results] == [item for item, _ in ranked[query_id]][
            :12
        ]
        assert answer.fuse == "memory"
        scores = [hit.score for hit in answer.results]
        assert scores == sorted(scores, reverse=True)
        seen += answer.seen > 0
        for hit in answer.results:
            assert (hit.probability is None) == ("generative" not in hit.channels)
            assert (hit.count > 0) == ("memory" in hit.channels)
    assert seen  # the toy log repeats its queries
    alone = retriever.search(test.prompts[0].query, 5, fuse="none")
    assert all(hit.count is None for hit in alone)


def test_the_table_stands_beside_what_a_shop_has(shop):
    scores = json.loads((shop / "runs/shop/evaluate/scores.json").read_text())
    judged = scores["sets"]["judged"]["systems"]
    assert {"bm25+dense+prior", "memory", "answer", "answer-without-lm", "quantised-dense"} <= set(
        judged
    )
    assert "prior" not in judged  # a channel of fusions, no row
    questions = {test["question"] for test in scores["tests"]}
    assert "Is the answer better than the memory of what was chosen?" in questions
    (log,) = [name for name in scores["sets"] if name.endswith("-clicks")]
    assert not any(name.startswith("judged/") for name in scores["sets"])
    parts = [
        scores["sets"][f"{log}/{part}"]
        for part in ("seen", "unseen")
        if f"{log}/{part}" in scores["sets"]
    ]
    if parts:  # both, or neither where all queries are of one kind
        whole = scores["sets"][log]
        assert sum(part["queries"] for part in parts) <= whole["queries"]
        for system, cells in whole["systems"].items():
            assert set(parts[0]["systems"][system]) == set(cells)


def test_a_tuned_encoder_is_a_row_from_the_day_it_was_asked_for(shop):
    assert "dense" not in reasons(shop)
    settings = yaml.safe_load((shop / "sidar.yaml").read_text())
    settings["dense"] = {"steps": 2, "batch_size": 4, "valid_queries": 4}
    (shop / "sidar.yaml").write_text(yaml.safe_dump(settings))
    sidar("tune-dense", "-c", shop / "sidar.yaml")
    manifest = open_artifact(shop / "runs/shop/dense", "dense", verify=True)
    assert manifest.shapes["pairs"]["query"] > 0
    assert {stage: why for stage, why in reasons(shop).items() if why} == {
        "evaluate": "input changed: dense"
    }
    sidar("evaluate", "-c", shop / "sidar.yaml")
    scores = json.loads((shop / "runs/shop/evaluate/scores.json").read_text())
    assert scores["kinds"]["dense-tuned"] == scores["kinds"]["quantised-dense"] == "baseline"
    assert {"dense-tuned", "bm25+dense-tuned", "bm25+dense-tuned+raddpo"} <= set(
        scores["sets"]["judged"]["systems"]
    )
    assert any(test["b"] == "dense-tuned" for test in scores["tests"])
    assert set(reasons(shop).values()) == {None}


def test_dry_run_and_single_stages(shop):
    said = sidar("run", "-c", shop / "sidar.yaml", "--dry-run", "sft.steps=7").stdout
    assert "config changed: sft" in said
    assert sidar("index", "-c", shop / "sidar.yaml").returncode == 0


def test_user_errors_are_one_line_and_exit_code_2(shop, tmp_path):
    done = sidar("run", "-c", tmp_path / "none.yaml", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = sidar("run", "-c", shop / "sidar.yaml", "events.path=nowhere.parquet", check=False)
    assert done.returncode == 2
    assert "nowhere.parquet" in done.stderr
    done = sidar("align", "-c", shop / "sidar.yaml", "align.objective=nope", check=False)
    assert done.returncode == 2
    assert "nope" in done.stderr


def test_experiments_share_one_sft_checkpoint(shop):
    cfg = load_config(shop / "sidar.yaml")
    steps = {
        s.stage.name: s
        for s in pipeline.plan(cfg, variants(cfg.align, "raddpo,dpo,raddpo-no-tlgd"))
    }
    assert steps["sft"].reason is None
    assert steps["align-dpo"].config.align.objective == "dpo"
    assert steps["align-raddpo-no-tlgd"].config.align.tlgd is False
    assert steps["align-dpo"].reason == "missing"
    assert steps["evaluate"].reason


def test_init_writes_a_config_that_loads(tmp_path):
    sidar("init", tmp_path)
    assert load_config(tmp_path / "sidar.yaml").name == "run"
    assert sidar("init", tmp_path, check=False).returncode == 2


def test_help_answers_without_torch():
    code = (
        "import sys; sys.argv=['sidar','--help']\ntry:\n import sidar.cli as c; "
        "c.main()\nexcept SystemExit: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + "assert 'torch' not in sys.modules"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_tomorrow_starts_from_todays_bundle(shop):
    today, tomorrow = shop / "runs/shop", shop / "runs/tomorrow"
    old = pq.read_table(shop / "catalogue.parquet")
    new = pa.Table.from_pylist(
        [
            {
                **old.slice(3, 1).to_pylist()[0],
                "item_id": "new-1",
                "title": "Linen bath towel, undyed",
            }
        ],
        schema=old.schema,
    )
    # one in front, one gone
    pq.write_table(pa.concat_tables([new, old.slice(1)]), shop / "tomorrow.parquet")
    options = ["catalogue.path=tomorrow.parquet", "name=tomorrow", "events.bad_rows=1"]
    sidar("run", "-c", shop / "sidar.yaml", *options, "--from", today / "bundle")
    before, after = (
        open_dataset(today / "data").catalogue,
        open_dataset(tomorrow / "data").catalogue,
    )
    assert after.item_ids.tolist() == [*before.item_ids, "new-1"]
    assert after.alive.tolist() == [False] + [True] * 64
    assert after.lineage == before.lineage
    was = load_sids(today / "sid/sids.parquet", before.item_ids)
    now = load_sids(tomorrow / "sid/sids.parquet", after.item_ids)
    assert np.array_equal(now.codes[1:64], was.codes[1:])
    assert now.lengths[0] == 0
    assert now.lengths[64] == 3
    hits = Retriever.load(tomorrow / "bundle").search("linen bath towel", k=64)
    assert {hit.item_id for hit in hits} == set(after.item_ids[1:])
