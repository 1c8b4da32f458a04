"""A fused bundle of the toy shop: what it answers, how a day updates it, and what a copy that
leaves holds.
"""

import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fused_shop import FIRST, PRIVATE, QUERY, SALT, events
from shop import write_bundle, write_stages
from typer.testing import CliRunner

from sidar import Retriever, pipeline
from sidar.answer.count import count_memory
from sidar.answer.key import VARIABLE
from sidar.answer.memory import FILE, Memory
from sidar.artifacts import open_artifact, read_manifest
from sidar.cli import app
from sidar.config import load_config
from sidar.data import toy
from sidar.data.catalogue import open_catalogue, save_catalogue
from sidar.data.cleaning.clean import DAY_US
from sidar.data.day_log import write_day_requests
from sidar.data.duck import Duck
from sidar.embed import HashingEmbedder
from sidar.filters import read_filter
from sidar.index.dual_view import DualViewIndex
from sidar.pipeline.remember import remembered, update_memory
from sidar.pipeline.rows import dense_rows
from sidar.pipeline.runtime import folders
from sidar.pipeline.stage import masked
from sidar.serve.bundle import open_bundle
from sidar.serve.bundle.export import export_bundle
from sidar.serve.request import SearchRequest
from sidar.types import Catalogue, Prompt


def say(*arguments, code=0):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    if code == 0 and done.exception:
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.fixture
def bundle(shop, tmp_path):
    """A copy of the bundle with its key beside it."""
    shutil.copyfile(shop / "runs/shop/memory.key", tmp_path / "memory.key")
    return shutil.copytree(shop / "runs/shop/bundle", tmp_path / "bundle")


def key_of(shop):
    return (shop / "runs/shop/memory.key").read_text().strip().encode()


def counted(shop, days, folder):
    """The memory of a log of ``days``, counted whole."""
    log = folder / "log.parquet"
    pq.write_table(events(days), log)
    cfg = load_config(shop / "sidar.yaml", [f"events.path={log}"])
    catalogue = open_bundle(shop / "runs/shop/bundle").catalogue
    with Duck(folder / "work", "256MB", 1) as duck:
        write_day_requests(duck, cfg, catalogue, folder / "r.parquet")
        return count_memory(duck, folder / "r.parquet", ("train",), key_of(shop), catalogue.lineage)


def assert_same(found, want):
    for name in ("keys", "rows", "days", "weights"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name))


def test_a_fused_answer_says_where_it_comes_from(served):
    everything = served.search(QUERY, k=64)
    assert len(everything) == 64
    assert sum(math.exp(hit.score) for hit in everything) == pytest.approx(1.0, abs=1e-6)
    assert [hit.score for hit in everything] == sorted(
        (hit.score for hit in everything), reverse=True
    )
    memory = served.fused.model
    rows, counts = memory.memory.counts(
        QUERY, memory.secret, memory.params.half_life, served.catalogue.alive
    )
    want = dict(zip(served.catalogue.item_ids[rows].tolist(), counts.tolist(), strict=True))
    assert {hit.item_id: hit.count for hit in everything if hit.count} == pytest.approx(want)
    assert all(("memory" in hit.channels) == (hit.count > 0) for hit in everything)

    narrow = served.explain(QUERY, k=8, beam=1)  # as wide as k
    assert (narrow.fuse, narrow.seen) == ("memory", pytest.approx(sum(want.values())))
    reached = {
        hit.item_id for hit in served.search(QUERY, k=64, beam=8, fuse="none") if hit.probability
    }
    assert any(hit.probability is None for hit in narrow.results)
    for hit in narrow.results:
        assert (
            (hit.probability is None) == (not hit.level_logp) == ("generative" not in hit.channels)
        )
        if hit.probability is not None:
            assert hit.item_id in reached
            assert hit.probability == pytest.approx(math.exp(sum(hit.level_logp)))


