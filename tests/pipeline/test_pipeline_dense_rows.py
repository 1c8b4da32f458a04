"""The dense rows of a report: which there are, that the indexed one is kept and made again when it
must be.
"""

import numpy as np
import pytest
from tiny_encoder import save_tiny_encoder

from sidar.artifacts import read_manifest, write_artifact
from sidar.config import Config, EmbedConfig
from sidar.embed import HashingEmbedder, TowerEmbedder, load_embedder
from sidar.embed.encoder import load_sentence_transformer
from sidar.evaluate.claims import pairs
from sidar.evaluate.systems import default_fusions
from sidar.pipeline.plan import stages
from sidar.pipeline.rows.dense_rows import channels, dense_rows
from sidar.types import Prompt

TEXTS = [
    f"{colour} {what} {size}"
    for colour in ("red", "blue", "green")
    for what in ("mug", "pan")
    for size in "sml"
]
ALIVE = np.arange(len(TEXTS)) != 3
PROMPTS = [Prompt("red mug"), Prompt("green pan l")]


@pytest.mark.parametrize(
    ("index", "n", "two_views", "want"),
    [
        ("exact", 10**7, True, (True, False)),
        ("ivf", 10, False, (False, True)),
        ("both", 10, False, (True, True)),
        ("auto", 100_000, False, (True, False)),
        ("auto", 100_001, False, (False, True)),
        ("auto", 10, True, (True, True)),
        ("auto", 10**6, True, (False, True)),
    ],
)
def test_which_rows_there_are(index, n, two_views, want):
    assert channels(index, n, two_views) == want


def embedded(run, embedder, stage="embed"):
    with write_artifact(run / stage, stage, config={}) as draft:
        np.save(draft.path / "items.npy", embedder.encode(TEXTS))
        if isinstance(embedder, TowerEmbedder):
            np.save(draft.path / "items_query.npy", embedder.items_as_queries.encode(TEXTS))
    return embedder


def rows_of(run, embedder, **dense):
    cfg = Config.model_validate({"dense": {"index": "both", "lists": 4, "nprobe": 4, **dense}})
    return dense_rows(cfg, run / "embed", embedder, ALIVE)


def test_both_rows_find_the_same_when_all_lists_are_probed(tmp_path):
    embedder = embedded(tmp_path, HashingEmbedder(16))
    rows = rows_of(tmp_path, embedder)
    assert list(rows) == ["dense", "dense-ivf"]
    exact, ivf = (row.hits(PROMPTS, 6) for row in rows.values())
    np.testing.assert_array_equal(exact.rows, ivf.rows)
    np.testing.assert_allclose(exact.scores, ivf.scores, atol=1e-6)
    assert 3 not in ivf.rows
    assert "4 of 4 lists" in rows["dense-ivf"].about
    assert "exact" in rows["dense"].about
    few = rows_of(tmp_path, embedder, nprobe=1)["dense-ivf"].hits(PROMPTS, 17)
    assert (few.rows == -1).any()  # one list does not hold all items


def test_towers_are_asked_by_f_q_and_scored_against_f_i(tmp_path):
    query, item = (
        load_sentence_transformer(str(save_tiny_encoder(tmp_path / str(s), s)), "cpu")
        for s in (0, 1)
    )
    towers = embedded(tmp_path, TowerEmbedder(query, item, precision="fp32"))
    rows = rows_of(tmp_path, towers, index="auto")
    scores = towers.queries.encode([p.query for p in PROMPTS]) @ towers.items.encode(TEXTS).T
    scores[:, 3] = -np.inf
    want = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    for row in rows.values():
        np.testing.assert_array_equal(row.hits(PROMPTS, 5).rows, want)
    index = rows["dense-ivf"].channel.index
    assert index.coarse_view == "query"
    nearest = np.linalg.norm(
        towers.items_as_queries.encode(TEXTS)[:, None] - index.centroids[None], axis=2
    ).argmin(1)
    assert index.lists[ALIVE].tolist() == nearest[ALIVE].tolist()


def test_an_index_is_kept_until_its_vectors_or_options_change(tmp_path):
    embedder = embedded(tmp_path, HashingEmbedder(16))

    def made():
        manifest = read_manifest(tmp_path / ".dense-index" / "embed")
        return manifest and (
            manifest.hash,
            (tmp_path / ".dense-index/embed/dual_view.safetensors").stat().st_mtime_ns,
        )

    rows_of(tmp_path, embedder)
    assert made() is None  # a row that nobody asks for costs nothing
    rows_of(tmp_path, embedder)["dense-ivf"].hits(PROMPTS, 3)
    first = made()
    rows_of(tmp_path, embedder, nprobe=2)["dense-ivf"].hits(PROMPTS, 3)
    assert made() == first  # nprobe is a matter of searching
    rows_of(tmp_path, embedder, lists=5)["dense-ivf"].hits(PROMPTS, 3)
    assert made() != first
    rows_of(tmp_path, embedder)["dense-ivf"].hits(PROMPTS, 3)
    assert made()[0] == first[0]
    other = embedded(tmp_path, HashingEmbedder(24))
    assert rows_of(tmp_path, other)["dense-ivf"].hits(PROMPTS, 3).rows.shape == (2, 3)
    assert made()[0] != first[0]


def test_without_an_exact_row_the_indexed_one_takes_its_place():
    systems = ["bm25", "dense-ivf", "dense-tuned", "dense-tuned-ivf", "sft"]
    assert list(default_fusions(systems, ["sft"])) == [
        "bm25+dense-ivf",
        "bm25+dense-ivf+sft",
        "bm25+dense-tuned",
        "bm25+dense-tuned+sft",
    ]
    asked = pairs(["sft"], {}, systems).values()
    assert [each[0][1] for each in asked] == ["dense-ivf", "dense-tuned"]


def test_the_index_is_no_part_of_the_training_of_the_encoder():
    by_name = {stage.name: stage for stage in stages(Config(), dense=True)}
    assert {key for key in by_name["evaluate"].keys if key.startswith("dense.")} == {
        "dense.index",
        "dense.coarse_view",
        "dense.lists",
        "dense.nprobe",
    }
    trained = {key for key in by_name["dense"].keys if key.startswith("dense.")}
    assert {"dense.steps", "dense.towers", "dense.swap"} <= trained
    assert not trained & {*by_name["evaluate"].keys}


def test_towers_that_are_trained_again_make_their_vectors_stale(tmp_path):
    cfg = Config.model_validate(
        {"embed": {"model": str(tmp_path / "towers")}, "runs": str(tmp_path)}
    )
    stage = next(stage for stage in stages(cfg) if stage.name == "embed")
    before = stage.input_hashes(cfg, cfg.run_dir)
    assert list(before) == ["data"]
    query, item = (
        load_sentence_transformer(str(save_tiny_encoder(tmp_path / str(s), s)), "cpu")
        for s in (0, 1)
    )
    TowerEmbedder(query, item).save(tmp_path / "towers")
    first = stage.input_hashes(cfg, cfg.run_dir)
    assert first["file:towers"]
    TowerEmbedder(item, query).save(tmp_path / "towers")
    assert stage.input_hashes(cfg, cfg.run_dir)["file:towers"] != first["file:towers"]
    assert isinstance(load_embedder(EmbedConfig(model=cfg.embed.model), "cpu"), TowerEmbedder)
