"""SIDs of several lengths from log to search: SARQ through every stage, every objective, and the
next day.
"""

import json
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from sidar import Retriever, pipeline
from sidar.config import load_config
from sidar.data import open_dataset, toy
from sidar.evaluate.table import check_table, read_scores
from sidar.index import PrefixIndex
from sidar.pipeline.variants import variants
from sidar.sid import load_sids, load_tokenizer

QUICK = {"steps": 4, "batch_size": 4, "validate_every": 2, "checkpoint_every": 4}
OBJECTIVES = "raddpo,dpo,simpo,orpo,sdpo"
SETTINGS = {
    "name": "today",
    "threads": 1,
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "events.parquet"},
    "embed": {"model": "hashing:64"},
    "sid": {"method": "sarq", "codebook_sizes": [8, 4, 4]},
    "lm": {
        "layers": 1,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 64,
        "text_embeddings": "random",
    },
    "sft": QUICK,
    "align": {**QUICK, "rdrw_window": 8},
    "decode": {"beam": 16},
    "evaluate": {"invalid_queries": 2, "bootstrap": 50, "max_queries": 8, "tune_queries": 4},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    toy.write_inputs(folder)
    (folder / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS))
    cfg = load_config(folder / "sidar.yaml")
    pipeline.run(cfg, variants(cfg.align, OBJECTIVES))
    return folder


def test_every_stage_takes_ids_of_several_lengths(folder):
    run = folder / "runs/today"
    data = open_dataset(run / "data")
    sids = load_sids(run / "sid/sids.parquet", data.catalogue.item_ids)
    assert not sids.fixed_length
    assert sids.codebook_sizes == (8, 4, 4, 2, 2)
    quality = json.loads((run / "sid/quality.json").read_text())
    assert quality["code_bits"]["per_item"] == pytest.approx(7, rel=0.01)
    lengths = [quality["classes"][name]["mean_length"] for name in ("head", "torso", "tail")]
    assert lengths == sorted(lengths, reverse=True)
    index = PrefixIndex.load(run / "index")
    assert not index.fixed_length
    assert sum(int(ends.sum()) for ends in index.terminal[:-1]) > 0
    for name in OBJECTIVES.split(","):
        records = [
            json.loads(line) for line in (run / f"align-{name}/log.jsonl").read_text().splitlines()
        ]
        assert all(
            np.isfinite(value) for r in records for value in r.values() if isinstance(value, float)
        )
        assert {r["step"] for r in records if r["kind"] == "valid"} == {0, 2, 4}
    assert check_table(run / "evaluate") > 100
    rows = read_scores(run / "evaluate")["sets"]["day8-clicks"]["systems"]
    assert {"sft", "quantised-dense", *OBJECTIVES.split(",")} <= set(rows)
    for name in ("sft", "dpo", "simpo"):
        assert 0 < rows[name]["invalid/mass"]["mean"] < 1
        assert rows[name]["sid/recall@8"]["mean"] > 0


def test_the_bundle_answers_and_its_scores_add_up(folder):
    retriever = Retriever.load(folder / "runs/today/bundle", precision="fp32")
    assert retriever.model.vocab.variable_length
    answer = retriever.explain("steel water bottle", k=64, beam=200, fuse="none")
    assert len({hit.item_id for hit in answer.results}) == 64
    assert len({len(hit.sid) for hit in answer.results}) > 1
    share = dict(
        zip(retriever.index.rows.tolist(), retriever.shares.log_share.tolist(), strict=True)
    )
    for hit in answer.results:
        row = retriever.catalogue.row(hit.item_id)
        assert sum(hit.level_logp) + share[row] == pytest.approx(hit.score, abs=1e-4)
        assert hit.sid == retriever.sids.tuple_of(retriever.catalogue.row(hit.item_id))
    assert all(above.score >= below.score for above, below in pairwise(answer.results))
    assert answer.mass == pytest.approx(
        sum({h.sid: h.probability for h in answer.results}.values()), rel=1e-3
    )


def test_tomorrow_keeps_lengths_that_yesterdays_credit_still_pays_for(folder):
    log = pq.read_table(folder / "events.parquet")
    days = np.unique(log.column("ts").to_numpy() // 86_400_000_000)
    # two days of clicks are forgotten
    late = log.filter(log.column("ts").to_numpy() // 86_400_000_000 >= days[2])
    pq.write_table(late, folder / "late.parquet")
    today = folder / "runs/today"
    options = ["name=tomorrow", "events.path=late.parquet", f"warm_start={today / 'bundle'}"]
    pipeline.run(load_config(folder / "sidar.yaml", options))
    data = open_dataset(folder / "runs/tomorrow/data")
    was = load_sids(today / "sid/sids.parquet", data.catalogue.item_ids)
    now = load_sids(folder / "runs/tomorrow/sid/sids.parquet", data.catalogue.item_ids)
    before, after = open_dataset(today / "data").priors().clicks, data.priors().clicks
    assert (before != after).any()
    changed = np.abs(np.log2(1 + before) - np.log2(1 + after)) > 1
    np.testing.assert_array_equal(now.codes[~changed], was.codes[~changed])
    tokenizer = load_tokenizer(folder / "runs/tomorrow/sid")
    assert tokenizer.tau_ == load_tokenizer(today / "sid").tau_
    assert Retriever.load(folder / "runs/tomorrow/bundle").search("towel", k=3)