def test_a_filter_keeps_every_channel_to_what_it_allows(served):
    wanted = "price < 40 AND NOT brand IS NULL"
    allowed = served.filters.allowed(read_filter(wanted)).rows
    assert 5 < allowed.sum() < 40
    answer = served.search(SearchRequest(query=QUERY, k=64, filter=wanted))
    rows = served.catalogue.rows([hit.item_id for hit in answer.results])
    assert sorted(rows) == np.flatnonzero(allowed).tolist()
    # memory and prior are shares of what is allowed
    assert sum(math.exp(hit.score) for hit in answer.results) == pytest.approx(1.0, abs=1e-6)
    memory = served.fused.model
    counted = (memory.secret, memory.params.half_life)
    _, everywhere = memory.memory.counts(QUERY, *counted, served.catalogue.alive)
    _, counts = memory.memory.counts(QUERY, *counted, allowed)
    assert answer.seen == pytest.approx(counts.sum())
    assert 0 < counts.sum() < everywhere.sum()

    vectors = served.vectors.search([QUERY])
    generative = served.hits([Prompt(QUERY)], 64, filter=wanted)
    channels = served.fused.channels([QUERY], vectors, generative, allowed)
    whole = served.fused.channels([QUERY], vectors, served.hits([Prompt(QUERY)], 64, 64))
    assert set(channels) == {"bm25", "dense", "generative"}
    for name, hits in channels.items():
        before = [row for row in whole[name].rows[0].tolist() if row >= 0 and allowed[row]]
        assert [row for row in hits.rows[0].tolist() if row >= 0] == before, name


def test_the_model_alone_answers_where_asked(served):
    alone = served.explain(QUERY, k=8, fuse="none")
    assert (alone.fuse, alone.seen) == ("none", 0.0)
    for hit in alone.results:
        assert (hit.count, hit.channels) == (None, ())
        assert hit.probability == pytest.approx(math.exp(sum(hit.level_logp)))
    fused = served.search([QUERY, "never asked before"], k=8)
    assert [hit.item_id for hit in fused[0]] != [hit.item_id for hit in alone.results]
    assert all(hit.count == 0 for hit in fused[1])


def test_what_cannot_be_fused_is_refused(served, tmp_path):
    with pytest.raises(ValueError, match="fuse: 'everything' is not served"):
        served.search(QUERY, fuse="everything")
    with pytest.raises(ValueError, match="leave rerank out"):
        served.search(QUERY, fuse="memory", rerank=True)
    plain = write_bundle(write_stages(tmp_path))
    with pytest.raises(ValueError, match="this bundle holds no memory"):
        Retriever.load(plain).search(QUERY, fuse="memory")
    with pytest.raises(ValueError, match="holds no memory"):
        remembered(plain, QUERY)


def test_a_bundle_without_its_key_is_a_clear_error(bundle, shop, monkeypatch):
    (bundle.parent / "memory.key").unlink()
    for ask in (Retriever.load, lambda folder: remembered(folder, QUERY)):
        with pytest.raises(
            ValueError, match=r"whose key is kept apart: set SIDAR_MEMORY_KEY, or put memory\.key"
        ):
            ask(bundle)
    assert Retriever.load(bundle, memory_key=key_of(shop)).search(QUERY)[0].count is not None
    monkeypatch.setenv(VARIABLE, "wrong")
    with pytest.raises(ValueError, match="was made with another key"):
        Retriever.load(bundle)
    monkeypatch.setenv(VARIABLE, key_of(shop).decode())
    assert Retriever.load(bundle).search(QUERY)[0].count is not None


def test_an_item_that_retired_after_the_index_was_made_is_not_answered(served, bundle):
    first = served.search(QUERY, k=1)[0]
    file = bundle / "catalogue" / "catalogue.arrow"
    catalogue = open_catalogue(file)
    alive = catalogue.alive & (catalogue.item_ids != first.item_id)
    place = catalogue.table.schema.get_field_index("alive")
    table = catalogue.table.set_column(place, "alive", pa.array(alive))
    # the old file is mapped: it is replaced, not written over
    newer = bundle.parent / "catalogue.arrow"
    save_catalogue(Catalogue(table, catalogue.lineage), newer)
    newer.replace(file)
    now = Retriever.load(bundle)
    assert first.item_id not in {hit.item_id for hit in now.search(QUERY, k=64)}
    assert first.item_id not in now.catalogue.item_ids[now.fused.lexical.rows]


