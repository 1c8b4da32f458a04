"""Published SIDs through the whole pipeline on a cut-down set: JSON items and sequences,
leave-one-out, four levels.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sidar import Retriever, pipeline
from sidar.artifacts import read_manifest
from sidar.config import load_config
from sidar.data import toy
from sidar.lm import SidLM
from sidar.pipeline.refresh import encode
from sidar.serve.bundle import open_bundle

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "threads": 1,
    "device": "cpu",
    "catalogue.format": "sequences",
    "events.format": "sequences",
    "split.unit": "leave_one_out",
    "preference.negatives": "sampled",
    "embed.model": "hashing:48",
    "lm": {
        "layers": 1,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 64,
        "text_embeddings": "random",
    },
    "sft": {"steps": 3, "batch_size": 8, "mixture": {"query": 1.0}, "valid_requests": 4},
    "align": {"steps": 2, "batch_size": 4, "valid_requests": 4},
    "decode": {"beam": 16},
    "evaluate": {"invalid_queries": 2, "bootstrap": 50, "max_queries": 10},
    "sid.method": "table",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The toy shop as such sets are published; the table is of four levels, the last one only where
    three collide.
    """
    folder = tmp_path_factory.mktemp("published")
    items = toy.catalogue().table.to_pylist()
    texts = {
        item["item_id"]: {
            "title": item["title"],
            "description": item["text"] or "",
            "brand": item["brand"] or "",
            "categories": ",".join(item["category"]),
        }
        for item in items
    }
    (folder / "Scientific.item.json").write_text(json.dumps(texts))
    rng = np.random.default_rng(0)
    ids = np.array(list(texts))
    steps = {
        f"u{u}": ids[rng.choice(64, rng.integers(4, 9), replace=False)].tolist() for u in range(40)
    }
    (folder / "Scientific.inter.json").write_text(json.dumps(steps))
    (folder / "published_sids").mkdir()
    tables = {}
    for name, parts in (("letter", False), ("rkmeans", True), ("rqvae", True)):
        tables[name] = {}
        for row, item in enumerate(ids):
            tokens = [
                f"<a_{row // 8}>",
                f"<b_{row % 8 // 2}>",
                f"<c_{row // 16}>",
                f"<d_{row % 2}>",
            ]
            tables[name][str(item)] = tokens if not parts or row < 32 else tokens[:3]
        (folder / "published_sids" / f"{name}_native.json").write_text(json.dumps(tables[name]))
    return folder, tables


def config(folder, name, table, **changes):
    paths = {"catalogue.path": "Scientific.item.json", "events.path": "Scientific.inter.json"}
    chosen = {**OPTIONS, **{key: str(folder / file) for key, file in paths.items()}, "name": name,
              "sid.table": str(folder / "published_sids" / table), "runs": str(folder / "runs"),
              **changes}  # fmt: skip
    return load_config(None, [f"{key}={json.dumps(value)}" for key, value in chosen.items()])


@pytest.mark.parametrize("name", ["letter", "rkmeans"])
def test_every_stage_takes_the_table_and_searches_answer_with_its_ids(data, name):
    folder, tables = data
    cfg = config(folder, name, f"{name}_native.json")
    reports = pipeline.run(cfg)
    assert "evaluate" in reports
    bundle = open_bundle(cfg.run_dir / "bundle")
    assert bundle.sids.codebook_sizes == (8, 4, 4, 2)
    assert bundle.sids.fixed_length == (name == "letter")
    assert SidLM.from_pretrained(cfg.run_dir / "sft" / "model").vocab.variable_length == (
        name != "letter"
    )
    hits = Retriever.load(cfg.run_dir / "bundle").search("", k=64, history=list(tables[name])[:3])
    assert len(hits) == 64 if name == "letter" else len(hits) >= 32
    for hit in hits:
        assert [
            f"<{letter}_{code}>" for letter, code in zip("abcd", hit.sid, strict=False)
        ] == tables[name][hit.item_id]
    scores = json.loads((cfg.run_dir / "evaluate" / "scores.json").read_text())
    (systems,) = [found["systems"] for found in scores["sets"].values()]
    assert {"sft", "raddpo", "quantised-dense", "popularity"} <= set(systems)


