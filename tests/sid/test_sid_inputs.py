"""What the SID stage gives to tokenizers that ask for queries: those of training days.

The others cost nothing more.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_leaks import leaked, switch_off, write_typed_sets

from sidar import data, embed, pipeline, sid
from sidar.artifacts import write_artifact
from sidar.config import Config, load_config
from sidar.data import toy
from sidar.embed.cache import VectorCache, text_keys
from sidar.sid import stage
from sidar.sid.autoencoders.fit import AutoencoderFit
from sidar.sid.inputs import logged_queries, query_inputs
from sidar.sid.tokenizer import tokenizer_class
from sidar.types import SidInputs

DAY = 86_400_000_000
TRAINED = [
    "sid.cqsid.hidden=[16]",
    "sid.cqsid.latent=8",
    "sid.cqsid.steps=30",
    "sid.cqsid.log_every=10",
    "sid.cqsid.checkpoint_every=10",
    "sid.cqsid.precision=fp32",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Folder with the toy shop's data and embed; on days 7 and 8 every query is one that no
    training day has, and of what is typed on training days a part is in sets of judged and
    simulated queries."""
    folder = tmp_path_factory.mktemp("shop")
    toy.write_inputs(folder / "inputs")
    path = folder / "inputs" / "events.parquet"
    events = pq.read_table(path)
    late = np.asarray(events.column("ts")) >= toy.FIRST_DAY + 6 * DAY
    queries = [
        f"leak {q}" if is_late and q else q
        for q, is_late in zip(events["query"].to_pylist(), late, strict=True)
    ]
    place = events.column_names.index("query")
    pq.write_table(
        events.set_column(place, "query", pa.array(queries, events.schema.field("query").type)),
        path,
    )
    told = [
        f"catalogue.path={folder / 'inputs/catalogue.parquet'}",
        f"events.path={path}",
        f"runs={folder / 'runs'}",
        "embed.model=hashing:32",
        "device=cpu",
        "threads=1",
        f"evaluate.sets={json.dumps(write_typed_sets(folder / 'inputs'))}",
        *TRAINED,
    ]
    pipeline.run(load_config(None, told), only="embed")
    return folder / "runs" / "run", told


def build(
    run: tuple[Path, list[str]], out: Path, *overrides: str, work: Path | None = None
) -> dict:
    cfg = load_config(None, [*run[1], *overrides])
    out.mkdir()
    return sid.build(cfg, run[0] / "data", run[0] / "embed", out, work=work)


def cached(run: tuple[Path, list[str]]) -> VectorCache:
    (folder,) = (run[0] / ".embed.cache").iterdir()
    return VectorCache(folder, 32)


def test_queries_are_distinct_frequent_first_and_pairs_name_places() -> None:
    table = pa.table(
        {
            "query": ["Red  lamp", "red lamp", "desk", "", "desk", "red LAMP", "bed"],
            "positives": pa.array([[4, 2], [2], [7], [4], [0], [9], [2]], pa.list_(pa.int32())),
        }
    )
    rows = np.array([0, 2, 4, 7])  # row 9 has no SID
    queries, pairs = logged_queries(table, rows, 10)
    assert queries == ["red lamp", "desk", "bed"]
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 0], [1, 3], [2, 1]]
    queries, pairs = logged_queries(table, rows, 1)
    assert (queries, pairs.tolist()) == (["red lamp"], [[0, 1], [0, 2]])
    assert logged_queries(table.slice(3, 1), rows, 10)[1].shape == (0, 2)