@pytest.fixture
def indexed(shop, tmp_path, monkeypatch):
    """The run again, with a catalogue that is too large for exact search: only answer and bundle
    are made anew.
    """
    runs = shutil.copytree(shop / "runs", tmp_path / "runs")
    cfg = load_config(shop / "sidar.yaml", [f"runs={runs}", "dense.lists=8", "dense.nprobe=2"])
    monkeypatch.setattr(dense_rows, "EXACT_LIMIT", 63)
    assert [step.stage.name for step in pipeline.plan(cfg, only="bundle") if step.reason] == [
        "answer",
        "bundle",
    ]
    pipeline.run(cfg, only="bundle")
    return cfg


def test_a_large_bundle_searches_dense_through_the_index_that_the_answer_was_fitted_with(
    indexed, served
):
    run = indexed.run_dir
    bundle = run / "bundle"
    assert json.loads((bundle / "answer/answer.json").read_text())["dense"] == {
        "index": "ivf",
        "nprobe": 2,
    }
    files = {"answer/dual_view.safetensors", "answer/dual_view.json"}
    assert files <= set(read_manifest(bundle).files)
    large = Retriever.load(bundle, precision="fp32", verify=True)
    queries = list(toy.log_queries())[:12]
    row = dense_rows.served_dense(
        folders(run, ("embed", "answer")), HashingEmbedder(64), large.catalogue.alive
    )
    measured = row.hits([Prompt(query) for query in queries], 500)
    vectors = large.vectors.search(queries)
    found = large.fused.dense.search_vectors(vectors, 500)
    np.testing.assert_array_equal(found.rows, measured.rows)
    np.testing.assert_allclose(found.scores, measured.scores, atol=1e-6)
    assert (found.rows < 0).any()  # two lists do not hold all items
    # exact search finds all
    assert ((served.fused.dense.search_vectors(vectors, 500).rows >= 0).sum(1) == 64).all()
    for q, query in enumerate(queries):
        reached = {hit.item_id for hit in large.search(query, k=64) if "dense" in hit.channels}
        assert reached == set(large.catalogue.item_ids[found.rows[q][found.rows[q] >= 0]])
    # a copy that leaves has it as well, and what has been changed is refused
    export_bundle(bundle, run / "out", 1)
    assert files <= set(read_manifest(run / "out").files)
    (run / "out/answer/dual_view.json").write_text("{}")
    with pytest.raises(ValueError, match=r"dual_view\.json"):
        open_bundle(run / "out", verify=True)


def test_an_index_of_other_vectors_is_refused_and_retired_items_are_left_out_of_it(indexed):
    bundle = indexed.run_dir / "bundle"
    vectors = np.load(bundle / "embed/items.npy")
    alive = np.arange(len(vectors)) != 5
    index = DualViewIndex.load(bundle / "answer", vectors, alive=alive)
    assert 5 not in index.search(vectors[5:6], 64, 8).rows
    with pytest.raises(ValueError, match="indexes other item vectors"):
        DualViewIndex.load(bundle / "answer", vectors[::-1])