def test_a_changed_table_makes_the_ids_stale_and_nothing_before_them(data):
    folder, tables = data
    cfg = config(folder, "stale", "rqvae_native.json")
    pipeline.run(cfg, only="index")
    path = folder / "published_sids" / "rqvae_native.json"
    original = path.read_text()
    first = next(iter(tables["rqvae"]))
    path.write_text(json.dumps({**tables["rqvae"], first: ["<a_7>", "<b_3>", "<c_3>", "<d_1>"]}))
    try:
        reasons = {step.stage.name: step.reason for step in pipeline.plan(cfg)}
        assert reasons["data"] is reasons["embed"] is None
        assert reasons["sid"] == "input changed: file:rqvae_native.json"
        before = read_manifest(cfg.run_dir / "sid").shapes["version"]
        pipeline.run(cfg, only="sid")
        assert read_manifest(cfg.run_dir / "sid").shapes["version"] != before
    finally:
        path.write_text(original)


def test_tomorrows_items_take_the_tables_sid_and_strangers_the_nearest(data, tmp_path):
    folder, tables = data
    texts = json.loads((folder / "Scientific.item.json").read_text())
    ids = list(texts)
    (tmp_path / "today.item.json").write_text(json.dumps({item: texts[item] for item in ids[:60]}))
    (tmp_path / "next.item.json").write_text(json.dumps({**texts, "stranger": texts[ids[9]]}))
    changes = {"runs": str(tmp_path / "runs"), "events.unknown_items": "drop", "events.bad_rows": 1}
    today = config(
        folder,
        "today",
        "letter_native.json",
        **changes,
        **{"catalogue.path": str(tmp_path / "today.item.json")},
    )
    pipeline.run(today, only="bundle")
    after = config(
        folder,
        "next",
        "letter_native.json",
        **changes,
        **{"catalogue.path": str(tmp_path / "next.item.json")},
    )
    with pytest.raises(
        ValueError, match="a bundle of the run 'today', whose data, vectors and SIDs today's would"
    ):
        encode(after.model_copy(update={"name": "today"}), today.run_dir / "bundle")
    bundle = open_bundle(encode(after, today.run_dir / "bundle"))
    sid = {item: bundle.sids.tuple_of(row) for row, item in enumerate(bundle.catalogue.item_ids)}
    for item in ids:
        assert [
            f"<{letter}_{code}>" for letter, code in zip("abcd", sid[item], strict=True)
        ] == tables["letter"][item]
    assert len(sid["stranger"]) == 4
    assert sid["stranger"][0] == sid[ids[9]][0]  # its text is that of an item of shelf 1


def test_wrong_tables_stop_the_run_with_item_and_token(data, tmp_path):
    folder, tables = data
    item = next(iter(tables["letter"]))
    for broken, says in (
        ({**tables["letter"], item: ["<a_1>", "<b_?>"]}, rf"item '{item}': token '<b_\?>'"),
        (
            {k: v for k, v in tables["letter"].items() if k != item},
            rf"item '{item}' of the catalogue is not in the SID",
        ),
        (
            {**tables["letter"], "stranger": ["<b_1>", "<a_1>"]},
            "item 'stranger': token 1 is of level 'b'",
        ),
    ):
        (tmp_path / "ids.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=says):
            pipeline.run(
                config(folder, "stale", "x", **{"sid.table": str(tmp_path / "ids.json")}),
                only="sid",
            )


def test_the_benchmark_runs_at_toy_size(data):
    folder, _ = data
    command = [
        sys.executable,
        "-m",
        "experiments.tokenizers.published_sids",
        "--data",
        folder,
        "--no-save",
        "--queries",
        "12",
    ]
    command += [
        "--steps",
        "2",
        "--batch",
        "8",
        "--hidden",
        "32",
        "--layers",
        "1",
        "--embed",
        "hashing:48",
    ]
    command += ["--tables", "rkmeans", "ours, automatic"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    for row in ("rkmeans", "ours, automatic", "popularity"):
        assert f"\n{row} " in done.stdout