def test_no_query_of_a_later_day_is_seen(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    dataset = data.open_dataset(run[0] / "data")
    late = {r.prompt.query for split in ("valid", "test") for r in dataset.requests(split)}
    early = {r.prompt.query for r in dataset.requests("train")}
    assert late
    assert all(query.startswith("leak ") for query in late - {""})
    assert not any(query.startswith("leak ") for query in early)
    before = len(cached(run))
    build(run, tmp_path / "sid", "sid.method=cqsid")
    keys = {" ".join(q.casefold().split()): q for q in early if q}
    after = cached(run)
    asked, pairs = logged_queries(dataset.sft(), np.arange(64), 10**6)
    assert set(asked) <= set(keys)
    # embedded through the cache
    assert not after.missing(text_keys([asked[q] for q in np.unique(pairs[:, 0])])).any()
    assert after.missing(text_keys([" ".join(q.casefold().split()) for q in late if q])).all()
    assert len(after) == before + len(np.unique(pairs[:, 0]))  # and nothing else was


def test_no_query_of_a_set_is_asked_for(
    run: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(folder: Path) -> tuple[list[str], data.Dataset]:
        dataset = data.open_dataset(folder)
        return logged_queries(dataset.sft(), np.arange(64), 10**6)[0], dataset

    queries, dataset = asked(run[0] / "data")
    assert len(queries) > 10
    assert not leaked(queries, dataset)
    switch_off(monkeypatch)  # with nothing held out, the check finds some
    data.build(load_config(None, run[1]), tmp_path / "data")
    assert len(leaked(*asked(tmp_path / "data"))) > 5


def test_the_vectors_are_those_of_a_search(run: tuple[Path, list[str]]) -> None:
    dataset = data.open_dataset(run[0] / "data")
    cfg = load_config(None, run[1])
    rows = np.arange(64)
    vectors, pairs = query_inputs(
        dataset.sft(), rows, 5, cfg.embed, run[0] / "embed", "item", "cpu"
    )
    queries, named = logged_queries(dataset.sft(), rows, 5)
    np.testing.assert_array_equal(vectors, embed.HashingEmbedder(32).encode(queries))
    np.testing.assert_array_equal(pairs, named)


def test_a_tokenizer_that_does_not_ask_costs_nothing(
    run: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*args: object) -> None:
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr(embed, "load_embedder", nobody)
    monkeypatch.setattr(data.Dataset, "sft", nobody)
    report = build(run, tmp_path / "one")
    assert report["quality"].keys().isdisjoint({"fit", "notes", "collapse"})
    assert not (tmp_path / "one" / "fit.jsonl").exists()
    with pytest.raises(AssertionError, match="encoder"):
        build(run, tmp_path / "two", "sid.method=cqsid")


def test_a_log_without_clicks_loads_no_encoder_and_says_so(
    run: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = data.open_dataset(run[0] / "data").sft().slice(0, 0)
    monkeypatch.setattr(data.Dataset, "sft", lambda self: silent)
    monkeypatch.setattr(embed, "load_embedder", None)
    report = build(run, tmp_path / "sid", "sid.method=cqsid")
    assert any("without the query contrast" in note for note in report["quality"]["notes"])
    assert "without the query contrast" in report["summary"]


def test_the_stage_tells_of_the_fit_and_continues_a_killed_one(
    run: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(run, tmp_path / "whole", "sid.method=cqsid", work=tmp_path / "unused")
    quality = json.loads((tmp_path / "whole" / "quality.json").read_text())
    assert quality["fit"]["steps"] == 30
    assert {"error", "use_1", "perplexity_3", "contrast"} <= quality["fit"].keys()
    shelves = next(
        p for p in quality["purity"] if (p["prefix_depth"], p["category_depth"]) == (1, 3)
    )
    assert shelves["purity"] == 1.0
    assert (tmp_path / "whole" / "fit.png").stat().st_size > 20_000
    step = AutoencoderFit._step

    def dies(self: AutoencoderFit, number: int) -> tuple:
        if number == 25:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(AutoencoderFit, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        build(run, tmp_path / "killed", "sid.method=cqsid", work=tmp_path / "work")
    assert [str(p.relative_to(tmp_path / "work")) for p in (tmp_path / "work").glob("*/*")] == [
        "cqsid/16-8-4"
    ]
    monkeypatch.setattr(AutoencoderFit, "_step", step)
    # another method's work is no obstacle
    others = [f"{line.replace('cqsid', 'rqvae')}" for line in TRAINED]
    build(run, tmp_path / "other", "sid.method=rqvae", *others, work=tmp_path / "work")
    build(run, tmp_path / "again", "sid.method=cqsid", work=tmp_path / "work")
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == names
    for name in names:
        same = (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        assert same, name  # every file of the artefact, log and picture included
    assert whole["shapes"]["codebook_sizes"] == [16, 8, 4]


def test_the_pipeline_keeps_the_work_beside_the_stage(run: tuple[Path, list[str]]) -> None:
    cfg = load_config(None, [*run[1], "sid.method=cqsid"])
    report = pipeline.run(cfg, only="index")
    assert "cqsid" in (cfg.run_dir / "sid" / "tokenizer.json").read_text()
    assert not (cfg.run_dir / ".sid.work").exists()
    assert report["sid"]["quality"]["items"] == 64
    assert pipeline.run(cfg, only="index") == {}


@pytest.mark.parametrize("method", ["rqvae", "rqkmeans"])
def test_every_method_leaves_a_table(
    run: tuple[Path, list[str]], tmp_path: Path, method: str
) -> None:
    extra = [f"{line.replace('cqsid', 'rqvae')}" for line in TRAINED]
    build(
        run,
        tmp_path / "sid",
        f"sid.method={method}",
        "sid.category_first=true",
        "sid.codebook_sizes=[16, 8, 4]",
        *extra,
    )
    catalogue = data.open_dataset(run[0] / "data").catalogue
    sids = sid.load_sids(tmp_path / "sid" / "sids.parquet", catalogue.item_ids)
    assert (sids.method, sids.codebook_sizes) == (method, (16, 8, 4))
    tokenizer = sid.load_tokenizer(tmp_path / "sid")
    assert [book.shape for book in tokenizer.codebooks_] == [(16, 32), (8, 32), (4, 32)]


def test_a_broken_vector_names_the_item(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    items = np.array(embed.load_items(run[0] / "embed"))
    items[9, 0] = np.nan
    np.save(tmp_path / "items.npy", items)
    with pytest.raises(ValueError, match="the vector of item 'T101', row 9 is not finite"):
        sid.build(Config(), run[0] / "data", tmp_path, tmp_path)


@pytest.mark.parametrize("method", ["sarq", "acrq"])
def test_counts_are_requests_of_training_days_that_chose_the_item(
    run: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    dataset = data.open_dataset(run[0] / "data")
    clicks, shown = np.zeros(64, int), np.zeros(64, int)
    for request in dataset.requests("train"):
        for row, action in zip(request.rows, request.actions, strict=True):
            clicks[row] += action > 0
            shown[row] += 1
    assert (clicks < shown).mean() > 0.9
    given: list[SidInputs] = []
    tokenizer = tokenizer_class(method)

    def fit(self: object, inputs: SidInputs) -> None:
        given.append(inputs)
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        build(run, tmp_path / "sid", f"sid.method={method}")
    assert np.asarray(given[0].counts).tolist() == clicks.tolist()


def test_view_share_of_the_reference_and_margin_reach_the_stage(
    run: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run" / "embed"
    shutil.copytree(run[0] / "embed", folder)
    items = np.load(folder / "items.npy")
    np.save(folder / "items_query.npy", np.roll(items, 1, axis=1))
    cfg = load_config(
        None, [*run[1], "sid.view=query", "sid.reference=0.25", "sid.codebook_sizes=[8,4,4]"]
    )
    with write_artifact(
        tmp_path / "bundle" / "sid", "sid", config={"sid": cfg.sid.model_dump(mode="json")}
    ) as draft:
        draft.shapes |= sid.build(cfg, run[0] / "data", folder, draft.path)["shapes"]
    out = tmp_path / "bundle" / "sid"
    assert json.loads((out / "reference.json").read_text())["items"] == 16  # a quarter of 64
    seen_so = sid.load_tokenizer(out).encode(SidInputs(np.roll(items, 1, axis=1)))
    table = sid.load_sids(
        out / "sids.parquet", data.open_dataset(run[0] / "data").catalogue.item_ids
    )
    np.testing.assert_array_equal(table.codes, seen_so.codes)

    margins: list[float] = []
    refresh = stage.refresh

    def watched(*args: Any, margin: float) -> Any:
        margins.append(margin)
        return refresh(*args, margin=margin)

    monkeypatch.setattr(stage, "refresh", watched)
    cfg.warm_start, cfg.sid.keep_margin = str(tmp_path / "bundle"), 0.35
    (tmp_path / "again").mkdir()
    sid.build(cfg, run[0] / "data", folder, tmp_path / "again")
    assert margins == [0.35]
