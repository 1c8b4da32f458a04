"""Bundle and façade over real parts: a toy shop, its index and an untrained language model."""

import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from shop import SIZES, table, write_bundle, write_stages

from sidar import Retriever
from sidar.artifacts import read_manifest
from sidar.data import toy
from sidar.data.catalogue import found
from sidar.decode import score_all
from sidar.index import PrefixIndex
from sidar.serve.bundle import open_bundle
from sidar.serve.request import MAX_QUERY
from sidar.serve.trace import common_category
from sidar.types import Catalogue, Prompt, SemanticIds


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_stages(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def bundle(run):
    return write_bundle(run)


@pytest.fixture(scope="module")
def retriever(bundle):
    return Retriever.load(bundle, precision="fp32")


# ---------------------------------------------------------------------- bundle


def test_a_bundle_says_what_it_is_and_needs_nothing_beside_it(run, bundle, tmp_path):
    manifest = read_manifest(bundle)
    assert manifest.kind == "bundle"
    assert manifest.shapes == {
        "items": 64,
        "sids": 56,
        "codebook_sizes": list(SIZES),
        "lineage": toy.catalogue().lineage,
    }
    assert manifest.inputs["sid"] == read_manifest(run / "sid").hash
    alone = shutil.copytree(bundle, tmp_path / "elsewhere")
    here = Retriever.load(bundle, precision="fp32").search("towel")
    assert Retriever.load(alone, "auto", precision="fp32", verify=True).search("towel") == here
    opened = open_bundle(alone)
    assert opened.config["decode"]["beam"] == 16
    assert opened.label == "sft"
    assert opened.catalogue.column("text") == [None] * 64
    assert "headphones" in opened.examples


def test_example_queries_come_from_many_users_or_from_categories(run, tmp_path):
    crowd = [("bath towel", f"u{i}", "train") for i in range(6)] + [
        ("tent", f"u{i}", "train") for i in range(5)
    ]
    secret = [("my own address", "u1", "train")] * 9 + [("hose", f"u{i}", "test") for i in range(9)]
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("bundle"))
    log = pa.table(
        dict(
            zip(
                ("query", "user_id", "split"),
                map(list, zip(*crowd, *secret, strict=True)),
                strict=True,
            )
        )
    )
    pq.write_table(log, tmp_path / "run" / "data" / "requests.parquet")
    assert open_bundle(write_bundle(tmp_path / "run")).examples == ("bath towel", "tent")


@pytest.mark.parametrize("part", ["sid", "index", "model", "catalogue"])
def test_an_exchanged_part_is_refused_by_name_with_both_hashes(bundle, tmp_path, part):
    other = write_stages(tmp_path / "other", sids=SemanticIds(*_shifted()), seed=1)
    mine = shutil.copytree(bundle, tmp_path / "bundle")
    stranger = write_bundle(other)
    shutil.rmtree(mine / part)
    shutil.copytree(stranger / part, mine / part)
    with pytest.raises(ValueError, match=r"sidar ") as error:
        open_bundle(mine)
    ours, theirs = (
        json.loads((b / "bundle.json").read_text())["parts"][part][:12] for b in (bundle, stranger)
    )
    assert ours in str(error.value)
    assert theirs in str(error.value)
    assert part in str(error.value)


def test_building_from_stages_that_do_not_fit_names_the_command(run, tmp_path):
    other = write_stages(tmp_path / "other", sids=SemanticIds(*_shifted()))
    with pytest.raises(
        ValueError,
        match=r"index \w{12} was made from sid \w{12}.* here is \w{12}; run `sidar index`",
    ):
        write_bundle(shutil.copytree(run, tmp_path / "run"), sid=other / "sid")
    with pytest.raises(ValueError, match=r"model \w{12} was made from .*run `sidar sft`"):
        write_bundle(other, model=run / "sft" / "model")
    assert not (other / "bundle").exists()


