"""Two towers as an embedder: four views, a folder that opens by itself, and the embed stage with
both item views.
"""

import json

import numpy as np
import pytest
from tiny_encoder import save_tiny_encoder
from toy_stages import config

from sidar.config import EmbedConfig
from sidar.data import build as build_data
from sidar.data import open_dataset, toy
from sidar.embed import (
    HashingEmbedder,
    TowerEmbedder,
    build,
    item_texts,
    load_embedder,
    load_items,
    query_side,
)
from sidar.embed.encoder import load_sentence_transformer
from sidar.embed.towers import FILE, TowerView

TEXTS = ["red steel mug", "blue mug", "a towel for the kitchen"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return [save_tiny_encoder(folder / str(seed), seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def folder(encoders, tmp_path_factory):
    query, item = (load_sentence_transformer(str(path), "cpu") for path in encoders)
    out = tmp_path_factory.mktemp("towers") / "model"
    TowerEmbedder(query, item, precision="fp32").save(out)
    return out


def opened(folder, **options):
    return load_embedder(EmbedConfig(model=str(folder), dtype="fp32", **options), "cpu")


def test_a_folder_of_towers_opens_as_an_embedder_with_four_views(folder, encoders):
    towers = opened(folder)
    f_q, f_i = (opened(path) for path in encoders)
    assert isinstance(towers, TowerEmbedder)
    assert towers.dim == 16
    for view, encoder, prefix in (
        (towers.queries, f_q, "[Q] "),
        (towers.items, f_i, "[I] "),
        (towers.items_as_queries, f_q, "[I] "),
        (towers.queries_as_items, f_i, "[Q] "),
    ):
        np.testing.assert_allclose(
            view.encode(TEXTS), encoder.encode([prefix + text for text in TEXTS]), atol=1e-6
        )
    np.testing.assert_array_equal(towers.encode(TEXTS), towers.items.encode(TEXTS))
    assert towers.encode([]).shape == (0, 16)


def test_each_view_has_its_own_fingerprint_and_a_folder_keeps_it(folder):
    first, again = opened(folder), opened(folder)
    views = ("queries", "items", "items_as_queries", "queries_as_items")
    names = [getattr(first, view).fingerprint for view in views]
    assert len({*names, first.fingerprint}) == 5
    assert names == [getattr(again, view).fingerprint for view in views]
    assert first.fingerprint == again.fingerprint
    assert TowerView(first.items.encoder, "item: ").fingerprint != first.items.fingerprint


def test_two_towers_have_twice_the_parameters_of_one_and_nothing_else(folder, encoders):
    def count(model):
        return sum(parameter.numel() for parameter in model.parameters())

    assert count(opened(folder).model) == 2 * count(opened(encoders[0]).model)


def test_queries_are_encoded_by_the_query_tower_whatever_view_the_items_have(folder):
    towers = opened(folder)
    queries = towers.queries.encode(TEXTS)
    items, seen = towers.items.encode(TEXTS), towers.items_as_queries.encode(TEXTS)
    for view in ("item", "query"):
        np.testing.assert_array_equal(query_side(towers, view).encode(TEXTS), queries)
    doubled = query_side(towers, "both").encode(TEXTS)
    both = np.concatenate([seen, items], axis=1) / np.sqrt(2)
    np.testing.assert_allclose(np.linalg.norm(doubled, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        doubled @ both.T, (queries @ seen.T + queries @ items.T) / 2, atol=1e-6
    )
    single = HashingEmbedder(8)
    assert query_side(single) is single


def test_what_needs_two_towers_says_how_to_get_them(folder, encoders):
    with pytest.raises(
        ValueError, match=r"sid.view 'query' needs an encoder with two towers.*dense.towers=two"
    ):
        query_side(HashingEmbedder(8), "query")
    with pytest.raises(ValueError, match="view 'items' is not one of"):
        query_side(opened(folder), "items")
    model = load_sentence_transformer(str(encoders[0]), "cpu")
    with pytest.raises(ValueError, match=r"dense\.towers: tied"):
        TowerEmbedder(model, model)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "does not describe two towers"),
        ('{"format": 9}', "format 9"),
        ('{"format": 1}', "query_prefix"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, text, says):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*{says}.*tune-dense"):
        opened(tmp_path)


def test_a_tower_that_is_missing_is_named(folder, tmp_path):
    (tmp_path / FILE).write_text((folder / FILE).read_text())
    with pytest.raises(ValueError, match=r"query.*cannot be loaded"):
        opened(tmp_path)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    toy.write_inputs(out / "inputs")
    cfg = config(out / "inputs")
    cfg.embed = EmbedConfig(model=str(folder), dtype="fp32")
    build_data(cfg, out / "data")
    (out / "embed").mkdir()
    return cfg, out, build(cfg, out / "data", out / "embed")


def test_the_embed_stage_leaves_the_items_in_both_views(run, folder):
    cfg, out, report = run
    towers, texts = (
        opened(folder),
        item_texts(open_dataset(out / "data").catalogue, cfg.embed.fields),
    )
    np.testing.assert_allclose(load_items(out / "embed"), towers.items.encode(texts), atol=1e-6)
    np.testing.assert_allclose(
        load_items(out / "embed", "query"), towers.items_as_queries.encode(texts), atol=1e-6
    )
    both = load_items(out / "embed", "both")
    np.testing.assert_allclose(both[:, 16:] * np.sqrt(2), load_items(out / "embed"), atol=1e-6)
    assert report["newly_embedded"] == 2 * len({*texts})
    assert (
        json.loads((out / "embed" / "embedder.json").read_text())["fingerprint"]
        == towers.fingerprint
    )
    (out / "again").mkdir()
    assert build(cfg, out / "data", out / "again")["newly_embedded"] == 0
    np.testing.assert_array_equal(
        load_items(out / "again", "query"), load_items(out / "embed", "query")
    )


def test_one_encoder_leaves_one_view(run, tmp_path):
    cfg, out, _ = run
    cfg = cfg.model_copy(update={"embed": EmbedConfig(model="hashing:8")})
    build(cfg, out / "data", tmp_path)
    assert load_items(tmp_path).shape == (64, 8)
    for view in ("query", "both"):
        with pytest.raises(ValueError, match="one view of the items"):
            load_items(tmp_path, view)
    with pytest.raises(ValueError, match="sidar embed"):
        load_items(tmp_path / "none", "query")
