"""The life of IDs on the toy shop: refresh without training, alarms, diff, plan, compaction, and no
mixtures.
"""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from sidar import Retriever, pipeline
from sidar.answer.carry import carry_to_catalogue
from sidar.artifacts import read_manifest
from sidar.baselines import Bm25
from sidar.cli import app
from sidar.config import load_config
from sidar.data import open_dataset, toy
from sidar.data.catalogue import open_catalogue
from sidar.embed import HashingEmbedder, load_items
from sidar.index.rows import RowMap
from sidar.serve.bundle import open_bundle
from sidar.sid import load_sids, load_tokenizer
from sidar.sid.lifecycle.ledger import Ledger

OPTIONS = {
    "threads": 1,
    "device": "cpu",
    "embed.model": "hashing:64",
    "lm": {
        "layers": 1,
        "hidden": 32,
        "heads": 2,
        "kv_heads": 2,
        "intermediate": 64,
        "text_embeddings": "random",
    },
    "sft": {"steps": 3, "batch_size": 8, "validate_every": 3, "valid_requests": 4},
    "align": {"steps": 2, "batch_size": 4, "validate_every": 2, "valid_requests": 4},
}


def config(folder, **changes):
    inputs = {f"{part}.path": str(folder / f"{part}.parquet") for part in ("catalogue", "events")}
    chosen = {**OPTIONS, **inputs, "runs": str(folder / "runs"), **changes}
    return load_config(None, [f"{key}={json.dumps(value)}" for key, value in chosen.items()])