def test_exchanged_files_without_their_manifests_are_refused_too(bundle, tmp_path):
    other = write_bundle(write_stages(tmp_path / "other", sids=SemanticIds(*_shifted())))
    mine = shutil.copytree(bundle, tmp_path / "a")
    shutil.copy(other / "index" / "prefix.safetensors", mine / "index" / "prefix.safetensors")
    with pytest.raises(ValueError, match="under another SID"):
        open_bundle(mine)
    wider = write_bundle(write_stages(tmp_path / "wider", sids=table(64, (9, 4, 3))))
    mine = shutil.copytree(bundle, tmp_path / "b")
    shutil.copytree(
        wider / "model",
        mine / "model",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("manifest.json"),
    )
    with pytest.raises(ValueError, match="9/4/3"):
        open_bundle(mine)
    mine = shutil.copytree(bundle, tmp_path / "c")
    with (mine / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(ValueError, match="differs from its manifest"):
        Retriever.load(mine, verify=True)
    with pytest.raises(ValueError, match="sidar bundle"):
        open_bundle(tmp_path)


# ---------------------------------------------------------------------- search


def test_results_are_the_models_best_with_their_scores(retriever):
    results = retriever.search("t towels kitchen", k=10, beam=64)
    assert [r.rank for r in results] == list(range(1, 11))
    prompt = retriever.model.prompts.encode(Prompt("t towels kitchen"), retriever.sids)
    scores = score_all(retriever._scorer, [prompt], retriever.index)[0].numpy()
    # (N,) every item has its SID's score
    want = np.sort(scores[retriever.index.lookup(retriever.sids.codes)])[::-1]
    assert [r.score for r in results] == pytest.approx(want[:10].tolist(), abs=1e-5)
    for r in results:
        row = retriever.catalogue.row(r.item_id)
        assert r.sid == retriever.sids.tuple_of(row)
        assert r.sid_text == "-".join(map(str, r.sid))
        assert sum(r.level_logp) == pytest.approx(r.score, abs=1e-5)
        assert r.probability == pytest.approx(np.exp(r.score))
        item = toy.catalogue().item(row)
        assert (r.title, r.brand, r.price) == (item["title"], item["brand"] or "", item["price"])
        assert r.category == tuple(item["category"])


def test_exact_equals_a_beam_over_everything_and_a_batch_equals_single_searches(retriever):
    queries = ["towel", "", "a much longer query about mechanical keyboards for travel", "tent"]
    alone = [retriever.search(q, k=5, beam=56) for q in queries]
    together = retriever.search(queries, k=5, beam=56)
    exact = [retriever.search(q, k=5, exact=True) for q in queries]
    for one, batched, best in zip(alone, together, exact, strict=True):
        assert [r.item_id for r in one] == [r.item_id for r in batched] == [r.item_id for r in best]
        assert [r.score for r in one] == pytest.approx([r.score for r in batched], abs=1e-5)


def test_a_bundle_that_was_to_rerank_and_has_no_weight_says_so(run, bundle, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    unweighed = write_bundle(tmp_path / "run", decode={"rerank": "dense"})
    (note,) = json.loads((unweighed / "bundle.json").read_text())["notes"]
    assert note.startswith("decode.rerank is dense, but no request of the log has a query text")
    assert read_manifest(unweighed).shapes["notes"] == [note]
    assert json.loads((bundle / "bundle.json").read_text())["notes"] == []
    served = Retriever.load(unweighed, precision="fp32")
    assert served.explain("tent").rerank is None
    with pytest.raises(
        ValueError,
        match=r"has no weight to rerank by; make it with decode\.rerank=dense from a log with",
    ):
        served.search("tent", rerank=True)


# a beam of one misses the best SID of each
QUERIES = ["tent", "bath towel", "red shoe", "usb cable"]


def sids_of(retriever, **options):
    return [retriever.search(query, k=1, **options)[0].sid for query in QUERIES]


def test_a_bundle_searches_as_it_was_measured_unless_a_request_says_otherwise(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    exact = Retriever.load(
        write_bundle(tmp_path / "run", decode={"beam": 1, "exact": True}), precision="fp32"
    )
    assert exact.explain("tent", 1).exact
    assert not exact.explain("tent", 1, exact=False).exact
    best = sids_of(exact)
    assert best == sids_of(exact, exact=True)
    assert all(a != b for a, b in zip(best, sids_of(exact, exact=False), strict=True))
    prompts = [Prompt(query) for query in QUERIES]
    assert (
        exact.sid_ranking(prompts, 1).tolist() == exact.sid_ranking(prompts, 1, exact=True).tolist()
    )


def test_a_bundle_made_for_int8_decodes_in_int8(run, tmp_path, retriever):
    shutil.copytree(run, tmp_path / "run")
    rounded = Retriever.load(write_bundle(tmp_path / "run", decode={"precision": "int8"}))
    assert rounded._scorer.engine.blocks[0].down.weight.dtype == torch.int8
    for query in ("towel", "red cotton shirt"):
        exact, ours = (
            {hit.item_id: hit.score for hit in served.search(query, 20, fuse="none")}
            for served in (retriever, rounded)
        )
        shared = exact.keys() & ours.keys()
        assert len(shared) >= 0.8 * len(exact)
        assert max(abs(exact[item] - ours[item]) for item in shared) < 0.1


@pytest.mark.parametrize("stored", [{}, {"search_beam": 1, "exact": True}])
def test_a_bundle_of_an_older_version_goes_on_searching_with_its_beam(run, tmp_path, stored):
    shutil.copytree(run, tmp_path / "run")
    older = Retriever.load(
        write_bundle(tmp_path / "run", decode={"beam": 1, **stored}), precision="fp32"
    )
    assert not older.explain("tent", 1).exact
    assert sids_of(older) == sids_of(older, exact=False) != sids_of(older, exact=True)


def test_hits_and_sid_ranking_speak_rows_and_sid_numbers(retriever):
    prompts = [Prompt("towel"), Prompt("tent", history=(3, 4))]
    hits = retriever.hits(prompts, k=7, beam=56)
    assert hits.rows.shape == (2, 7)
    assert [retriever.catalogue.item_ids[row] for row in hits.rows[0]] == [
        r.item_id for r in retriever.search("towel", 7, beam=56)
    ]
    ranking = retriever.sid_ranking(prompts, beam=12)
    assert ranking.shape == (2, 12)
    inside = retriever.index.expand(ranking, 64)
    assert all(
        set(hit) <= set(beam)
        for hit, beam in zip(retriever.hits(prompts, k=7, beam=12).rows, inside, strict=True)
    )
    assert retriever.hits([], k=3).rows.shape == (0, 3)


def test_history_and_profile_change_the_scores_and_unknown_ids_are_reported(retriever):
    plain = retriever.search("towel")
    touched = retriever.search("towel", history=["T203", "T204"])
    assert [r.score for r in touched] != [r.score for r in plain]
    assert [r.score for r in retriever.search("towel", profile="age_group 30-44")] != [
        r.score for r in plain
    ]
    with pytest.warns(UserWarning, match="1 history ids .* nope"):
        assert retriever.search("towel", history=["T203", "nope", "T204"]) == touched
    answer = retriever.explain("towel", history=["nope"])
    assert answer.ignored_history == ("nope",)
    assert "nope" in answer.notes[0]


def test_edges_of_a_request_are_defined(retriever):
    assert len(retriever.search("")) == 10
    everything = retriever.explain("towel", k=1000)
    assert len(everything.results) == 64
    assert len({r.item_id for r in everything.results}) == 64
    assert "64 of 1000" in everything.notes[0]
    long = retriever.explain("towel " * 5000)
    assert long.results == retriever.explain(("towel " * 5000)[:MAX_QUERY]).results
    assert f"{MAX_QUERY:,}" in long.notes[0]
    assert len(retriever.search("\ud800 towel \x00 <s1_1> ＜s1_1＞")) == 10
    for wrong in ({"k": 0}, {"beam": 0}):
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            retriever.search("towel", **wrong)
    assert retriever.search([]) == []


def test_a_retired_item_is_not_found_even_if_the_index_still_has_it(retriever):
    gone = retriever.search("towel", k=3)[0].item_id
    fields = retriever.catalogue.table
    alive = pa.array([item != gone for item in retriever.catalogue.item_ids])
    column = fields.schema.get_field_index("alive")
    shop = Catalogue(fields.set_column(column, "alive", alive), retriever.catalogue.lineage)
    with_tombstone = Retriever(
        retriever.model, retriever.index, retriever.sids, shop, precision="fp32"
    )
    everything = with_tombstone.search("towel", k=64)
    assert len(everything) == 63
    assert gone not in {r.item_id for r in everything}


def test_a_shop_of_one_item_and_one_of_a_single_sid(retriever):
    model = retriever.model
    one = found(toy.catalogue().table.slice(0, 1))
    sids = table(1)
    assert [
        r.item_id for r in Retriever(model, PrefixIndex.build(sids), sids, one).search("x")
    ] == ["T000"]
    same = SemanticIds(
        np.tile(np.array([[1, 2, 0]], np.int32), (64, 1)), np.full(64, 3, np.int32), SIZES
    )
    prior = np.arange(64, dtype=np.float32)
    shop = Retriever(model, PrefixIndex.build(same, prior), same, toy.catalogue(), precision="fp32")
    found_rows = [shop.catalogue.row(r.item_id) for r in shop.search("x", k=4)]
    assert found_rows == [63, 62, 61, 60]


# ---------------------------------------------------------------------- explain


def test_beams_level_by_level_are_what_was_searched(retriever):
    answer = retriever.explain("bath towel", k=5, beam=6)
    assert answer.results == retriever.search("bath towel", k=5, beam=6)
    assert [level.depth for level in answer.levels] == [1, 2, 3]
    assert [level.followed for level in answer.levels] == [6, 6, 6]
    assert [level.live for level in answer.levels] == list(retriever.index.n_prefixes[1:])
    prompt = retriever.model.prompts.encode(Prompt("bath towel"), retriever.sids)
    state = retriever._scorer.prefill([prompt])
    first = retriever._scorer.first(state)[0].exp()
    level = answer.levels[0]
    assert [p.probability for p in level.prefixes] == pytest.approx(
        first.sort(descending=True)[0][:6].tolist(), rel=1e-4
    )
    assert level.mass == pytest.approx(sum(p.probability for p in level.prefixes), rel=1e-5)
    for level in answer.levels:
        for prefix in level.prefixes:
            below = (retriever.sids.codes[:, : level.depth] == prefix.codes).all(axis=1)
            assert prefix.items == below.sum()
            assert prefix.sids == len(np.unique(retriever.sids.codes[below], axis=0))
            assert prefix.label == toy.catalogue().item(int(below.argmax()))["category"][-1]
            assert prefix.share == 1.0
            assert prefix.example in toy.catalogue().column("title")
            assert prefix.ranks == tuple(
                r.rank for r in answer.results if r.sid[: level.depth] == prefix.codes
            )
    ends = {p.codes: p.logp for p in answer.levels[-1].prefixes}
    assert all(ends[r.sid] == pytest.approx(r.score, abs=1e-5) for r in answer.results)
    assert answer.timing_ms["total"] >= answer.timing_ms["prefill"] + answer.timing_ms["decode"] > 0
    exact = retriever.explain("bath towel", k=5, exact=True)
    assert {r.sid[:1] for r in exact.results} <= {p.codes for p in exact.levels[0].prefixes}


def test_beams_of_ids_of_different_lengths(run, tmp_path):
    sids = table()
    codes, lengths = sids.codes.copy(), sids.lengths.copy()
    codes[:8, 2], lengths[:8] = -1, 2
    codes[8:16, 1:], lengths[8:16] = -1, 1
    ragged = SemanticIds(codes, lengths, SIZES)
    retriever = Retriever.load(
        write_bundle(write_stages(tmp_path / "run", sids=ragged)), precision="fp32"
    )
    answer = retriever.explain("x", k=64, beam=64)
    assert len(answer.results) == 64
    assert {len(r.sid) for r in answer.results} == {1, 2, 3}
    for level in answer.levels:
        for prefix in level.prefixes:
            below = (codes[:, : level.depth] == prefix.codes).all(axis=1)
            assert prefix.items == below.sum()
            assert prefix.sids == len(np.unique(codes[below], axis=0))


def test_common_category_is_the_deepest_that_half_agree_on():
    paths = [("Home", "Bath"), ("Home", "Bath"), ("Home", "Kitchen"), ("Garden",)]
    assert common_category(paths) == ("Bath", 0.5)
    assert common_category([*paths, ()]) == ("Home", 0.6)
    assert common_category([("A",), ("B",), ("C",)]) == ("", 0.0)
    assert common_category([]) == ("", 0.0)


def test_the_code_in_docs_serving_runs(bundle, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
    shutil.copytree(bundle, tmp_path / "runs" / "run" / "bundle")
    shutil.copytree(bundle, tmp_path / "sft-bundle")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/serving.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_searching_warns_of_nothing_and_ranks_by_the_prompt_with_its_history(retriever):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = retriever.search("towel", k=5, beam=64, history=["T203"])
    row = retriever.catalogue.row("T203")
    number = retriever.index.lookup(retriever.sids.codes)
    share = 1 / np.bincount(number)[number]  # without clicks, items of one SID share it evenly
    best = []
    for history in ((row,), ()):
        prompt = retriever.model.prompts.encode(Prompt("towel", history), retriever.sids)
        exact = score_all(retriever._scorer, [prompt], retriever.index)[0].numpy()
        best.append(np.sort(exact[number] + np.log(share))[::-1][:5].tolist())
    assert [r.score for r in results] == pytest.approx(best[0], abs=1e-5)
    assert [r.score for r in results] != pytest.approx(best[1], abs=1e-3)


def _shifted():
    """The fields of another SID table over the same items and codebooks."""
    sids = table()
    return np.roll(sids.codes, 9, axis=0), sids.lengths, SIZES, "toy", "toy-2"
