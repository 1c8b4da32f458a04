"""The stages embed → sid → index on the toy shop, through the real data stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sidar import data, embed, index, sid
from sidar.config import Config, load_config
from sidar.data import toy
from sidar.index import PrefixIndex
from sidar.types import SidInputs


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A run folder of the toy shop with data, embed, sid and index."""
    folder = tmp_path_factory.mktemp("shop")
    toy.write_inputs(folder / "inputs")
    cfg = load_config(
        None,
        [
            f"catalogue.path={folder / 'inputs/catalogue.parquet'}",
            f"events.path={folder / 'inputs/events.parquet'}",
            "embed.model=hashing:64",
            "device=cpu",
        ],
    )
    for stage in ("data", "embed", "sid", "index"):
        (folder / stage).mkdir()
    data.build(cfg, folder / "data")
    embed.build(cfg, folder / "data", folder / "embed")
    sid.build(cfg, folder / "data", folder / "embed", folder / "sid")
    index.build_stage(cfg, folder / "sid", folder / "data", folder / "index")
    return cfg, folder


def test_embed_leaves_vectors_and_says_of_what(shop: tuple[Config, Path]) -> None:
    cfg, folder = shop
    items = embed.load_items(folder / "embed")
    assert isinstance(items, np.memmap)
    texts = embed.item_texts(data.open_dataset(folder / "data").catalogue, cfg.embed.fields)
    np.testing.assert_array_equal(items, embed.HashingEmbedder(64).encode(texts))
    about = json.loads((folder / "embed" / "embedder.json").read_text())
    assert about["fingerprint"] == "hashing-1-64"
    assert about["items"] == 64
    again = embed.build(cfg, folder / "data", folder / "embed")
    assert again["newly_embedded"] == 0


def test_sid_leaves_table_tokenizer_and_quality(shop: tuple[Config, Path]) -> None:
    _, folder = shop
    catalogue = data.open_dataset(folder / "data").catalogue
    sids = sid.load_sids(folder / "sid" / "sids.parquet", catalogue.item_ids)
    tokenizer = sid.load_tokenizer(folder / "sid")
    found = tokenizer.encode(SidInputs(embed.load_items(folder / "embed")))
    np.testing.assert_array_equal(found.codes, sids.codes)
    assert sids.codebook_sizes == (16, 8, 4)
    quality = json.loads((folder / "sid" / "quality.json").read_text())
    assert quality["items"] == 64
    assert quality["pairs"]["pairs"] > 100
    assert {row["category_depth"] for row in quality["purity"]} == {1, 2, 3}
    shelf = next(r for r in quality["purity"] if (r["prefix_depth"], r["category_depth"]) == (1, 3))
    assert shelf["purity"] > shelf["chance"] + 0.2
    assert quality["sizes_tried"].keys() == {"16/8/4"}
    assert (folder / "sid" / "quality.png").stat().st_size > 10_000


def test_index_orders_items_by_clicks_and_then_by_prior(shop: tuple[Config, Path]) -> None:
    _, folder = shop
    dataset = data.open_dataset(folder / "data")
    sids = sid.load_sids(folder / "sid" / "sids.parquet", dataset.catalogue.item_ids)
    loaded = PrefixIndex.load(folder / "index")
    priors = dataset.priors()
    numbers = loaded.lookup(sids.codes)
    assert (numbers >= 0).all()
    for number in range(len(loaded)):
        rows = loaded.rows[loaded.rows_start[number] : loaded.rows_start[number + 1]]
        assert set(rows) == set(np.flatnonzero(numbers == number))
        order = list(zip(priors.clicks[rows], priors.prior[rows], strict=True))
        assert order == sorted(order, reverse=True)


def test_stages_are_deterministic(shop: tuple[Config, Path], tmp_path: Path) -> None:
    cfg, folder = shop
    sid.build(cfg, folder / "data", folder / "embed", tmp_path)
    for name in ("codebooks.safetensors", "sids.parquet", "quality.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (folder / "sid" / name).read_bytes()


def test_retired_items_keep_no_sid(
    shop: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, folder = shop
    dataset = data.open_dataset(folder / "data")
    table = dataset.catalogue.table
    alive = np.arange(64) % 5 != 2
    place = table.column_names.index("alive")
    retired = replace(dataset.catalogue, table=table.set_column(place, "alive", pa.array(alive)))
    monkeypatch.setattr(data.Dataset, "catalogue", retired)
    sid.build(cfg, folder / "data", folder / "embed", tmp_path)
    sids = sid.load_sids(tmp_path / "sids.parquet", retired.item_ids)
    np.testing.assert_array_equal(sids.lengths > 0, alive)
    index.build_stage(cfg, tmp_path, folder / "data", tmp_path)
    assert sorted(PrefixIndex.load(tmp_path).rows) == np.flatnonzero(alive).tolist()


def test_vectors_of_another_catalogue_and_broken_ones(
    shop: tuple[Config, Path], tmp_path: Path
) -> None:
    cfg, folder = shop
    items = np.array(embed.load_items(folder / "embed"))
    np.save(tmp_path / "items.npy", items[:60])
    with pytest.raises(
        ValueError, match="has 60 vectors, the catalogue 64 items; run `sidar embed`"
    ):
        sid.build(cfg, folder / "data", tmp_path, tmp_path)
    items[33, 0] = np.nan
    np.save(tmp_path / "items.npy", items)
    with pytest.raises(ValueError, match="row 33 is not finite"):
        sid.build(cfg, folder / "data", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="sidar embed"):
        embed.load_items(tmp_path / "nowhere")
