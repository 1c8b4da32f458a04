"""Items that the simulator launches on days 5 to 8: codebooks and model know none of them, encoding
brings them in.
"""

import json

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from sidar import pipeline, simulate
from sidar.config import AlarmsConfig, load_config
from sidar.data import open_dataset, sample
from sidar.data.catalogue import found
from sidar.pipeline.coldstart import cold_start, reached, shared_prefixes
from sidar.pipeline.refresh import check, encode
from sidar.serve.bundle import BundleSources, build_bundle, open_bundle
from sidar.serve.retriever import Retriever
from sidar.simulate.schedule import first_moment

OPTIONS = {
    "threads": 1,
    "device": "cpu",
    "seed": 1,
    "events.unknown_items": "drop",
    "embed.model": "hashing:48",
    "sid.codebook_sizes": [128, 64, 32],
    "lm": {
        "layers": 1,
        "hidden": 48,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 64,
        "text_embeddings": "random",
    },
    "lm.max_prompt_tokens": 32,
    "sft": {
        "steps": 90,
        "batch_size": 32,
        "lr_new": 0.01,
        "mixture": {"item": 1.0},
        "valid_requests": 4,
    },
}


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """(before, after): bundles of day 4's catalogue, trained, and of day 8's under the same
    codebooks and model.
    """
    folder = tmp_path_factory.mktemp("launch")
    settings = simulate.load_config("demo", users=60, requests=400, queries={"count": 120})
    simulate.run(found(sample.load_catalogue().table.slice(0, 1600)), settings, folder)
    whole = pq.read_table(folder / "catalogue.parquet")
    known = pc.less(pc.cast(whole["created"], "int64"), first_moment(settings))
    pq.write_table(whole.filter(known), folder / "day4.parquet")

    def config(name, catalogue):
        sets = [{"name": "grounded", "queries": str(folder / "grounded_train.queries.tsv"),
                 "qrels": str(folder / "grounded_train.qrels.tsv"),
                 "origin": "simulated"}]  # fmt: skip
        chosen = {**OPTIONS, "name": name, "runs": str(folder / "runs"),
        "catalogue.path": str(folder / catalogue),
                  "events.path": str(folder / "events.parquet"), "evaluate.sets": sets}  # fmt: skip
        return load_config(None, [f"{key}={json.dumps(value)}" for key, value in chosen.items()])

    first = config("day4", "day4.parquet")
    for stage in ("sft", "index"):
        pipeline.run(first, only=stage)
    before, parts = (
        first.run_dir / "bundle",
        {n: first.run_dir / n for n in ("data", "embed", "sid", "index")},
    )
    model = first.run_dir / "sft" / "model"
    build_bundle(before, BundleSources(**parts, model=model, config={}, label="sft"))
    return (
        before,
        encode(config("day8", "catalogue.parquet"), before),
        int(len(whole) - pc.sum(known).as_py()),
    )


def test_launched_items_are_quantised_like_unseen_ones_and_only_their_mix_is_another(launched):
    before, after, n = launched
    figures = cold_start(before, after, sample=150)
    assert figures["items"]["new"] == n > 80
    loss = figures["quantised"]
    # fitted items are flattered; launched ones are of well-filled shelves, so they lose no more
    # than any unseen item
    assert 1.1 * loss["fitted"] < loss["new"] < 1.1 * loss["unseen at the fit"]
    rings = {alarm.name: alarm.rings for alarm in check(after, AlarmsConfig())}
    assert not rings["error"]
    assert rings["codes"]  # launched items are ones that queries want: another mix of known shelves


def test_they_are_in_the_index_and_a_beam_reaches_them_from_their_text(launched):
    before, after, _ = launched
    figures = cold_start(
        before, after, open_dataset(after.parent / "data").eval_sets("test"), sample=150
    )
    shared = figures["shared"]
    assert shared["1"] > 0.95
    assert shared["1"] >= shared["2"] >= shared["3"] == shared["SID"] > 0
    assert shared["SID"] < 0.9  # else the old index would have done
    chance = 512 / len(open_bundle(after).index)
    assert figures["reached"]["old"]["512"] > 1.5 * chance
    assert figures["reached"]["new"]["512"] > 1.5 * chance
    for reach in figures["reached"].values():
        assert reach["10"] <= reach["64"] <= reach["512"]
    recall = figures["recalled"]["grounded"]
    assert recall["queries"] > 10
    assert 0 <= recall["new"] <= 1


def test_every_new_item_is_reachable_and_was_not(launched):
    """With a beam as wide as the index nothing is out of reach; in the old index only shared SIDs
    were.
    """
    before, after, _ = launched
    old, new = open_bundle(before), open_bundle(after)
    rows = np.arange(len(old.catalogue), len(new.catalogue))
    everything = Retriever.load(after).search("bag", k=len(new.catalogue), beam=len(new.index))
    assert {hit.item_id for hit in everything} == set(new.catalogue.item_ids)
    assert (new.index.lookup(new.sids.codes[rows]) >= 0).all()
    in_old = old.index.lookup(new.sids.codes[rows]) >= 0
    assert shared_prefixes(old.sids, new.sids, rows)["SID"] == pytest.approx(in_old.mean())
    assert reached(Retriever.load(after), ["bag"] * len(new.catalogue), rows[:3]).keys() == {
        "10",
        "64",
        "512",
    }


def test_there_must_be_new_items(launched):
    before, _, _ = launched
    with pytest.raises(ValueError, match="no items that were encoded under frozen codebooks"):
        cold_start(before, before)