def test_a_day_makes_the_memory_that_its_log_counted_whole_would(shop, bundle, tmp_path):
    before = Memory.load(bundle / "answer")
    # the test day is not in it
    assert sorted(set(before.days.tolist())) == [FIRST + day for day in range(6)]
    assert_same(before, counted(shop, range(1, 7), tmp_path))
    said = say(
        "memory",
        "update",
        "--bundle",
        bundle,
        "-c",
        shop / "sidar.yaml",
        f"events.path={shop / 'after.parquet'}",
    )
    whole = counted(shop, range(1, 9), tmp_path)
    after = Memory.load(bundle / "answer")
    assert_same(after, whole)
    assert after.facts.last_day == FIRST + 7
    assert "2 days, 2026-01-11 to 2026-01-12: 98 requests" in said
    assert f"{len(before):,} entries before, {len(whole):,} now" in said
    assert "0 events of unknown or retired items, 0 malformed rows" in said
    assert "after a restart" in said
    once = (bundle / "answer" / FILE).read_bytes()
    cfg = load_config(shop / "sidar.yaml", [f"events.path={shop / 'after.parquet'}"])
    update_memory(cfg, bundle)
    assert (bundle / "answer" / FILE).read_bytes() == once
    open_bundle(bundle, verify=True)
    # the run's own files have not changed with it
    assert_same(Memory.load(shop / "runs/shop/answer"), before)
    assert read_manifest(bundle).hash == read_manifest(shop / "runs/shop/bundle").hash
    steps = pipeline.plan(load_config(shop / "sidar.yaml"), only="bundle")
    assert {step.reason for step in steps} == {None}


def update_with(shop, bundle, records):
    pq.write_table(pa.Table.from_pylist(records), bundle.parent / "day.parquet")
    return update_memory(
        load_config(shop / "sidar.yaml", [f"events.path={bundle.parent / 'day.parquet'}"]), bundle
    )


def test_the_last_delivery_of_a_day_wins_even_where_nothing_was_chosen(shop, bundle):
    sixth = toy.FIRST_DAY + 5 * DAY_US
    shown = {
        "ts": sixth,
        "user_id": "a",
        "request_id": "r",
        "query": QUERY,
        "item_id": "T000",
        "action": "impression",
    }
    unknown = shown | {"item_id": "nobody's", "request_id": "s"}
    broken = shown | {"ts": None}
    found = update_with(shop, bundle, [*[shown] * 200, unknown, broken])
    assert (found.days, found.queries, found.unknown_items, found.malformed) == (
        (FIRST + 5,),
        0,
        1,
        1,
    )
    assert FIRST + 5 not in set(Memory.load(bundle / "answer").days.tolist())


def test_a_log_of_the_future_is_refused_since_it_would_fade_every_count(shop, bundle):
    before = (bundle / "answer" / FILE).read_bytes()
    late = {
        "ts": 4_000_000_000_000_000,
        "user_id": "a",
        "request_id": "r",
        "query": QUERY,
        "item_id": "T000",
    }
    with pytest.raises(ValueError, match="events of 2096-10-02, which is after today"):
        update_with(shop, bundle, [late])
    assert (bundle / "answer" / FILE).read_bytes() == before


def test_a_query_is_shown_with_its_items(shop, bundle, served):
    found = remembered(bundle, QUERY.upper() + "!")
    hits = {hit.item_id: hit.count for hit in served.search(QUERY, k=64) if hit.count}
    assert {item.item_id: item.count for item in found} == pytest.approx(hits)
    assert [item.count for item in found] == sorted((item.count for item in found), reverse=True)
    assert all(item.weight >= item.count for item in found)
    said = say("memory", "show", "--bundle", bundle, QUERY)
    assert found[0].item_id in said
    assert found[0].title[:20] in said
    assert "nothing was chosen" in say("memory", "show", "--bundle", bundle, "never asked")


def texts(folder):
    """All bytes of a folder's files, and the strings inside its Parquet files, which are
    compressed.
    """
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.append(path.read_bytes())
        if path.suffix == ".parquet":
            found.append(json.dumps(pq.read_table(path).to_pylist(), default=str).encode())
    return b"\n".join(found)