def say(*arguments, code=0):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    if code == 0 and done.exception:
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Day 1 has 60 of the 64 items, a bundle that reranks and a dense channel through an index; day
    2 has four new items, one gone, one reworded."""
    folder = tmp_path_factory.mktemp("shop")
    toy.write_inputs(folder)
    whole = pq.read_table(folder / "catalogue.parquet")
    items = whole.to_pylist()
    pq.write_table(
        pa.Table.from_pylist(items[:60], schema=whole.schema), folder / "catalogue.parquet"
    )
    items[5]["title"], items[5]["category"] = items[50]["title"], items[50]["category"]
    pq.write_table(pa.Table.from_pylist(items[1:], schema=whole.schema), folder / "day2.parquet")
    dense = {"index": "ivf", "lists": 5, "nprobe": 2}
    cfg = config(
        folder, name="day1", **{"events.bad_rows": 1, "decode.rerank": "dense", "dense": dense}
    )
    pipeline.run(cfg, only="bundle")
    return folder


@pytest.fixture(scope="module")
def day2(shop):
    """Today's catalogue under yesterday's codebooks, through the command line."""
    path = shop / "day2.yaml"
    cfg = config(
        shop, name="day2", **{"events.bad_rows": 1, "catalogue.path": str(shop / "day2.parquet")}
    )
    path.write_text(json.dumps(cfg.model_dump(mode="json")))
    say("sids", "encode", "--from", shop / "runs/day1/bundle", "-c", path)
    return shop / "runs/day2/bundle-encoded"


def test_new_items_are_served_without_training(shop, day2):
    old, new = open_bundle(shop / "runs/day1/bundle"), open_bundle(day2, verify=True)
    assert new.catalogue.lineage == old.catalogue.lineage
    assert new.catalogue.item_ids[:60].tolist() == old.catalogue.item_ids.tolist()
    stay = np.r_[1:5, 6:60]
    np.testing.assert_array_equal(new.sids.codes[stay], old.sids.codes[stay])
    assert new.sids.lengths[0] == 0  # retired
    assert (new.sids.lengths[60:] == 3).all()
    assert new.sids.tuple_of(5) == new.sids.tuple_of(50)  # its new text is that of item 50
    ledger = Ledger.load(day2 / "sid")
    cause = dict(zip(ledger.item_ids, ledger.cause, strict=True))
    ids = new.catalogue.item_ids
    assert [cause[ids[row]] for row in (1, 5, 60)] == ["kept", "text", "new"]
    assert read_manifest(day2 / "model").hash == read_manifest(shop / "runs/day1/bundle/model").hash
    found = Retriever.load(day2).search("bath towel", k=64)
    assert {hit.item_id for hit in found} == set(ids[1:])
    assert not (shop / "runs/day2/sft").exists()


def test_a_bundle_that_reranks_goes_on_reranking(shop, day2):
    old, new = open_bundle(shop / "runs/day1/bundle"), open_bundle(day2)
    assert new.rerank == old.rerank is not None
    assert new.config["decode"]["rerank"] == "dense"  # although day 2's own config asks for none
    served = Retriever.load(day2, precision="fp32")
    assert (served.rerank, served.vectors.items.shape) == (old.rerank["weight"], (64, 64))
    vectors = load_items(shop / "runs/day2/embed")
    query = HashingEmbedder(64).encode(["bath towel"])[0]
    found = {hit.item_id: hit.cosine for hit in served.search("bath towel", k=64, fuse="none")}
    for row in (5, 60):  # reworded, new
        assert found[new.catalogue.item_ids[row]] == pytest.approx(
            float(vectors[row] @ query), abs=1e-5
        )


def test_a_fused_answer_is_carried_to_todays_items(shop, day2):
    """The memory and the constants stay; BM25 reads today's items, new and reworded ones, and no
    retired one.
    """
    yesterday = shop / "runs/day1/bundle"
    for file in ("memory.parquet", "answer.json"):
        assert (day2 / "answer" / file).read_bytes() == (yesterday / "answer" / file).read_bytes()
    assert (shop / "runs/day2/memory.key").read_bytes() == (
        shop / "runs/day1/memory.key"
    ).read_bytes()
    assert (shop / "runs/day2/memory.key").stat().st_mode & 0o777 == 0o600
    assert not list((shop / "runs/day2").glob(".answer-*"))
    today = open_dataset(shop / "runs/day2/data").catalogue
    params = Bm25.read_params(yesterday / "answer")
    carried, anew = Bm25.load(day2 / "answer"), Bm25(today, params)
    assert carried.params == params
    np.testing.assert_array_equal(carried.rows, np.arange(1, 64))
    title = today.item(61)["title"]
    np.testing.assert_array_equal(
        carried.scores([title, "bath towel"]), anew.scores([title, "bath towel"])
    )
    served = Retriever.load(day2)
    assert "bm25" in served.search(title, k=64)[0].channels
    # the memory knows items of yesterday by the same rows, and never returns the retired one
    old = Retriever.load(yesterday)
    for query in list(toy.log_queries())[:6]:
        before = {hit.item_id: hit.count for hit in old.search(query, k=60)}
        now = {hit.item_id: hit.count for hit in served.search(query, k=64)}
        gone = old.catalogue.item_ids[0]
        assert gone not in now
        for item_id in now.keys() & before.keys():
            assert now[item_id] == before[item_id]


def test_the_dense_index_is_carried_to_todays_items(shop, day2):
    """Its cells stay; new and reworded items are in the list of their nearest centroid, and the
    retired in none.
    """
    before, now = (Retriever.load(each).fused.dense for each in (shop / "runs/day1/bundle", day2))
    assert now.nprobe == before.nprobe == 2
    np.testing.assert_array_equal(now.index.centroids, before.index.centroids)
    vectors = load_items(shop / "runs/day2/embed")
    nearest = np.linalg.norm(vectors[:, None] - now.index.centroids[None], axis=2).argmin(1)
    assert now.index.lists.tolist() == [-1, *nearest[1:].tolist()]
    stay = np.r_[1:5, 6:60]
    np.testing.assert_array_equal(now.index.lists[stay], before.index.lists[stay])
    assert now.search_vectors(vectors[60:61], 1).rows.tolist() == [[60]]


def test_a_run_with_a_key_of_its_own_is_no_place_for_the_bundle_of_another_memory(
    shop, tmp_path, monkeypatch
):
    """It is refused before anything is made; a bundle elsewhere is not, and where its key is is
    printed.
    """
    yesterday = shop / "runs/day1/bundle"
    run = tmp_path / "runs/today"
    run.mkdir(parents=True)
    (run / "memory.key").write_text("another secret")
    settings = [f"runs={tmp_path / 'runs'}", "name=today"]
    with pytest.raises(
        ValueError, match=r"today/memory\.key is not the key .*\(name=…\), or set SIDAR_MEMORY_KEY"
    ):
        say("sids", "encode", "--from", yesterday, "-c", shop / "day2.yaml", *settings)
    out = run / "elsewhere" / "bundle"  # the key in the run would be beside a later bundle of it
    with pytest.raises(ValueError, match="is not the key"):
        say(
            "sids", "encode", "--from", yesterday, "-c", shop / "day2.yaml", "--out", out, *settings
        )
    assert [path.name for path in run.iterdir()] == ["memory.key"]
    monkeypatch.setenv("SIDAR_MEMORY_KEY", "a third secret")
    with pytest.raises(ValueError, match="SIDAR_MEMORY_KEY is not the key"):
        say("sids", "encode", "--from", yesterday, "-c", shop / "day2.yaml", *settings)
    monkeypatch.setenv("SIDAR_MEMORY_KEY", (shop / "runs/day1/memory.key").read_text().strip())
    said = say(
        "sids", "encode", "--from", yesterday, "-c", shop / "day2.yaml", "--out", out, *settings
    )
    assert "copy memory.key beside the bundle" in said
    assert Retriever.load(out).search(next(iter(toy.log_queries())), k=5)[0].count is not None
    assert (run / "memory.key").read_text() == "another secret"


def test_an_answer_of_another_numbering_is_not_carried(shop, tmp_path):
    with pytest.raises(ValueError, match="counts rows of catalogue lineage"):
        carry_to_catalogue(shop / "runs/day1/bundle/answer", toy.catalogue(), tmp_path)


def test_the_run_goes_on_from_what_was_encoded(shop, day2):
    cfg = load_config(shop / "day2.yaml")
    cfg.warm_start = str((shop / "runs/day1/bundle").resolve())
    reasons = {step.stage.name: step.reason for step in pipeline.plan(cfg)}
    assert [name for name in ("data", "embed", "sid", "index") if reasons[name]] == []
    assert reasons["sft"] == "missing"


def test_the_diff_names_every_move_and_its_cause(shop, day2):
    said = say("sids", "diff", shop / "runs/day1/bundle", day2)
    assert "58 items keep their SID, 1 moved, 4 new, 1 retired" in said
    ids = open_dataset(shop / "runs/day1/data").catalogue.item_ids
    found = json.loads(
        say("sids", "diff", shop / "runs/day1", shop / "runs/day2", "--json", "--examples", "9")
    )
    assert found["causes"] == {"new": 4, "retired": 1, "text": 1}
    assert found["codebooks"] == "same"
    assert found["examples"]["text"][0][0] == ids[5]
    assert found["examples"]["text"][0][1]  # its title


def test_the_plan_of_a_refresh_keeps_the_model_and_that_of_other_codebooks_nothing(shop, day2):
    bundle = shop / "runs/day1/bundle"
    steps = {
        step["part"]: step
        for step in json.loads(say("sids", "plan", bundle, day2, "--json"))["steps"]
    }
    assert steps["vocabulary"]["action"] == "keep"
    assert steps["model"]["action"] == "train on"
    assert "nothing to do" in say("sids", "plan", bundle, bundle)
    sizes = [len(book) for book in load_tokenizer(bundle / "sid").codebooks_]
    cfg = config(
        shop, name="other", **{"events.bad_rows": 1, "seed": 7, "sid.codebook_sizes": sizes}
    )
    pipeline.run(cfg, only="index")  # other codebooks of the same sizes
    found = json.loads(say("sids", "plan", bundle, shop / "runs/other", "--json"))
    assert found["kind"] == "migration"
    assert found["diff"]["sizes"][0] == found["diff"]["sizes"][1]
    assert {step["part"]: step["action"] for step in found["steps"]}["model"] == "train anew"
    assert "sft: not made yet" in found["notes"]
    said = say("sids", "plan", bundle, shop / "runs/other")
    assert "move together or not at all" in said
    assert "although the sizes agree" in said


def test_a_table_without_codebooks_is_a_migration(shop, tmp_path):
    say("sids", "export", shop / "runs/day1/bundle", tmp_path / "ids.json")
    found = json.loads(
        say("sids", "plan", shop / "runs/day1/bundle", tmp_path / "ids.json", "--json")
    )
    assert (found["kind"], found["diff"]["codebooks"]) == ("migration", "unknown")


def test_codebooks_of_the_same_sizes_in_place_of_the_models_are_refused(shop, day2, tmp_path):
    mine = shutil.copytree(day2, tmp_path / "bundle", copy_function=shutil.copyfile)
    file = mine / "sid" / "codebooks.safetensors"
    books = load_file(file)
    save_file({name: np.ascontiguousarray(book[::-1]) for name, book in books.items()}, file)
    with pytest.raises(ValueError, match=r"other codebooks of the same sizes.*`sidar sids plan`"):
        open_bundle(mine)


def test_a_model_does_not_fit_a_table_that_goes_on_from_nothing_it_knows(shop, day2, tmp_path):
    other = shop / "runs/other"
    if not (other / "index").is_dir():
        pipeline.run(config(shop, name="other", **{"events.bad_rows": 1, "seed": 7}), only="index")
    from sidar.serve.bundle import BundleSources, build_bundle

    parts = {name: other / name for name in ("data", "embed", "sid", "index")}
    with pytest.raises(ValueError, match=r"model .* was made from catalogue"):
        build_bundle(
            tmp_path / "b", BundleSources(**parts, model=day2 / "model", config={}, label="x")
        )


def test_alarms_are_asked_of_a_run_and_of_a_bundle(shop, day2, tmp_path):
    found = {each["name"]: each for each in json.loads(say("sids", "alarms", day2, "--json"))}
    assert found["tombstones"]["value"] == pytest.approx(1 / 64)
    assert found["error"]["value"] is None  # five new items are too few to test
    assert "5 new items" in found["error"]["says"]
    assert "quiet" in say("sids", "alarms", shop / "runs/day2")
    (tmp_path / "strict.yaml").write_text("alarms: {tombstones: 0.01}")
    assert "RINGS" in say("sids", "alarms", day2, "-c", tmp_path / "strict.yaml")
    say("sids", "alarms", day2, "-c", tmp_path / "strict.yaml", "--fail", code=2)
    with pytest.raises(ValueError, match="neither a run"):
        say("sids", "alarms", tmp_path)
    bare = shutil.copytree(day2, tmp_path / "bare")
    (bare / "sid" / "ledger.parquet").unlink()
    with pytest.raises(ValueError, match=r"no ledger\.parquet"):
        say("sids", "alarms", bare)


def test_compaction_answers_as_before_in_fewer_rows(shop, day2, tmp_path):
    small = tmp_path / "small"
    said = say("sids", "compact", day2, small)
    assert "64 rows -> 63" in said
    assert "memory.key" in said  # the key is not copied
    shutil.copyfile(day2.parent / "memory.key", tmp_path / "memory.key")
    before, after = open_bundle(day2), open_bundle(small, verify=True)
    rows = RowMap.load(small / "catalogue")
    assert (rows.before, rows.after) == (before.catalogue.lineage, after.catalogue.lineage)
    assert after.catalogue.item_ids.tolist() == before.catalogue.item_ids[1:].tolist()
    assert rows.new.tolist() == [-1, *range(63)]
    np.testing.assert_array_equal(after.sids.codes, before.sids.codes[1:])
    assert after.examples == before.examples
    assert after.rerank == before.rerank is not None
    mine, theirs = (Retriever.load(each, precision="fp32") for each in (small, day2))
    for query in ("bath towel", next(iter(toy.log_queries()))):
        alone = [served.search(query, k=64, fuse="none") for served in (mine, theirs)]
        assert all(hit.cosine is not None for hit in alone[1])
        said = [[(hit.item_id, hit.score, hit.cosine) for hit in hits] for hits in alone]
        assert said[0] == said[1]
        fused = [served.search(query, k=64) for served in (mine, theirs)]
        assert any(hit.count for hit in fused[1]) == (query in toy.log_queries())
        assert {name for hit in fused[1] for name in hit.channels} >= {
            "bm25",
            "dense",
            "generative",
        }
        said = [
            [(hit.item_id, hit.score, hit.count, hit.channels) for hit in hits] for hits in fused
        ]
        assert said[0] == said[1]
    assert len(Ledger.load(small / "sid")) == 63
    with pytest.raises(ValueError, match="nothing to compact"):
        say("sids", "compact", small, tmp_path / "again")
    # what still holds old rows does not mix with it, and the next run rebuilds it
    mixed = shutil.copytree(small, tmp_path / "mixed", copy_function=shutil.copyfile)
    shutil.rmtree(mixed / "index")
    shutil.copytree(day2 / "index", mixed / "index")
    with pytest.raises(ValueError, match="index"):
        open_bundle(mixed)
    cfg = load_config(shop / "day2.yaml")
    cfg.warm_start = str(small)
    reasons = {step.stage.name: step.reason for step in pipeline.plan(cfg)}
    assert "warm_start" in reasons["data"]
    assert reasons["index"]
    # the day after: rows go on from the compact numbering
    cfg.name = "day3"
    pipeline.run(cfg, only="index")
    catalogue = open_catalogue(shop / "runs/day3/data/catalogue.arrow")
    assert catalogue.lineage == after.catalogue.lineage
    again = load_sids(shop / "runs/day3/sid/sids.parquet", catalogue.item_ids)
    np.testing.assert_array_equal(again.codes, after.sids.codes)
    assert read_manifest(shop / "runs/day3/sid").shapes["changes"] == {"kept": 63}


def test_vectors_of_another_encoder_do_not_meet_frozen_codebooks(shop):
    cfg = config(shop, name="wrong", **{"events.bad_rows": 1, "embed.model": "hashing:32"})
    cfg.warm_start = str(shop / "runs/day1/bundle")
    with pytest.raises(
        ValueError, match=r"fitted to vectors of 'hashing:64'.* these are of 'hashing:32'"
    ):
        pipeline.run(cfg, only="sid")


def test_ids_go_out_and_come_back_as_they_were(shop, tmp_path):
    bundle = shop / "runs/day1/bundle"
    assert "60 items" in say("sids", "export", bundle, tmp_path / "ids.json", "--names", "x,y,z")
    assert "<x_" in (tmp_path / "ids.json").read_text()
    assert "60 items, codebooks 16/8/4" in say(
        "sids", "import", tmp_path / "ids.json", tmp_path / "ids.parquet", "--sizes", "16,8,4"
    )
    assert "60 items keep their SID, 0 moved" in say(
        "sids", "diff", bundle, tmp_path / "ids.parquet"
    )
    for arguments, error in (
        (("export", bundle, tmp_path / "x.json", "--form", "words"), "'words' is not one of"),
        (("import", tmp_path / "ids.json", tmp_path / "ids.csv"), "want a .parquet"),
        (
            ("import", tmp_path / "ids.json", tmp_path / "i.parquet", "--sizes", "16;8"),
            "no list of numbers",
        ),
    ):
        with pytest.raises(ValueError, match=error):
            say("sids", *arguments)
