"""S1 to S4 on the toy shop: each from the last, a table after each, and stages left out."""

import json

import numpy as np
import pytest
import yaml
from rich.console import Console

from sidar import pipeline
from sidar.artifacts import read_manifest
from sidar.config import load_config
from sidar.data import open_dataset, toy
from sidar.index import PrefixIndex
from sidar.lm import SidLM
from sidar.pipeline import curriculum
from sidar.pipeline.progressive import folders_of, hits_folder, measure, start_of_alignment
from sidar.pipeline.rows.systems import RunParts, generative_rows
from sidar.pipeline.runtime import folders
from sidar.sid import load_sids

OBJECTIVE = "eggrpo"
SERVED = f"align-{OBJECTIVE}"
OPTIM = {
    "steps": 4,
    "batch_size": 8,
    "precision": "fp32",
    "validate_every": 4,
    "checkpoint_every": 4,
    "valid_requests": 4,
}
SETTINGS = {
    "name": "shop",
    "threads": 1,
    "device": "cpu",
    "catalogue": {"path": "catalogue.parquet"},
    "events": {"path": "events.parquet"},
    "users": {"path": "users.parquet"},
    "split": {"history": "related"},
    "embed": {"model": "hashing:32", "dtype": "fp32"},
    "sid": {"codebook_sizes": [8, 4, 4]},
    "lm": {
        "layers": 1,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 64,
        "text_embeddings": "random",
    },
    "progressive": {
        "stages": ["s1", "s2", "s3", "s4"],
        "requests": 12,
        "s1": OPTIM,
        "s2": OPTIM,
        "s3": OPTIM,
    },
    "align": {
        **OPTIM,
        "objective": OBJECTIVE,
        "reward": "graded",
        "rollouts": {"group": 4},
        "steps": 2,
    },
    "decode": {"beam": 8, "precision": "fp32"},
}
MODELS = ["progressive-s1", "progressive-s1s2", "progressive-s1s2s3", SERVED]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    toy.write_inputs(folder)
    (folder / "sidar.yaml").write_text(yaml.safe_dump(SETTINGS))
    cfg, console = load_config(folder / "sidar.yaml"), Console(record=True, width=200)
    curriculum.train(cfg, console)
    (folder / "shown.txt").write_text(console.export_text())
    return folder


def test_a_table_follows_every_stage(shop):
    shown = (shop / "shown.txt").read_text()
    first = [line.split()[0] for line in shown.splitlines() if " personalised " in line]
    assert first == [model for place in range(4) for model in MODELS[: place + 1]]
    assert shown.index("click @1 ") < shown.index("progressive-s1s2 ")


def test_every_stage_starts_from_the_one_before(shop):
    run = shop / "runs/shop"
    for model, before in zip(MODELS[1:], MODELS, strict=False):
        made, start = read_manifest(run / model), read_manifest(run / before)
        assert made.inputs[before] == start.hash
        ends = [
            SidLM.from_pretrained(run / name / "model").state_dict() for name in (before, model)
        ]
        apart = max(
            float((a - b).abs().max()) for a, b in zip(*map(dict.values, ends), strict=True)
        )
        assert 0 < apart < 0.1  # a few small steps away
    assert not (run / "sft").exists()  # nothing needs it


def test_hit_rates_are_those_of_a_slow_count(shop):
    cfg = load_config(shop / "sidar.yaml")
    run, model = shop / "runs/shop", MODELS[2]
    rates = json.loads((run / hits_folder(model) / "hits.json").read_text())
    inputs = folders(run, ("data", "embed", "sid", "index", model))
    wide = cfg.model_copy(update={"decode": cfg.decode.model_copy(update={"beam": 100})})
    row = generative_rows(RunParts(wide, inputs), [(model, run / model / "model")])[model]
    index, dataset = PrefixIndex.load(run / "index"), open_dataset(run / "data")
    sids = load_sids(run / "sid" / "sids.parquet", dataset.catalogue.item_ids)
    sid_of = index.lookup(sids.codes)
    asked = [r for r in dataset.requests("test") if r.prompt.query and max(r.actions) > 0]
    assert rates["requests"] == 12 < len(asked)
    every = cfg.model_copy(
        update={"progressive": cfg.progressive.model_copy(update={"requests": 10_000})}
    )
    all_rates = measure(every, inputs, model)
    ranked = row.sid_ranking([r.prompt for r in asked], 100)[0]
    for kind, least in (("click", 1), ("exposure", 0)):
        for width in (1, 10, 100):
            hits = []
            for request, best in zip(asked, ranked.tolist(), strict=True):
                right = {
                    int(sid_of[item])
                    for item, action in zip(request.rows, request.actions, strict=True)
                    if action >= least
                }
                hits.append(bool(right & set(best[:width])))
            assert all_rates["personalised"][kind][str(width)] == pytest.approx(np.mean(hits))
        assert all_rates["personalised"][kind]["1000 items"] == 1.0  # the toy shop has 64 items
    assert all_rates["personalised"]["click"]["1"] <= all_rates["personalised"]["exposure"]["1"]


def test_a_stage_that_is_left_out_leaves_the_others_as_they_are(shop):
    cfg = load_config(shop / "sidar.yaml", ["progressive.stages=[s1, s3, s4]"])
    assert folders_of(cfg) == ["progressive-s1", "progressive-s1s3"]
    steps = pipeline.plan(cfg, only=hits_folder(SERVED))
    running = [step.stage.name for step in steps if step.reason is not None]
    assert running == ["progressive-s1s3", SERVED, hits_folder(SERVED)]


def test_a_whole_run_serves_the_last_stage_and_nothing_is_trained_twice(shop):
    cfg = load_config(shop / "sidar.yaml")
    assert start_of_alignment(cfg) == "progressive-s1s2s3"
    fresh = {step.stage.name for step in pipeline.plan(cfg) if step.reason is None}
    assert {"data", "sid", "index", *MODELS} <= fresh
    bundle = next(step.stage for step in pipeline.plan(cfg) if step.stage.name == "bundle")
    assert SERVED in bundle.inputs
    again = Console(record=True, width=200)
    curriculum.train(cfg, again)
    assert again.export_text().count("up to date") >= 3 * len(MODELS)


def test_other_requests_measure_again_and_train_nothing(shop):
    cfg = load_config(shop / "sidar.yaml", ["progressive.requests=5"])
    steps = pipeline.plan(cfg, only=hits_folder(SERVED))
    assert [s.stage.name for s in steps if s.reason is not None] == [hits_folder(SERVED)]


def test_without_stages_alignment_starts_from_sft_and_the_command_says_what_to_write(shop):
    cfg = load_config(shop / "sidar.yaml", ["progressive.stages=[]"])
    assert start_of_alignment(cfg) == "sft"
    with pytest.raises(ValueError, match=r"stages: \[s1, s2, s3, s4\]"):
        curriculum.train(cfg, Console())