def test_a_bundle_that_leaves_has_no_key_no_rare_pair_and_no_query(shop, tmp_path, monkeypatch):
    bundle, out = shop / "runs/shop/bundle", tmp_path / "gone" / "bundle"
    said = say("bundle", "-c", shop / "sidar.yaml", "--to", out)
    whole, thin = Memory.load(bundle / "answer"), Memory.load(out / "answer")
    pairs = {}
    for key, row, users in zip(
        whole.keys.tolist(), whole.rows.tolist(), whole.users.tolist(), strict=True
    ):
        pairs[key, row] = users
    kept = {pair for pair, users in pairs.items() if users >= 3}
    assert set(zip(thin.keys.tolist(), thin.rows.tolist(), strict=True)) == kept
    assert 0 < len(kept) < len(pairs)
    assert (
        f"{len(kept):,} pairs of query and item; {len(pairs) - len(kept):,} of fewer than 3 users"
        in said
    )
    assert "give memory.key apart" in said

    open_artifact(out, "bundle", verify=True)
    mine, theirs = (
        {p.relative_to(f) for f in [folder] for p in f.rglob("*")} for folder in (bundle, out)
    )
    assert mine == theirs
    assert all(path.stat().st_nlink == 1 for path in out.rglob("*") if path.is_file())
    for folder in (bundle, out):
        inside = texts(folder)
        assert key_of(shop) not in inside
        assert PRIVATE.encode() not in inside
        assert b"zyzzogeton" not in inside
        assert SALT.encode() not in inside
    with pytest.raises(ValueError, match="whose key is kept apart"):
        Retriever.load(out, verify=True)
    monkeypatch.setenv(VARIABLE, key_of(shop).decode())
    assert Retriever.load(out, verify=True).search(QUERY)[0].count is not None
    assert remembered(bundle, PRIVATE)
    assert not remembered(out, PRIVATE)

    # a day later, still thinned, and to the same place again
    cfg = load_config(shop / "sidar.yaml", [f"events.path={shop / 'after.parquet'}"])
    update_memory(cfg, out)
    assert not remembered(out, PRIVATE)
    assert "of fewer than 9 users" in say(
        "bundle", "-c", shop / "sidar.yaml", "--to", out, "--min-users", "9"
    )
    typed = {}
    for record in pq.read_table(shop / "runs/shop/data/requests.parquet").to_pylist():
        typed.setdefault(record["query"], set()).add(record["user_id"])
    examples = json.loads((out / "bundle.json").read_text())["examples"]
    assert all(len(typed[query]) >= 9 for query in examples if query in typed)


def test_a_manifest_says_whether_the_salt_changed_and_not_what_it_is(shop):
    cfg = load_config(shop / "sidar.yaml")
    file = cfg.run_dir / "data" / "manifest.json"

    def reason(*overrides):
        steps = pipeline.plan(load_config(shop / "sidar.yaml", list(overrides)), only="data")
        return steps[0].reason

    before = file.read_text()
    assert SALT not in before
    assert reason() is None
    assert reason("privacy.salt=other") == "config changed: privacy.salt"
    mask = masked(SALT)
    assert mask in before
    try:  # as an older version wrote it
        file.write_text(before.replace(mask, SALT))
        assert reason() is None
        assert reason("privacy.salt=other") == "config changed: privacy.salt"
    finally:
        file.write_text(before)


def test_where_a_copy_may_not_go(shop, tmp_path):
    bundle = shop / "runs/shop/bundle"
    (tmp_path / "mine").mkdir()
    for out, error in (
        (tmp_path / "mine", "is no bundle"),
        (bundle, "overlap"),
        (bundle / "in", "overlap"),
    ):
        with pytest.raises(ValueError, match=error):
            export_bundle(bundle, out, 3)
    with pytest.raises(ValueError, match="overlap"):
        export_bundle(bundle, bundle.parent, 3)
    with pytest.raises(ValueError, match="min_users must be at least 1"):
        export_bundle(bundle, tmp_path / "out", 0)
    with pytest.raises(ValueError, match="say where it goes with --to"):
        say("bundle", "-c", shop / "sidar.yaml", "--min-users", "4")
    stray = write_bundle(write_stages(tmp_path / "plain"))
    (stray / "notes.txt").write_text("not of the bundle")
    assert "it holds no memory" in " ".join(export_bundle(stray, tmp_path / "out", 3).lines())
    assert not (tmp_path / "out" / "notes.txt").exists()
    open_bundle(tmp_path / "out", verify=True)
