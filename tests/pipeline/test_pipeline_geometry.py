"""A model that reads sentence vectors, and reranking, from the config to the bundle and the page's
server.
"""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import yaml
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from sidar import Retriever, pipeline
from sidar.cli import app
from sidar.config import load_config
from sidar.data import open_dataset, toy
from sidar.embed import HashingEmbedder, load_items
from sidar.serve import create_app
from sidar.serve.bundle import BundleSources, build_bundle, open_bundle

SETTINGS = {
    "name": "shop",
    "threads": 1,
    "device": "cpu",
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "events.parquet"},
    "users": {"path": "users.parquet"},
    "embed": {"model": "hashing:48"},
    "lm": {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 2, "intermediate": 64,
    "text_embeddings": "random",
           "geometry": True},
    "sft": {"steps": 6, "batch_size": 8, "validate_every": 3, "checkpoint_every": 3},
    "align": {"steps": 4, "batch_size": 4, "validate_every": 2, "checkpoint_every": 2},
    "decode": {"beam": 16, "rerank": "dense", "fuse": "none"},
    "evaluate": {
        "invalid_queries": 2,
        "bootstrap": 50,
        "max_queries": 8,
        "sets": [
            {"name": "judged", "queries": "judged_test.queries.tsv",
            "qrels": "judged_test.qrels.tsv"},
            {"name": "dev", "queries": "judged_valid.queries.tsv",
            "qrels": "judged_valid.qrels.tsv", "role": "valid"},
        ],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    toy.write_inputs(folder)
    (folder / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS))
    pipeline.run(load_config(folder / "sidar.yaml"))
    return folder


@pytest.fixture(scope="module")
def retriever(shop):
    return Retriever.load(shop / "runs/shop/bundle", precision="fp32")


def test_the_table_has_a_reranked_row_for_every_model(shop):
    scores = json.loads((shop / "runs/shop/evaluate/scores.json").read_text())
    systems = scores["sets"]["judged"]["systems"]
    assert {"sft", "sft+rerank", "raddpo", "raddpo+rerank", "bm25+dense+sft"} <= set(systems)
    assert scores["kinds"]["sft+rerank"] == "fusion"
    assert "w = " in scores["about"]["raddpo+rerank"]
    lines = (shop / "runs/shop/evaluate/runs/judged.raddpo+rerank.trec").read_text().splitlines()
    rows = [(query, float(score)) for query, _, _, _, score, _ in map(str.split, lines)]
    assert len(rows) > 50
    assert all(a[1] > b[1] for a, b in pairwise(rows) if a[0] == b[0])


def test_the_bundle_serves_with_the_weight_of_the_table(shop, retriever):
    scores = json.loads((shop / "runs/shop/evaluate/scores.json").read_text())
    bundle = open_bundle(shop / "runs/shop/bundle", verify=True)
    # of the log: what is scored makes no bundle stale
    assert bundle.rerank["sets"] == ["validation requests"]
    assert f"w = {bundle.rerank['weight']:g}" in scores["about"]["raddpo+rerank"]
    assert retriever.rerank == bundle.rerank["weight"]


def test_searching_reranks_what_the_beam_reaches(shop, retriever):
    run = shop / "runs/shop"
    retriever.rerank = 3.0
    items, row = load_items(run / "embed"), open_dataset(run / "data").catalogue.row
    query = HashingEmbedder(48).encode(["bath towel"])[0]
    plain = retriever.search("bath towel", k=64, beam=8, rerank=False)
    found = retriever.search("bath towel", k=64, beam=8, rerank=True)
    assert {r.item_id for r in plain} == {r.item_id for r in found}
    assert all(r.cosine is None for r in plain)
    by_id = {r.item_id: r for r in plain}
    for r in found:
        assert r.cosine == pytest.approx(float(items[row(r.item_id)] @ query), abs=1e-5)
        assert r.score == pytest.approx(by_id[r.item_id].score + 3.0 * r.cosine, abs=1e-4)
        assert r.probability == pytest.approx(by_id[r.item_id].probability, rel=1e-4)
    assert [r.score for r in found] == sorted((r.score for r in found), reverse=True)
    # the default
    assert retriever.search("bath towel", k=5) == retriever.search("bath towel", k=5, rerank=True)
    many = retriever.search(["bath towel", "tent"], k=5)
    assert [r.item_id for r in many[0]] == [r.item_id for r in retriever.search("bath towel", k=5)]


def test_the_shell_shows_log_p_and_what_else_ordered(shop):
    bundle = str(shop / "runs/shop/bundle")
    both, alone = (
        CliRunner()
        .invoke(app, ["search", "bath towel", "--bundle", bundle, *more], env={"COLUMNS": "160"})
        .output
        for more in ([], ["--no-rerank"])
    )
    assert "cosine" in both
    assert "ordered by log p + " in both
    assert "cosine" not in alone
    assert "log p" in alone


def test_the_server_takes_rerank_and_says_so(retriever):
    retriever.rerank = 3.0
    with TestClient(create_app(retriever)) as client:
        answer = client.post("/v1/search", json={"query": "bath towel", "k": 3}).json()
        assert answer["rerank"] == 3.0
        assert answer["hits"][0]["cosine"] is not None
        plain = client.post(
            "/v1/search", json={"query": "bath towel", "k": 3, "rerank": False}
        ).json()
        assert plain["rerank"] is None
        assert plain["hits"][0]["cosine"] is None
        retriever.rerank = None
        refused = client.post("/v1/search", json={"query": "bath towel", "rerank": True})
        assert refused.status_code == 422
        assert "no weight to rerank by" in refused.json()["error"]


def test_a_bundle_without_item_vectors_refuses_to_rerank(shop, tmp_path):
    run = shop / "runs/shop"
    parts = {name: run / name for name in ("data", "embed", "sid", "index")}
    config = load_config(shop / "sidar.yaml").model_dump(mode="json", include={"decode", "embed"})
    build_bundle(
        tmp_path / "bundle",
        BundleSources(**parts, model=run / "align-raddpo/model", config=config, label="raddpo"),
    )
    plain = Retriever.load(tmp_path / "bundle", precision="fp32")
    assert plain.search("bath towel", k=3)[0].cosine is None
    assert not (tmp_path / "bundle/embed/items.npy").exists()
    with pytest.raises(ValueError, match=r"decode\.rerank=dense"):
        plain.search("bath towel", rerank=True)


def test_another_encoder_is_refused_by_name(shop, tmp_path):
    shutil.copytree(shop / "runs/shop/bundle", tmp_path / "bundle")
    file = tmp_path / "bundle/embed/embedder.json"
    about = json.loads(file.read_text())
    file.unlink()  # a hard link of the run's
    file.write_text(json.dumps(about | {"fingerprint": "other"}))
    with pytest.raises(ValueError, match=r"'hashing:48' \(other\), the one here is hashing-1-48"):
        Retriever.load(tmp_path / "bundle")


def test_turning_it_on_retrains_and_reranking_only_bundles_and_scores(shop):
    def stale(*overrides):
        steps = pipeline.plan(load_config(shop / "sidar.yaml", list(overrides)))
        return [step.stage.name for step in steps if step.reason]

    assert stale() == []
    assert stale("decode.rerank=none") == ["answer", "bundle", "evaluate"]
    assert stale("evaluate.prompts=semantic") == ["evaluate"]
    assert stale("lm.geometry=false")[0] == "sft"


def test_vectors_are_unit_rows(shop):
    items = load_items(shop / "runs/shop/embed")
    assert np.linalg.norm(items, axis=1) == pytest.approx(np.ones(64), abs=1e-5)
